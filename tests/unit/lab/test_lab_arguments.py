"""Wrong arguments of ``q8s-run lab host`` are refused before anything is started, with what is allowed."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from q8s_lab import cli
from q8s_lab.machine import Machine, Nic, Spec


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["we b"], "is 'we b'; allowed are lower-case letters"),
        (["$(id)"], "allowed are lower-case letters"),
        (["-web"], "required"),
        (["web", "--memory", "-3"], "is -3; allowed is a whole number of at least 256"),
        (["web", "--memory", "x"], "is x; allowed is a whole number"),
        (["web", "--key", "/nowhere"], "is /nowhere: No such file or directory"),
        (["web", "--key", __file__], "has no public key"),
    ],
)
def test_a_wrong_argument_is_named(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["host", "up", *words])
    assert ended.value.code == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_a_shell_reads_what_a_machine_is_started_with(tmp_path: Path) -> None:
    lower = tmp_path / "the lower one"
    (lower / "var").mkdir(parents=True)
    nic = Nic("10.0.0.5", 24, "10.0.0.1", "fa:16:3e:00:00:01", 1450)
    spec = Spec(
        name="q8s1",
        hostname="web",
        lower=str(lower),
        bridge="br0",
        nic=nic,
        memory=2048,
        vcpus=2,
        key="ssh-ed25519 AAAA someone\n",
        user_data=b"",
        proxy="http://10.0.0.1:3142",
        instance_id="uuid",
        metadata={},
    )
    made = Machine(tmp_path / "machine")
    made.create(replace(spec, hostname="a b; echo $HOME"))
    script = f'. {shlex.quote(str(made.folder / "runner.env"))}; printf "%s|%s" "$HOST" "$LOWER"'
    done = subprocess.run(["sh", "-uc", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"a b; echo $HOME|{lower}"
