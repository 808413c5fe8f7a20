"""How well the links of a cluster keep their promises: delays, rates and losses, one after the other, on one direction.

    python -m benchmarks.link_accuracy FILE [FROM TO] [--delay MS,...] [--rate MBIT,...] [--loss PERCENT,...]

The cluster must be deployed, and FROM must be a worker; without both, they are the first worker and another node. Each
value is set with `q8s-run link set` and measured with `q8s-run link verify`, as a user would do it; at the end, the
file's links are restored. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.deployed import Cluster, DeployedCluster

_Q8S_RUN: Final = Path(sys.executable).with_name("q8s-run")
_UNITS: Final = {"delay": "ms", "rate": "mbit", "loss": "%"}
_VALUES: Final = {"delay": "1,5,20,50,100,300", "rate": "1,5,20,100,500", "loss": "0.1,1,5,20"}


def choose_direction(cluster: Cluster, source: str = "") -> tuple[str, str]:
    """Return a worker that sends, and a node that receives: another worker if there is one.

    :param source: the worker that sends; empty for the first one
    :raises SystemExit: the cluster has no worker
    """
    nodes = [spec.node for spec in cluster.servers() if spec.vm_type]
    if not nodes:
        sys.exit("Failed to find a link to measure: the cluster has no worker")
    source = source or nodes[0]
    nodes += [spec.node for spec in cluster.servers() if not spec.vm_type]
    return source, next(node for node in nodes if node != source)


def _run(verb: str, *arguments: str) -> str:
    """Return what a command of q8s-run prints. `link verify` ends with 1 when a promise is broken, which is a result.

    :raises SystemExit: it failed
    """
    done = subprocess.run([_Q8S_RUN, "link", verb, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0 and not (verb == "verify" and done.stdout):
        sys.exit(f"Failed to run q8s-run link {verb} {' '.join(arguments)}")
    return done.stdout


def _measure(file: str, source: str, target: str, what: str, value: str) -> Mapping[str, Any]:
    """Return the finding of `link verify` about one value."""
    _run("set", file, source, target, f"{what}={value}{_UNITS[what]}")
    findings = json.loads(_run("verify", file, "--json"))["findings"]
    return next(one for one in findings if (one["from"], one["to"], one["what"]) == (source, target, what))


def _row(finding: Mapping[str, Any], load: float) -> str:
    """Return a row of the table."""
    unit, promised, measured = finding["unit"], finding["promised"], finding["measured"]
    if measured is None:
        values = ["not measured", "", ""]
    else:
        off = measured - promised
        share = f" ({off / promised:+.1%})" if promised else ""
        values = [f"{measured:g} {unit}", f"{finding['low']:g} to {finding['high']:g}", f"{off:+.3g} {unit}{share}"]
    kept = {True: "yes", False: "no", None: "cannot tell"}[finding["kept"]]
    cells = [f"{finding['what']} {promised:g} {unit}", *values, kept, finding["note"], f"{load:.1f}"]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str]) -> int:
    """Measure, and print the table on stdout."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.link_accuracy", description="Accuracy of links between two nodes."
    )
    parser.add_argument("file", help="the cluster file of a deployed cluster")
    parser.add_argument("source", metavar="FROM", nargs="?", default="", help="the worker that sends (the first)")
    parser.add_argument("target", metavar="TO", nargs="?", default="", help="the node that receives (another one)")
    for what, values in _VALUES.items():
        parser.add_argument(f"--{what}", default=values, help="values, in the table's unit (%(default)s)")
    arguments = parser.parse_args(argv)
    source, target = arguments.source, arguments.target
    if not target:
        source, target = choose_direction(DeployedCluster(arguments.file).cluster, source)
    print(f"{source} to {target}:\n")
    print(
        "| promised | measured | interval | off by | kept | note | load |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    try:
        for what in _UNITS:
            for value in filter(None, getattr(arguments, what).split(",")):
                finding = _measure(arguments.file, source, target, what, value)
                print(_row(finding, os.getloadavg()[0]), flush=True)
                print(f"{time.strftime('%H:%M:%S')} {what} {value}: {finding['measured']}", file=sys.stderr)
    finally:
        _run("clear", arguments.file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
