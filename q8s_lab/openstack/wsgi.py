"""Load the WSGI application that ``Q8S_APPLICATION`` names.

Keystone and Neutron parse ``sys.argv`` when they are imported, and would exit because of gunicorn's arguments.
"""

import importlib
import os
import sys

sys.argv = [os.environ["Q8S_APPLICATION"]]
application = importlib.import_module(os.environ["Q8S_APPLICATION"]).application
