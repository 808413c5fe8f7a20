"""A network namespace, whose rules and interfaces are nobody's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def namespace() -> Iterator[int]:
    """A network namespace; gives the id of the process that holds it."""
    if os.geteuid() != 0 or not shutil.which("iptables") or not shutil.which("nsenter"):
        pytest.skip("needs root, iptables and nsenter for rules in a network namespace")
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.skip("this machine gives no network namespaces")
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
