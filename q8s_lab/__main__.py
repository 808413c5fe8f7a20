"""``python -m q8s_lab`` is ``q8s-run lab``."""

import sys

from q8s_lab.cli import main

sys.exit(main(sys.argv[1:]))
