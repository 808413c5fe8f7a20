# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress and the artifacts of a build, as the action plugins show and return them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from ansible.utils.display import Display

_LINES_KEPT = 20  # of stderr, for the message of a failure


def served(bundle: Mapping[str, Any], elsewhere: bool) -> dict[str, Any]:
    """Return what hosts need to know of the artifacts, and the files that the controller uploads.

    :param elsewhere: whether the cluster builds, so that nothing is uploaded
    """
    artifacts = bundle["artifacts"]
    files = (
        []
        if elsewhere
        else [{name: artifact[name] for name in ("name", "path", "sha256")} for artifact in artifacts.values()]
    )
    return {
        "artifacts": {key: {name: artifacts[key][name] for name in ("name", "sha256")} for key in artifacts},
        "files": files,
    }


def take(line: str, other: list[str], show: Callable[[Mapping[str, Any]], None]) -> list[str]:
    """Show a line of the build's output if it is progress. Return the newest lines that are no progress.

    :param other: those before this line
    """
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict):
        show(event)
        return other
    return [*other, line.rstrip().removeprefix("error: ")][-_LINES_KEPT:]  # the deploy has a prefix of its own


def show(event: Mapping[str, Any]) -> None:
    """Show a progress event: to q8s-run as data, to anybody else as a line."""
    if os.environ.get("Q8S_PROGRESS_EVENTS"):
        Display().display(json.dumps({"q8s_progress": event}))
        return
    where = f"[{event['number']}/{event['total']}] {event['artifact']}: " if "artifact" in event else ""
    Display().display(f"{where}{event['text']}")
