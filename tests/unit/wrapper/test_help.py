"""Help, and the answers to words that are no command and to wrong arguments."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from q8s_wrapper import cli, command_table, invocation
from q8s_wrapper.errors import ExitCode

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"


@pytest.mark.parametrize("group", ["link", "scenario"])
def test_the_help_of_a_group_names_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for arguments in ([group, "--help"], [group, "-h"], ["help", group]):
        assert cli.main(arguments) == ExitCode.DONE
        out, err = capsys.readouterr()
        helps.append(out)
        assert err == ""
    assert helps[0] == helps[1] == helps[2]
    for command in command_table.group(group):
        assert f"  {command.name.split()[1]} " in helps[0]


def test_help_shows_the_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for arguments in (["link", "set", "--help"], ["help", "link", "set"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == ExitCode.DONE
        helps.append(capsys.readouterr().out)
    assert helps[0] == helps[1]
    assert "usage: q8s-run link set" in helps[0]


@pytest.mark.parametrize(
    ("arguments", "reason", "hint"),
    [
        (["lab"], "the following arguments are required: up|down|status|reset|image|host", "q8s-run lab --help"),
        (["lab", "host", "up"], "the following arguments are required: name", "q8s-run lab host --help"),
        (["bundle", "build", "--arch", "vax"], "argument --arch: invalid choice: 'vax'", "q8s-run bundle build --help"),
        (["bundle", "ensure", "--addon", "metrics_server"], "--addon needs a --control-plane", "q8s-run bundle --help"),
        (
            ["deploy", "--parallel", "many"],
            "argument --parallel: is 'many'; allowed is a whole number of at least 1",
            "q8s-run deploy --help",
        ),
    ],
)
def test_wrong_arguments_have_one_format(
    arguments: list[str], reason: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, str(EXAMPLE)] if arguments[0] == "deploy" else arguments)
    assert end.value.code == ExitCode.WRONG_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {reason}")
    assert lines[1:] == [f"hint: {hint}"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [("deply", "q8s-run deploy --help"), ("up", "q8s-run --help"), ("statsu", "q8s-run status --help")],
)
def test_an_unknown_command(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word, "cluster.yaml"]) == ExitCode.WRONG_INPUT
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: there is no command {word!r}; allowed are init, validate, plan, deploy, ")
    assert second.endswith(hint)


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert out.startswith("usage: q8s-run") and "deploy" in out


@pytest.mark.parametrize("words", [["deploy", "c.yaml", "--foo"], ["lab", "up", "--foo"], ["bundle", "list", "--foo"]])
def test_hints_have_the_name_that_was_typed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(invocation, "_called_as", ".venv/bin/q8s-run")
    with pytest.raises(SystemExit):
        cli.main(words)
    assert capsys.readouterr().err.splitlines()[-1].startswith("hint: .venv/bin/q8s-run ")


@pytest.mark.parametrize("words", [[], ["deploy"], ["link"], ["lab"], ["bundle"], ["bundle", "ensure"]])
def test_help_has_the_short_name_of_the_program(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(invocation, "_called_as", "/a/long/path/of/q8s-run")
    with contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    assert capsys.readouterr().out.startswith(" ".join(["usage: q8s-run", *words]))
