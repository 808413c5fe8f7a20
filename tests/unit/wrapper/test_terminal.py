"""Texts without a terminal's control sequences."""

from __future__ import annotations

from q8s_wrapper.terminal import without_colours


def test_a_consoles_control_sequences_are_left_out() -> None:
    assert without_colours("\x1b]104\x07\x1b[0;1;39mq8s: ready\x1b[0m\x1b]0;title\x1b\\\r\n") == "q8s: ready\n"
