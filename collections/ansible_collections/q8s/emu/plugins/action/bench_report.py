# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the results of a benchmark to a folder on the controller. The folder gets its name when it is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from ansible.plugins.action import ActionBase
from ansible_collections.q8s.emu.plugins.module_utils import (
    _bench_page,
    _bench_results,
    _bench_resume,
    _bench_tables,
    _bench_topology,
    _read,
    _results_folder,
)

_HINT: Final = "choose another with --output, or replace them with --force"
_TIMELINE: Final = "timeline.svg"


class ActionModule(ActionBase):
    """Ansible's entry point."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the folder, or write it and return the tables."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            {
                "output": {"type": "path", "required": True},
                "force": {"type": "bool", "default": False},
                "resume": {"type": "bool", "default": False},
                "state": {"type": "str", "choices": ["checked", "written"], "default": "written"},
                "cluster": {"type": "str", "default": ""},
                "plan": {"type": "dict", "default": {}},
                "runs": {"type": "list", "elements": "dict", "default": []},
                "node_samples": {"type": "dict", "default": {}},
                "host_samples": {"type": "dict", "default": {}},
                "history": {"type": "path", "default": ""},
                "timeline": {"type": "path", "default": ""},
                "session": {"type": "str", "default": ""},
                "versions": {"type": "dict", "default": {}},
                "machine": {"type": "dict", "default": {}},
            }
        )[1]
        output = Path(arguments["output"])
        try:
            before = _results_folder.read(output, _bench_results.KIND) if arguments["resume"] else None
            if before is None:
                _results_folder.check(output, force=arguments["force"], hint=_HINT)
            if arguments["state"] == "checked":
                return {**result, "changed": False, "earlier": resumable(output, before) if before else {}}
            document = results(arguments, before)
            write(output, document, timeline(arguments), keep=before is not None)
        except (_results_folder.OutputError, OSError) as error:
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            return {**result, "failed": True, "msg": f"Failed to write the results: {reason}"}
        tables = _bench_tables.markdown(document).splitlines()
        return {**result, "changed": True, "tables": tables, "problems": _bench_tables.problems(document)}


def resumable(output: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a new session has to know of results.

    :raises OutputError: nothing is left to measure
    """
    if before["complete"]:
        raise _results_folder.OutputError(f"the results in {output} are complete: nothing is left to measure")
    return _bench_resume.earlier(before)


def results(arguments: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the document from the arguments of the task.

    :param before: the results so far, to which those of the task are added
    """
    samples = {f"node/{name}": _bench_results.node_samples(text) for name, text in arguments["node_samples"].items()}
    samples |= {
        f"qemu/{name}": _bench_results.process_samples(text) for name, text in arguments["host_samples"].items()
    }
    return _bench_results.document(
        arguments["plan"],
        arguments["runs"],
        samples,
        cluster=arguments["cluster"],
        versions=arguments["versions"],
        now=datetime.now(timezone.utc),
        session=_bench_results.Session(
            arguments["session"],
            arguments["machine"],
            read_history(Path(arguments["history"])) if arguments["history"] else [],
        ),
        before=before,
    )


def timeline(arguments: Mapping[str, Any]) -> str:
    """Return the chart of the deploy's timeline: from the file that q8s-run wrote, else as the results have it."""
    earlier = [Path(arguments["output"]) / _TIMELINE] if arguments["resume"] else []
    for file in [*([Path(arguments["timeline"])] if arguments["timeline"] else []), *earlier]:
        with suppress(FileNotFoundError, _read.ReadError):  # what was measured is worth more than a chart
            return _read.text(file).strip()
    return ""


def read_history(file: Path) -> list[dict[str, Any]]:
    """Return the runs that q8s-run recorded; none if there is no record. Skip what cannot be read."""
    return list(_read.readable_lines(file, _bench_results.Run))


def result_files(document: Mapping[str, Any], chart: str = "") -> dict[str, bytes]:
    """Return the files of a folder of results by name.

    :param chart: the timeline of the deploy as SVG, if there is one
    """
    texts = {
        _results_folder.RESULTS: json.dumps(document, indent=2, sort_keys=True) + "\n",
        "tables.md": _bench_tables.markdown(document),
        "index.html": _bench_page.page(document, chart),
    }
    for name, svg in (
        ("bandwidth", _bench_page.bandwidth_chart(document)),
        ("speed", _bench_page.speed_chart(document)),
        ("topology", _bench_topology.chart(document)),
        ("timeline", chart),
    ):
        if svg:
            texts[f"{name}.svg"] = svg + "\n"
    texts["summary.csv"] = _bench_tables.summary_csv(document)
    texts.update({f"{table.name}.csv": _bench_tables.csv_text(table) for table in _bench_tables.tables(document)})
    return {name: text.encode("utf-8") for name, text in texts.items()}


def write(output: Path, document: Mapping[str, Any], chart: str = "", *, keep: bool = False) -> None:
    """Write the folder, and remove earlier results after that.

    :param keep: whether the folder keeps its other files
    :raises OSError: a file cannot be written; then nothing has changed
    """
    _results_folder.write(output, result_files(document, chart), keep=keep)
