"""The command that measures a cluster: bench."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import damage, folders, invocation, messages
from q8s_wrapper.commands import load, records
from q8s_wrapper.commands.session import open_session
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment import timeline, timeline_svg

_SELECTION: Final = ("quick", "only", "nodes", "force")  # what an earlier run has decided


def bench(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Measure the nodes of the cluster, and write the results to a folder."""
    cluster = load(arguments.file)
    variables = _variables(arguments, cluster)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="q8s-bench-") as work:
        chart = Path(work) / "timeline.svg"
        deploy = None
        with damage.tolerated("the results are without the timeline of the deploy"):
            deploy = records.find_deploy(arguments, cluster)
        if deploy:
            chart.write_text(timeline_svg.svg(timeline.analysis(deploy)) + "\n", encoding="utf-8")
            variables["q8s_bench_timeline"] = str(chart)
        options = ["-e", json.dumps(variables)]
        with open_session(arguments, cluster) as session:
            outcome = session.play("bench", [*options, *rest])
            if outcome.code == ExitCode.INTERRUPTED:
                messages.info("removing the pods of the benchmark")
                session.play("bench", ["--tags", "bench_remove", *options], as_json=False)
            if outcome.code != ExitCode.DONE and (arguments.resume or _is_newer(variables["q8s_bench_output"], began)):
                session.resume = invocation.resume_options(arguments)
            return session.end(outcome)


def _is_newer(output: str, began: float) -> bool:
    """Return whether a folder has results that were written since a moment, in seconds since the epoch."""
    try:
        return Path(output, folders.RESULTS).stat().st_mtime >= began - 1
    except OSError:
        return False


def _variables(arguments: argparse.Namespace, cluster: Any) -> dict[str, Any]:
    """Return the playbook's variables that follow from the command's options.

    :raises WrapperError: a group or a node does not exist, or the folder of the results is not as the options want it
    """
    # The collection can be imported once the cluster file is loaded.
    from ansible_collections.q8s.emu.plugins.module_utils import _bench_results
    from ansible_collections.q8s.emu.plugins.module_utils._bench_plan import GROUPS

    groups = _split(arguments.only)
    if unknown := [group for group in groups if group not in GROUPS]:
        raise WrapperError(
            f"--only: is {', '.join(unknown)}; allowed are {', '.join(GROUPS)}", code=ExitCode.WRONG_INPUT
        )
    nodes, known = _split(arguments.nodes), [server.node for server in cluster.servers()]
    if unknown := [node for node in nodes if node not in known]:
        raise WrapperError(
            f"--nodes: is {', '.join(unknown)}; allowed are {', '.join(known)}", code=ExitCode.WRONG_INPUT
        )
    output = Path(arguments.output or f"bench-{cluster.cluster_name}").expanduser().absolute()
    folders.check_results(arguments, output, _bench_results.KIND, verb="measure", kept="options", selection=_SELECTION)
    return {
        "q8s_bench_quick": bool(arguments.quick),
        "q8s_bench_only": groups,
        "q8s_bench_nodes": nodes,
        "q8s_bench_output": str(output),
        "q8s_bench_force": bool(arguments.force),
        "q8s_bench_resume": bool(arguments.resume),
    }


def _split(text: str | None) -> list[str]:
    """Split a value at its commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
