"""The progress of a build, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from q8s_bundle import progress
from q8s_bundle.progress import Part


def test_lines_name_the_artifact(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.building(Part("image-aarch64", 2, 3)), progress.step("bootstrap Debian"):
        progress.say("again in a minute")
    progress.say("all done")
    lines = [line[9:] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "[2/3] image-aarch64: build it",
        "[2/3] image-aarch64: bootstrap Debian ...",
        "[2/3] image-aarch64: again in a minute",
        "[2/3] image-aarch64: bootstrap Debian: 0.0 s",
        "[2/3] image-aarch64: built in 0.0 s",
        "all done",
    ]


def test_json_has_the_same_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        progress.json_lines(),
        progress.building(Part("image-aarch64", 2, 3)),
        progress.step("bootstrap Debian"),
    ):
        pass
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["artifact", "step", "done", "built"]
    part = {"artifact": "image-aarch64", "number": 2, "total": 3}
    assert events[2] == {
        **part, "event": "done", "step": "bootstrap Debian", "seconds": 0.0, "text": "bootstrap Debian: 0.0 s",
    }  # fmt: skip


def test_a_failed_step_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), progress.building(Part("x", 1, 1)), progress.step("compile"):
        raise ValueError
    assert "built" not in capsys.readouterr().err


def test_muted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.muted():
        with progress.muted():
            progress.say("nothing")
        progress.say("nothing")
    assert capsys.readouterr().err == ""
    progress.say("something")
    assert "something" in capsys.readouterr().err
