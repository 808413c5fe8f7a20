"""Signals that end a run of Ansible, also for one in the background or under nohup."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from q8s_wrapper import runner

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_run_in_the_background_can_be_interrupted(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell leaves it for `q8s-run deploy &`
    interrupt = runner._Interrupt(tmp_path, MagicMock())
    signal.raise_signal(signal.SIGINT)
    assert interrupt.since is not None
    interrupt.restore()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_end_of_the_terminal_is_an_interruption(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt = runner._Interrupt(tmp_path, MagicMock())
    signal.raise_signal(signal.SIGHUP)
    assert interrupt.since is not None


def test_nohup_stays_in_force(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = runner._Interrupt(tmp_path, MagicMock())
    signal.raise_signal(signal.SIGHUP)
    assert interrupt.since is None
