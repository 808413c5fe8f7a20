"""Record the events of a real run for tests: ``python tests/unit/wrapper/record.py OUT ARGUMENTS-OF-q8s-run...``

Only the fields that the reducer reads are kept, without paths of this machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from q8s_wrapper import cli, runner
from q8s_wrapper.config import REPOSITORY, state_root
from q8s_wrapper.events import reduce
from q8s_wrapper.run_state import State

_KINDS = frozenset(
    """playbook_on_start playbook_on_play_start playbook_on_stats warning deprecated runner_retry runner_item_on_failed
    runner_on_start runner_on_ok runner_on_skipped runner_on_failed runner_on_unreachable""".split()
)
_DATA = ("host", "task", "play", "role", "task_action", "task_path", "ignore_errors")
_FAILED = (
    "msg",
    "stderr",
    "module_stderr",
    "stdout",
    "rc",
    "skip_reason",
    "censored",
    "_ansible_item_label",
    "refused",
)


def essence(event: Mapping[str, Any]) -> dict[str, Any]:
    """What the reducer reads of an event."""
    kind, data = str(event.get("event")), event.get("event_data") or {}
    kept: dict[str, Any] = {key: data[key] for key in _DATA if key in data}
    result = data.get("res") or {}
    if kind in ("runner_on_failed", "runner_on_unreachable", "runner_item_on_failed"):
        kept["res"] = {key: result[key] for key in _FAILED if key in result}
        kept["res"]["results"] = [
            {key: item[key] for key in (*_FAILED, "failed") if key in item} for item in result.get("results") or []
        ]
    elif kind == "runner_on_ok" and str(data.get("task_action", "")).endswith("debug"):
        kept["res"] = {key: value for key, value in result.items() if key == "msg" or key.startswith("q8s_")}
    elif kind == "playbook_on_stats":
        kept["changed"] = data.get("changed") or {}
    if result.get("warnings"):
        kept["res"] = {**kept.get("res", {}), "warnings": result["warnings"]}
    shown = kind in ("warning", "deprecated") or "censored" in result
    said = {"stdout": event["stdout"]} if shown else {}
    return {"event": kind, "created": event.get("created"), "event_data": kept, **said}


def main(out: str, *arguments: str) -> int:
    """Run q8s-run, and write its events to a file."""
    with Path(out).open("w") as stream:

        def tee(state: State, event: Mapping[str, Any]) -> State:
            line = json.dumps(essence(event))
            for place, name in ((str(REPOSITORY), "/checkout"), (str(state_root()), "/state")):
                line = line.replace(place, name)
            if event.get("event") in _KINDS:
                print(line, file=stream)
            return reduce(state, event)

        runner.reduce = tee
        return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
