"""Each role's Molecule scenario, run for real: create, prepare, converge, idempotence, verify, destroy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROLES = REPOSITORY / "collections" / "ansible_collections" / "q8s" / "emu" / "roles"
SCENARIOS = sorted(path.parent.name for path in (REPOSITORY / "molecule").glob("*/molecule.yml"))

# What these do, the cluster of test_demo.py does too; they take the longest.
LONG = {"control_plane": "seven minutes", "emulated_worker": "twelve minutes", "k8s_common": "four minutes"}

# What Molecule and Ansible pass over with a warning, though it means that something was not tested.
NOT_TESTED = {
    "no hosts matched": "a play had no hosts",
    "could not match supplied host pattern": "a play had no hosts",
    "missing playbook": "a step had no playbook",
}


def not_tested(output: str) -> list[str]:
    """Why an output that ends well is no proof."""
    plain = re.sub(r"\x1b\[[0-9;]*m|[│\s]+", " ", output)
    found = [reason for words, reason in NOT_TESTED.items() if words in re.sub(" +", " ", plain).lower()]
    recap = re.search(r"successful=(\d+) .*?skipped=(\d+) missing=(\d+)", re.sub(" +", " ", plain))
    if recap is None:
        found.append("there is no recap")
    elif recap[2] != "0" or recap[3] != "0":
        found.append(f"{recap[2]} steps were skipped, {recap[3]} had no playbook")
    return found


def _missing() -> str:
    """What this machine lacks for real hosts; empty if nothing."""
    if os.geteuid() != 0:
        return "only root may make hosts"
    return "" if Path("/dev/net/tun").exists() else "/dev/net/tun is missing"


@pytest.mark.parametrize("role", sorted(path.name for path in ROLES.iterdir() if path.is_dir()))
def test_each_role_has_a_scenario(role: str) -> None:
    assert role in SCENARIOS, f"make molecule/{role}/molecule.yml"


def test_nothing_untested_is_taken_for_success() -> None:
    good = (
        "\x1b[32mx\x1b[0m : \x1b[33mactions=8\x1b[0m  successful=8\x1b[0m  disabled=0  skipped=0  missing=0  failed=0"
    )
    assert not_tested(good) == []
    assert not_tested("") == ["there is no recap"]
    assert not_tested("skipping: no hosts\n  │ matched\n" + good) == ["a play had no hosts"]
    assert not_tested(good.replace("missing=0", "missing=1")) == ["0 steps were skipped, 1 had no playbook"]


@pytest.mark.molecule
@pytest.mark.skipif(bool(_missing()), reason=f"no Molecule scenario runs here: {_missing()}")
@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[pytest.mark.long(LONG[name])] if name in LONG else []) for name in SCENARIOS]
)
def test_scenario(scenario: str) -> None:
    programs = Path(sys.executable).parent
    done = subprocess.run(
        [programs / "molecule", "test", "--scenario-name", scenario],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # everything in a virtual machine is emulated
        timeout=7200 if os.environ.get("Q8S_MOLECULE_MACHINE") == "vm" else 1800,
        check=False,
    )
    end = "\n".join(done.stdout.splitlines()[-120:])
    assert done.returncode == 0, end
    assert not not_tested(done.stdout), f"{not_tested(done.stdout)}\n{end}"
