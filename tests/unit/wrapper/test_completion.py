"""Shell completion: the candidates at each position, and the completion in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from q8s_wrapper import cli, completion
from q8s_wrapper.errors import ExitCode

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "demo.yaml")
NODES = ["demo-control-plane", "x86-small-1", "demo-x86-small-1", "arm-mid-1", "demo-arm-mid-1"]


@pytest.fixture(autouse=True)
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("Q8S_CLUSTER_FILE", raising=False)


DEPLOY = "--yes --check --limit --tags --list-tags --parallel --replace-control-plane --build --json".split()
DEPLOY += ["--verbose", "--quiet"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["de"], ["deploy", "destroy"]),
        (["la"], ["lab"]),
        (["deploy", ""], []),  # a file
        (["deploy", "--li"], ["--limit", "--list-tags"]),
        (
            ["deploy", "-"],
            ["--help", *DEPLOY],
        ),
        (["deploy", "--limit", ""], []),
        (["destroy", "--keep", ""], ["keypair", "security_group"]),
        (["destroy", EXAMPLE, "--keep", "keypair", "--keep", "s"], ["security_group"]),
        (["destroy", "--keep", "keypair", EXAMPLE, ""], []),
        (["ssh", EXAMPLE, ""], NODES),
        (["ssh", EXAMPLE, "arm"], ["arm-mid-1"]),
        (["ssh", EXAMPLE, "arm-mid-1", ""], []),
        (["ssh", EXAMPLE, "arm-mid-1", "--", "l"], []),
        (["logs", "--lines", "5", EXAMPLE, "demo-a"], ["demo-arm-mid-1"]),
        (["validate", EXAMPLE, ""], []),
        (["ssh", "nowhere.yaml", ""], []),
        (["completion", "f"], ["fish"]),
        (["frobnicate", ""], []),
        ([], [*dict.fromkeys(command.name.split()[0] for command in completion.COMMANDS), "lab", "bundle"]),
        (["link", ""], ["show", "verify", "set", "clear"]),
        (["link", "set", ""], []),
        (["link", "show", "--j"], ["--json"]),
    ],
)
def test_what_may_stand_here(words: list[str], found: list[str]) -> None:
    assert completion.candidates(words) == found


def test_nodes_of_the_file_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_CLUSTER_FILE", EXAMPLE)
    assert completion.candidates(["ssh", "arm"]) == ["arm-mid-1"]


def test_a_file_with_mistakes_has_no_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    assert cli.main(["_complete", "ssh", str(tmp_path / "bad.yaml"), ""]) == ExitCode.DONE
    assert capsys.readouterr() == ("\n", "")


def environment() -> dict[str, str]:
    """Variables with which a shell finds q8s-run."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_bash_completes_a_nodes_name() -> None:
    script = """\
        source <(q8s-run completion bash)
        COMP_WORDS=(q8s-run ssh "$1" arm)
        COMP_CWORD=3
        _q8s_run
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", EXAMPLE], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout == "arm-mid-1\n", done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not on this machine")
def test_fish_completes_a_nodes_name() -> None:
    script = f'q8s-run completion fish | source; complete -C "q8s-run ssh {EXAMPLE} arm"'
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == "arm-mid-1\n", done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not on this machine")
def test_zsh_completes_a_nodes_name() -> None:
    zsh = pexpect.spawn("zsh", ["-f", "-i"], encoding="utf-8", timeout=60, env={**environment(), "TERM": "dumb"})
    # the two halves of the word, so that what it echoes is not taken for what it says
    zsh.sendline("autoload -Uz compinit; compinit -D; source <(q8s-run completion zsh); echo so''urced")
    zsh.expect("sourced")
    zsh.send(f"q8s-run ssh {EXAMPLE} arm\t")
    zsh.expect("arm-mid-1")
    zsh.close(force=True)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_scripts_are_good(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    script = tmp_path / "script"
    script.write_text(completion.script(shell) or "")
    subprocess.run([shell, "-n", script], check=True)


def test_no_such_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == ExitCode.WRONG_INPUT
    assert "allowed are bash, zsh, fish" in capsys.readouterr().err
