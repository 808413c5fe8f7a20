"""Wrong arguments of ``q8s-run lab host`` are refused before anything is started, with what is allowed."""

from __future__ import annotations

import pytest

from q8s_lab import cli


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
