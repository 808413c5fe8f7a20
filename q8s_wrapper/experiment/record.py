"""The files of a record: what another lab needs to repeat an experiment on a cluster. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from q8s_wrapper import folders
from q8s_wrapper.experiment import crate, timeline, timeline_page, timeline_svg
from q8s_wrapper.experiment.secrets import without_credentials

_NO_LICENSE: Final = "No licence was chosen yet: ask the authors before you use this record."
_DESCRIPTIONS: Final = {
    "README.md": "What this record is, and how to deploy the cluster again",
    "plan.json": "The resolved cluster: every setting, every server, and what the deploy has changed in the cloud",
    "versions.json": "Versions of Q8S and Ansible, the bundle's manifest, and SHA-256 of the artifacts on the cluster",
    "nodes.json": "Nodes of Kubernetes at the time of the record: labels, taints, capacity, versions and conditions",
    "pods.json": "Pods at the time of the record: the node of each, and latencies from its creation in milliseconds",
    "events.json": "Events of nodes and pods that the API server still had at the time of the record",
    "verify.json": "Result of q8s-run verify",
    "timeline/": "Timeline of the deploy that created the servers",
    "timeline/timeline.json": "Tasks, stages, milestones of guests, and critical path of the deploy",
    "timeline/timeline.svg": "Timeline of the deploy as a chart",
    "timeline/index.html": "Timeline of the deploy as a page",
    "bench/": "Results of q8s-run bench",
}


@dataclass(frozen=True)
class Sources:
    """What a record is made of.

    :param cluster: the cluster, a ``Cluster`` of the collection
    :param file: name of the cluster file
    :param text: its text
    :param facts: what the playbook ``record`` has read
    :param deploy: the record of the deploy, or None
    :param verify: the result of ``verify``, or None
    :param bench: content of each file of the bench results by its path
    :param versions: versions of the programs
    :param tables: content of each file that the cluster file names, by its name
    :param license: URL of the record's licence, or how it may be used; empty if that is not decided
    """

    cluster: Any
    file: str
    text: str
    facts: Mapping[str, Any]
    deploy: Mapping[str, Any] | None
    verify: Mapping[str, Any] | None
    bench: Mapping[str, bytes]
    versions: Mapping[str, str]
    license: str = ""
    tables: Mapping[str, bytes] = field(default_factory=dict)


def timeline_files(analysis: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a timeline by name."""
    return {
        "timeline.json": crate.text(analysis),
        "timeline.svg": timeline_svg.svg(analysis).encode() + b"\n",
        "index.html": timeline_page.page(analysis).encode(),
    }


def files(sources: Sources, now: datetime) -> dict[str, bytes]:
    """Return all files of a record by their path.

    :param now: time of the record
    """
    name, cluster_file = sources.cluster.cluster_name, sources.file
    deploy = sources.deploy
    found = {
        cluster_file: without_credentials(sources.text).encode(),
        **sources.tables,
        "README.md": _readme(sources, now).encode(),
        "plan.json": crate.text(_plan(sources)),
        "versions.json": crate.text(
            {"programs": dict(sources.versions), **sources.facts["installed"], "hosts": sources.facts["hosts"]}
        ),
        **{f"{kind}.json": crate.text(sources.facts[kind]) for kind in ("nodes", "pods", "events")},
    }
    if deploy:
        found |= {f"timeline/{path}": content for path, content in timeline_files(timeline.analysis(deploy)).items()}
    if sources.verify:
        found["verify.json"] = crate.text({key: value for key, value in sources.verify.items() if key != "log"})
    found |= {f"bench/{path}": content for path, content in sources.bench.items()}
    described = {**_DESCRIPTIONS, cluster_file: f"The cluster file of {name}, the input of q8s-run deploy"}
    described |= dict.fromkeys(sources.tables, "Delays between nodes, which the cluster file names")
    data = crate.metadata(
        f"Cluster {name}, deployed with Q8S",
        "A Kubernetes cluster of emulated heterogeneous nodes: its cluster file, what was installed, and what was "
        f"measured. {_size(sources)}",
        published=now.isoformat(timespec="seconds"),
        license_text=sources.license or _NO_LICENSE,
        files=found,
        described=described,
        actions=_actions(sources, now),
        versions=sources.versions,
    )
    return {crate.METADATA: crate.text(data), **found}


def _plan(sources: Sources) -> dict[str, Any]:
    """Return the resolved plan."""
    return {
        "cluster": sources.cluster.to_mapping(),
        "servers": [asdict(server) for server in sources.cluster.servers()],
        "deploy": sources.deploy.get("plan") if sources.deploy else None,
    }


def _actions(sources: Sources, now: datetime) -> list[crate.Action]:
    """Return the runs of q8s-run that the record has results of."""
    actions = []
    file, deploy, verify = sources.file, sources.deploy, sources.verify
    if deploy:
        began = datetime.fromisoformat(deploy["started"])
        ended = began + timedelta(seconds=deploy["seconds"])
        times = began.isoformat(timespec="seconds"), ended.isoformat(timespec="seconds")
        actions.append(
            crate.Action(
                "deploy",
                f"q8s-run deploy {file}",
                [file],
                ["plan.json", "timeline/"],
                *times,
                failed=deploy["exit_code"] != 0,
            )
        )
    if verify:
        failed = verify["exit_code"] != 0
        actions.append(crate.Action("verify", f"q8s-run verify {file}", [file], ["verify.json"], failed=failed))
    if sources.bench:
        failed = not _bench_is_complete(sources)
        actions.append(crate.Action("bench", f"q8s-run bench {file}", [file], ["bench/"], failed=failed))
    results = ["versions.json", "nodes.json", "pods.json", "events.json"]
    actions.append(
        crate.Action("record", f"q8s-run record {file}", [file], results, end=now.isoformat(timespec="seconds"))
    )
    return actions


def _bench_is_complete(sources: Sources) -> bool:
    return bool(json.loads(sources.bench[folders.RESULTS])["complete"])


def _size(sources: Sources) -> str:
    """Describe the size of the cluster: ``1 control plane; workers: 2 arm-mid, 1 x86-small``."""
    planes = 1 + sources.cluster.number_additional_master_nodes
    workers = ", ".join(f"{count} {kind}" for kind, count in sources.cluster.workers) or "none"
    return f"{planes} control plane{'s' if planes > 1 else ''}; workers: {workers}."


def _readme(sources: Sources, now: datetime) -> str:
    """Return the README of a record."""
    versions = "".join(f"- {name} {version}\n" for name, version in sources.versions.items())
    missing = []
    if not sources.deploy:
        missing.append("the timeline: the machine of this record has none of the deploy")
    if not sources.facts["nodes"]:
        missing.append("nodes, pods and events: no API server answered")
    if sources.bench and not _bench_is_complete(sources):
        missing.append("figures of the benchmark: its results are partial, as bench/tables.md says")
    if not sources.facts["installed"]:
        missing.append("checksums of artifacts: the initial control plane did not answer")
    if without_credentials(sources.text) != sources.text:
        missing.append(f"user names, passwords and tokens in URLs of {sources.file}: they were removed")
    lines = "".join(f"- {line}\n" for line in missing)
    lacks = f"\nThis record lacks:\n\n{lines}" if missing else ""
    return (
        f"# Cluster {sources.cluster.cluster_name}\n\n"
        f"Recorded with `q8s-run record` on {now:%Y-%m-%d %H:%M} UTC. {_size(sources)}\n\n"
        f"## Deploy it again\n\n"
        f"    OS_CLOUD=mycloud q8s-run plan {sources.file}\n"
        f"    OS_CLOUD=mycloud q8s-run deploy {sources.file}\n\n"
        "Network, image and flavors in the file are those of the original cloud: change them for another one. "
        "`versions.json` has the versions and the SHA-256 of what was installed; "
        "`q8s-run bundle list` shows what this machine would install.\n\n"
        f"It was made with:\n\n{versions}{lacks}\n"
        f"The folder is an RO-Crate: `{crate.METADATA}` describes every file.\n"
    )


def is_complete(facts: Mapping[str, Any]) -> bool:
    """Return whether the cluster answered."""
    return bool(facts["nodes"] and facts["installed"])


EMPTY: Final[Mapping[str, Any]] = {"guests": [], "nodes": [], "pods": [], "events": [], "installed": {}, "hosts": []}
