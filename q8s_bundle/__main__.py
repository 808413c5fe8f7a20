"""Entry point of ``python -m q8s_bundle``."""

import sys

from q8s_bundle.cli import main

sys.exit(main(sys.argv[1:]))
