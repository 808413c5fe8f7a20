"""``python -m lab`` is ``q8s-run lab``."""

import sys

from lab.cli import main

sys.exit(main(sys.argv[1:]))
