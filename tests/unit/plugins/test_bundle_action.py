"""The action plugin that builds bundles: its command line, and the progress that it forwards."""

from __future__ import annotations

import json
import sys

import pytest
from ansible_collections.q8s.emu.plugins.action import bundle
from ansible_collections.q8s.emu.plugins.plugin_utils import _build

from q8s_wrapper.command_table import HANDED_OVER_OPTIONS

GIVEN = {
    "command": ["q8s-run", "bundle"],
    "architectures": ["aarch64", "x86_64"],
    "control_planes": ["x86_64"],
    "source": "auto",
    "guest_images": {
        "aarch64": {"url": "https://cloud.example.org/a.qcow2", "checksum": "sha512:00"},
        "riscv64": {"url": "https://cloud.example.org/r.qcow2", "checksum": "sha512:00"},
    },
}
COMMAND = [
    *("ensure", "--progress=json", "--source=auto", "--control-plane=x86_64", "--arch=aarch64"),
    *("--arch=x86_64", "--image=aarch64,https://cloud.example.org/a.qcow2,sha512:00"),
]


def test_command_line() -> None:
    assert bundle.command_line(GIVEN, check=False) == COMMAND
    assert bundle.command_line(GIVEN, check=True) == [*COMMAND, "--check"]


def test_the_build_reads_no_option_from_the_users_environment() -> None:
    options = HANDED_OVER_OPTIONS["bundle", "ensure"]
    assert sorted(bundle._OPTIONS) == sorted(option.variable for option in options)


def test_progress_is_passed_on() -> None:
    script = """\
import json, sys
print(json.dumps({"event": "note", "text": "one"}), file=sys.stderr)
print("Failed to do it", file=sys.stderr)
print("the answer")
sys.exit(3)
"""
    seen: list[object] = []
    assert bundle.stream([sys.executable, "-c", script], seen.append) == (3, "the answer\n", ["Failed to do it"])
    assert seen == [{"event": "note", "text": "one"}]


@pytest.mark.parametrize("as_data", [True, False])
def test_what_is_shown(as_data: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(_build.Display, "display", lambda self, text: shown.append(text))
    monkeypatch.delenv("Q8S_PROGRESS_EVENTS", raising=False)
    if as_data:
        monkeypatch.setenv("Q8S_PROGRESS_EVENTS", "1")
    event = {"event": "note", "text": "one", "artifact": "bundle-aarch64", "number": 1, "total": 2}
    _build.show(event)
    assert shown == [json.dumps({"q8s_progress": event}) if as_data else "[1/2] bundle-aarch64: one"]


@pytest.mark.parametrize(
    ("where", "missing", "obstacles", "expected"),
    [
        ("auto", [], [], False),
        ("cluster", [], [], False),
        ("auto", ["image-aarch64"], [], False),
        ("auto", ["image-aarch64"], [{"reason": "no", "hint": "yes"}], True),
        ("here", ["image-aarch64"], [{"reason": "no", "hint": "yes"}], False),
        ("cluster", ["image-aarch64"], [], True),
    ],
)
def test_where_it_is_built(where: str, missing: list[str], obstacles: list[dict[str, str]], expected: bool) -> None:
    assert bundle.on_cluster(where, {"missing": missing, "obstacles": obstacles}) is expected


def test_a_failure_has_the_message_of_the_build() -> None:
    with pytest.raises(bundle.BuildError, match="no gcc"):
        bundle.build(["sh", "-c", "echo 'Failed to build it: no gcc' >&2; exit 1"])
    with pytest.raises(bundle.BuildError, match="Failed to run /nowhere/q8s-run: No such file"):
        bundle.build(["/nowhere/q8s-run"])
