"""The thin wrapper around the playbooks: input, progress and results; no deployment logic."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("q8s")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+checkout"
