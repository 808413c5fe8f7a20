"""The command ``q8s-run``: it runs the playbooks and shows progress and results. It holds no deployment logic."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("q8s")
except PackageNotFoundError:  # the checkout is not installed as a package
    __version__ = "0+checkout"
