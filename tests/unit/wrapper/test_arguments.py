"""The arguments as they are typed: wrong ones, and the default cluster file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from q8s_wrapper import arguments, cli
from q8s_wrapper.errors import ExitCode

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder; no setting of the user's counts."""
    for name in [name for name in os.environ if name.startswith(("Q8S_", "OS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [["--verbose"], ["ssh", "a.yaml"], ["deploy", "a.yaml", "--frobnicate"]])
def test_wrong_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == ExitCode.WRONG_INPUT
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ") and second.startswith("hint: q8s-run") and second.endswith(" --help")


@pytest.mark.parametrize(
    ("given", "words", "default"),
    [
        (["deploy"], ["deploy", "cluster.yaml"], True),
        (["deploy", "--limit", "arm-mid-1"], ["deploy", "cluster.yaml", "--limit", "arm-mid-1"], True),
        (["deploy", "--lim", "arm-mid-1", "-v"], ["deploy", "cluster.yaml", "--lim", "arm-mid-1", "-v"], True),
        (["deploy", "other.yaml"], ["deploy", "other.yaml"], False),
        (["ssh", "arm-mid-1"], ["ssh", "cluster.yaml", "arm-mid-1"], True),
        (["ssh", "other.yaml", "arm-mid-1"], ["ssh", "other.yaml", "arm-mid-1"], False),
        (["ssh", "other.yaml"], ["ssh", "other.yaml"], False),  # the parser says that NODE is missing
        (["ssh", "here"], ["ssh", "here"], False),  # there is a file of that name
        (["logs"], ["logs", "cluster.yaml"], True),
        (["logs", "-n", "5", "arm-mid-1"], ["logs", "cluster.yaml", "-n", "5", "arm-mid-1"], True),
        (["logs", "-n5", "other.yml"], ["logs", "-n5", "other.yml"], False),
        (["logs", "sub/file"], ["logs", "sub/file"], False),
        (["replace", "arm-mid-1", "--yes"], ["replace", "cluster.yaml", "arm-mid-1", "--yes"], True),
        (["record", "results/rec"], ["record", "cluster.yaml", "results/rec"], True),
        (["record", "other.yaml", "./rec"], ["record", "other.yaml", "./rec"], False),
        (["record", "other.yaml"], ["record", "other.yaml"], False),
        (["init"], ["init", "cluster.yaml"], True),
        (["init", "-"], ["init", "-"], False),
        (["list"], ["list"], False),
        (["deploy", "--help"], ["deploy", "--help"], False),
    ],
)
def test_the_default_file(given: list[str], words: list[str], default: bool, tmp_path: Path) -> None:
    for name in ("cluster.yaml", "here"):
        (tmp_path / name).touch()
    assert arguments.insert_cluster_file(given) == (words, default)


def test_no_default_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ssh", "arm-mid-1"]) == ExitCode.WRONG_INPUT
    err = capsys.readouterr().err
    assert err.startswith(
        "error: ssh: no cluster file was given, and this folder has no cluster.yaml (arm-mid-1 is taken"
    )
    assert "hint: pass FILE, set Q8S_CLUSTER_FILE, or write one: q8s-run init cluster.yaml" in err
    assert arguments.insert_cluster_file(["init"]) == (["init", "cluster.yaml"], True)


def test_the_default_file_is_said_and_left_out_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.yaml").write_text(EXAMPLE.read_text())
    assert cli.main(["validate"]) == ExitCode.DONE
    assert capsys.readouterr() == ("cluster.yaml: OK\n", "cluster file: cluster.yaml\n")
    assert cli.main(["validate", "--quiet"]) == ExitCode.DONE
    assert capsys.readouterr() == ("cluster.yaml: OK\n", "")
    assert cli.main(["destroy"]) == ExitCode.WRONG_INPUT
    assert "hint: q8s-run destroy --yes\n" in capsys.readouterr().err


def test_the_file_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_CLUSTER_FILE", str(EXAMPLE))
    assert cli.main(["validate"]) == ExitCode.DONE
    assert capsys.readouterr() == (f"{EXAMPLE}: OK\n", f"cluster file: {EXAMPLE} (Q8S_CLUSTER_FILE)\n")
    # Without the file, the printed command would be about another cluster where the variable is not set.
    assert cli.main(["destroy"]) == ExitCode.WRONG_INPUT
    assert f"hint: q8s-run destroy {EXAMPLE} --yes\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["replace", "nix", "--yes"], "nix is not a worker of this cluster; allowed are x86-small-1, arm-mid-1"),
        (["replace", "arm-mid-1"], "--yes is needed"),
        (["upgrade"], "--yes is needed"),
        (["upgrade", "--yes", "--parallel", "0"], "--parallel: is 0; allowed is a whole number of at least 1"),
        (["destroy"], "--yes is needed"),
    ],
)
def test_what_the_command_line_lacks_is_told_without_asking_the_cloud(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([words[0], str(EXAMPLE), *words[1:]]) == ExitCode.WRONG_INPUT
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [["deploy", "--parallel"], ["conformance", "--parallel"], ["logs", "-n"]])
@pytest.mark.parametrize("value", ["0", "-57", "x"])
def test_a_number_is_at_least_one(words: list[str], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main([words[0], str(EXAMPLE), f"{words[1]}={value}" if words[1][1] == "-" else f"{words[1]}{value}"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == ExitCode.WRONG_INPUT
    assert "allowed is a whole number of at least 1" in " ".join(capsys.readouterr().err.split())


def test_a_number_of_a_variable_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_PARALLEL", "0")
    assert cli.main(["deploy", str(EXAMPLE)]) == ExitCode.WRONG_INPUT
    assert "Q8S_PARALLEL: is 0; allowed is a whole number of at least 1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["deploy", "--lmit", "arm"], "deploy does not take --lmit arm; the nearest option is --limit"),
        (["validate", "--", "x"], "validate takes nothing after --"),
    ],
)
def test_what_a_command_does_not_take_is_told_with_its_own_help(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([words[0], str(EXAMPLE), *words[1:]])
    assert ended.value.code == ExitCode.WRONG_INPUT
    assert capsys.readouterr().err.splitlines() == [f"error: {reason}", f"hint: q8s-run {words[0]} --help"]
