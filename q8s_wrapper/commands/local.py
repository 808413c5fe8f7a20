"""The command that lists clusters: those of the project, and those with state on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q8s_wrapper import messages, report, state
from q8s_wrapper.config import add_collections_to_path, state_root
from q8s_wrapper.errors import ExitCode, WrapperError


@dataclass(frozen=True)
class Local:
    """The state of a cluster on this machine. ``project`` is None for a folder that does not name one."""

    name: str
    project: Any
    folder: Path
    key: bool
    kubeconfig: bool
    last_run: str = ""


@dataclass(frozen=True)
class Asked:
    """What the cloud answered: the project and its clusters, or why it did not.

    Without an answer, ``project`` is known if a cluster was deployed from here with the same credentials.
    """

    project: Any = None
    clusters: Sequence[Any] = ()
    problem: str = ""


def list_clusters(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """List the clusters in this project and on this machine."""
    local = local_clusters(state_root())
    asked = ask(local)
    found = rows(asked, local)
    if arguments.json:
        print(json.dumps(as_data(asked, found), indent=2))
    if asked.problem:
        first, *more = asked.problem.splitlines()
        messages.warning(f"the cloud cannot be asked, so only the clusters on this machine are listed. {first}")
        for line in more:
            messages.hint(line.removeprefix("hint: "))
    if not arguments.json:
        print(report.table([_texts(row, asked) for row in found]) or "no clusters")
    return ExitCode.DONE


def local_clusters(root: Path) -> list[Local]:
    """Return the clusters that have a record, an ssh key or a kubeconfig below the state folder."""
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _state

    found = []
    for folder in map(Path, _state.local_folders(str(root))):
        record = _state.read_record(str(folder))
        key, kubeconfig = (folder / _state.KEY).exists(), (folder / _state.KUBECONFIG).exists()
        if record or key or kubeconfig:
            project = record.project if record else None
            found.append(Local(folder.name, project, folder, key, kubeconfig, _last_run(folder)))
    return found


def _last_run(folder: Path) -> str:
    """Return when the cluster was last changed from here, and how: ``2026-11-25 21:40 deploy``."""
    try:
        runs = [run.name for run in state.past_runs(folder) if state.changing(run)]
    except OSError:
        return ""
    if not runs:
        return ""
    day, time, _, what = [*runs[-1].split("-", 3), "", "", ""][:4]
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4]} {what}"


def ask(local: Sequence[Local]) -> Asked:
    """Ask the cloud for its clusters."""
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _state

    try:
        login = state.login()
    except WrapperError as error:
        return Asked(problem=str(error))
    try:
        cloud = state.connect()
        return Asked(cloud.project(), cloud.clusters.list_clusters())
    except (WrapperError, _cloud.CloudError) as error:
        return Asked(_state.known_project(str(state_root()), "*", login), problem=str(error))


def rows(asked: Asked, local: Sequence[Local]) -> list[tuple[Any, Local | None]]:
    """Return the clusters of the project, each with its local state, then those that are only on this machine."""
    here = {cluster.name: cluster for cluster in local if asked.project and cluster.project == asked.project}
    found: list[tuple[Any, Local | None]] = [(cluster, here.get(cluster.name)) for cluster in asked.clusters]
    paired = {cluster.folder for _, cluster in found if cluster}
    return [*found, *((None, cluster) for cluster in local if cluster.folder not in paired)]


def _texts(row: tuple[Any, Local | None], asked: Asked) -> dict[str, str]:
    """Return a row of the table for people."""
    here = row[1]
    kept = [word for word, there in (("key", here and here.key), ("kubeconfig", here and here.kubeconfig)) if there]
    return {
        "cluster": _name(row),
        "cloud": _cloud_name(row, asked),
        "servers": _servers(row, asked),
        "on this machine": ", ".join(kept) or ("logs" if here else "nothing"),
        "last run here": here.last_run if here else "",
    }


def _name(row: tuple[Any, Local | None]) -> str:
    cluster, here = row
    return str(cluster.name) if cluster else here.name if here else ""


def _project_of(row: tuple[Any, Local | None], asked: Asked) -> Any:
    cluster, here = row
    return asked.project if cluster else here.project if here else None


def _cloud_name(row: tuple[Any, Local | None], asked: Asked) -> str:
    project = _project_of(row, asked)
    if project is None:
        return "not recorded"
    this = " (this project)" if project == asked.project else ""
    return f"{project.auth_url.partition('://')[2]} {project.project_id[:8]}{this}"


def _servers(row: tuple[Any, Local | None], asked: Asked) -> str:
    cluster, here = row
    if cluster:
        return ", ".join(f"{number} {status}" for status, number in sorted(cluster.servers.items())) or "none"
    return "none" if not asked.problem and here and here.project == asked.project else "unknown"


def as_data(asked: Asked, found: Sequence[tuple[Any, Local | None]]) -> dict[str, Any]:
    """Return the list for programs. ``servers`` is null where the cloud was not asked."""
    clusters = []
    for row in found:
        cluster, here = row
        project = _project_of(row, asked)
        this = project is not None and project == asked.project
        clusters.append(
            {
                "name": _name(row),
                "project": _project(project),
                "this_project": this,
                "servers": dict(cluster.servers) if cluster else {} if this and not asked.problem else None,
                "security_group": cluster.security_group if cluster else False if this and not asked.problem else None,
                "state": {
                    "folder": str(here.folder),
                    "key": here.key,
                    "kubeconfig": here.kubeconfig,
                    "last_run": here.last_run or None,
                }
                if here
                else None,
            }
        )
    return {"project": _project(asked.project), "problem": asked.problem or None, "clusters": clusters}


def _project(project: Any) -> dict[str, str] | None:
    if project is None:
        return None
    return {"auth_url": project.auth_url, "project_id": project.project_id, "region": project.region}
