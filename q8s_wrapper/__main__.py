"""``python -m q8s_wrapper`` is ``q8s-run``."""

from q8s_wrapper.cli import entry

entry()
