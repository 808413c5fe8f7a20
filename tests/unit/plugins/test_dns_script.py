"""The script that keeps CoreDNS on control planes, with a kubectl of the test. tests/e2e does it on clusters."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane/files/dns.sh"
KUBECTL = """\
#!/bin/sh
case "$3 $4" in
    "patch deployment") echo "deployment.apps/coredns patched$PATCHED" ;;
    "get nodes") printf '%s' "$HAVE_NODES" ;;
    "get pods") printf '%s' "$HAVE_PODS" ;;
    *) echo "$3 $4 $5" >> "$CALLS" ;;
esac
"""
ONE, TWO = "True \n", "True \nTrue \n"


@pytest.mark.parametrize(
    ("nodes", "pods", "patched", "said"),
    [
        (ONE, "a cp\nb cp\n", "", ["deployment coredns"]),
        (ONE, "a cp\nb cp\n", " (no change)", []),
        (TWO, "a cp\nb cp\n", " (no change)", ["pod a"]),
        (TWO, "a cp\nb cp-2\n", " (no change)", []),
        # a single pod cannot be on two nodes, and one that waits for a node is on none
        (TWO, "a cp\n", " (no change)", []),
        (TWO, "a cp\nb \n", " (no change)", []),
        # the others cannot take it: not Ready, and cordoned
        ("True \nFalse \nTrue true\n", "a cp\nb cp\n", " (no change)", []),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_dns_goes_to_control_planes_and_to_different_ones(
    tmp_path: Path, nodes: str, pods: str, patched: str, said: list[str], check: bool
) -> None:
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    calls = tmp_path / "calls"
    given = {"KUBECTL": str(tmp_path / "kubectl"), "PATCH": "{}", "CHECK": "check" if check else ""}
    given |= {"NODES": "nodes", "PODS": "pods", "HAVE_NODES": nodes, "HAVE_PODS": pods, "CALLS": str(calls)}
    given["PATCHED"] = f"{patched} (server dry run)" if check else patched
    done = subprocess.run(["sh", SCRIPT], env={**os.environ, **given}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == said
    deleted = calls.read_text().splitlines() if calls.exists() else []
    assert deleted == (["delete pod a"] if said == ["pod a"] and not check else [])
