"""Arguments from environment variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from q8s_wrapper import cli
from q8s_wrapper.arguments_from_environment import add_environment_options
from q8s_wrapper.errors import ExitCode

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("Q8S_YES", "maybe", "1 or 0"),
        ("Q8S_VERBOSE", "much", "a whole number"),
        ("Q8S_KEEP", "keypair servers", "keypair and security_group"),
    ],
)
def test_a_variable_that_says_nothing(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert cli.main(["destroy", str(EXAMPLE)]) == ExitCode.WRONG_INPUT
    assert f"{name}: is '{value}'; allowed is {allowed}" in capsys.readouterr().err
    assert cli.main(["validate", str(EXAMPLE)]) == ExitCode.DONE, "it is none of this command's options"


def test_the_environment_reaches_bundle_and_lab(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_ARCH", "x86_64 vax")
    with pytest.raises(SystemExit) as ended:
        cli.main(["bundle", "ensure"])
    assert ended.value.code == 2 and "argument --arch: invalid choice: 'vax'" in capfd.readouterr().err
    monkeypatch.setenv("Q8S_JSON", "1")
    assert cli.main(["lab", "status"]) == 0
    assert "services" in json.loads(capfd.readouterr().out)
    monkeypatch.setenv("Q8S_JSON", "maybe")
    assert cli.main(["lab", "status"]) == ExitCode.WRONG_INPUT
    assert "Q8S_JSON: is 'maybe'; allowed is 1 or 0" in capfd.readouterr().err


def test_values_with_spaces_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_KEY", "/root/my keys/id")
    assert add_environment_options("lab", ["host", "up"]) == ["host", "up", "--key=/root/my keys/id"]
    monkeypatch.setenv("Q8S_IMAGE", "'x86_64,/my images/a,b' aarch64,c,d")
    assert add_environment_options("bundle", ["ensure"])[1:] == [
        "--image=x86_64,/my images/a,b",
        "--image=aarch64,c,d",
    ]
    monkeypatch.setenv("Q8S_IMAGE", "'x86_64,a")
    assert cli.main(["bundle", "ensure"]) == ExitCode.WRONG_INPUT
    assert capsys.readouterr().err == (
        'error: Q8S_IMAGE: is "\'x86_64,a": No closing quotation\n'
        "hint: quote values that contain spaces or quotes, as in a shell\n"
    )
