"""The command ``list``: clusters in the OpenStack project, and clusters with state on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q8s_wrapper import messages, run_logs, state, text_layout
from q8s_wrapper.config import add_collections_to_path, state_root
from q8s_wrapper.errors import ExitCode, WrapperError


@dataclass(frozen=True)
class LocalState:
    """The local state of a cluster.

    :param project: the OpenStack project that the state belongs to; None if none is recorded
    :param key: whether the state has the cluster's SSH key
    :param kubeconfig: whether the state has the cluster's kubeconfig
    :param last_run: date, time and command of the last run that changed the cluster
    """

    name: str
    project: Any
    folder: Path
    key: bool
    kubeconfig: bool
    last_run: str = ""


@dataclass(frozen=True)
class CloudAnswer:
    """The cloud's answer: the project and its clusters.

    :param project: the project; if the cloud did not answer, the one recorded by a deploy with the same credentials
    :param clusters: the clusters in the project
    :param problem: why the cloud did not answer; empty if it did
    """

    project: Any = None
    clusters: Sequence[Any] = ()
    problem: str = ""


def list_clusters(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """List the clusters in this project and on this machine."""
    local = local_clusters(state_root())
    answer = query_cloud(local)
    found = rows(answer, local)
    if arguments.json:
        print(json.dumps(as_data(answer, found), indent=2))
    if answer.problem:
        first, *more = answer.problem.splitlines()
        messages.warning(
            f"the clusters in the cloud are not known, so only the clusters on this machine are listed. {first}"
        )
        for line in more:
            messages.hint(line.removeprefix("hint: "))
    if not arguments.json:
        print(text_layout.table([_table_row(row, answer) for row in found]) or "no clusters")
    return ExitCode.DONE


def local_clusters(root: Path) -> list[LocalState]:
    """Return the clusters that have a project record, an SSH key or a kubeconfig below the state folder.

    :param root: folder with the state of all clusters
    """
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _state

    found = []
    for folder in map(Path, _state.local_folders(str(root))):
        record = _state.read_record(str(folder))
        key, kubeconfig = (folder / _state.KEY).exists(), (folder / _state.KUBECONFIG).exists()
        if record or key or kubeconfig:
            project = record.project if record else None
            found.append(LocalState(folder.name, project, folder, key, kubeconfig, _last_run(folder)))
    return found


def _last_run(folder: Path) -> str:
    """Return date, time and command of the last run that changed the cluster: ``2026-11-25 21:40 deploy``."""
    try:
        runs = [run.name for run in run_logs.past_runs(folder) if run_logs.changing(run)]
    except OSError:
        return ""
    if not runs:
        return ""
    day, time, _, what = [*runs[-1].split("-", 3), "", "", ""][:4]
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4]} {what}"


def query_cloud(local: Sequence[LocalState]) -> CloudAnswer:
    """List the clusters in the project of the selected cloud. If the cloud fails, ``problem`` has the reason."""
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _state

    try:
        login = state.login()
    except WrapperError as error:
        return CloudAnswer(problem=str(error))
    try:
        cloud = state.connect()
        return CloudAnswer(cloud.project(), cloud.clusters.list_clusters())
    except (WrapperError, _cloud.CloudError) as error:
        return CloudAnswer(_state.known_project(str(state_root()), "*", login), problem=str(error))


def rows(answer: CloudAnswer, local: Sequence[LocalState]) -> list[tuple[Any, LocalState | None]]:
    """Pair the project's clusters with their local state. Clusters with local state only are at the end."""
    by_name = {cluster.name: cluster for cluster in local if answer.project and cluster.project == answer.project}
    found: list[tuple[Any, LocalState | None]] = [(cluster, by_name.get(cluster.name)) for cluster in answer.clusters]
    paired = {cluster.folder for _, cluster in found if cluster}
    return [*found, *((None, cluster) for cluster in local if cluster.folder not in paired)]


def _table_row(row: tuple[Any, LocalState | None], answer: CloudAnswer) -> dict[str, str]:
    """Return the cells of one row of the table, by heading."""
    local_state = row[1]
    files = [
        name
        for name, exists in (
            ("key", local_state and local_state.key),
            ("kubeconfig", local_state and local_state.kubeconfig),
        )
        if exists
    ]
    return {
        "cluster": _cluster_name(row),
        "cloud": _cloud_name(row, answer),
        "servers": _format_servers(row, answer),
        "on this machine": ", ".join(files) or ("logs" if local_state else "nothing"),
        "last run here": local_state.last_run if local_state else "",
    }


def _cluster_name(row: tuple[Any, LocalState | None]) -> str:
    cluster, local_state = row
    return str(cluster.name) if cluster else local_state.name if local_state else ""


def _project_of(row: tuple[Any, LocalState | None], answer: CloudAnswer) -> Any:
    cluster, local_state = row
    return answer.project if cluster else local_state.project if local_state else None


def _cloud_name(row: tuple[Any, LocalState | None], answer: CloudAnswer) -> str:
    project = _project_of(row, answer)
    if project is None:
        return "not recorded"
    this = " (this project)" if project == answer.project else ""
    return f"{project.auth_url.partition('://')[2]} {project.project_id[:8]}{this}"


def _format_servers(row: tuple[Any, LocalState | None], answer: CloudAnswer) -> str:
    cluster, local_state = row
    if cluster:
        return ", ".join(f"{number} {status}" for status, number in sorted(cluster.servers.items())) or "none"
    return "none" if not answer.problem and local_state and local_state.project == answer.project else "unknown"


def as_data(answer: CloudAnswer, found: Sequence[tuple[Any, LocalState | None]]) -> dict[str, Any]:
    """Return the list as data for ``--json``. ``servers`` is null if the state of the servers is unknown."""
    clusters = []
    for row in found:
        cluster, local_state = row
        project = _project_of(row, answer)
        this = project is not None and project == answer.project
        clusters.append(
            {
                "name": _cluster_name(row),
                "project": _project_data(project),
                "this_project": this,
                "servers": dict(cluster.servers) if cluster else {} if this and not answer.problem else None,
                "security_group": cluster.security_group if cluster else False if this and not answer.problem else None,
                "state": {
                    "folder": str(local_state.folder),
                    "key": local_state.key,
                    "kubeconfig": local_state.kubeconfig,
                    "last_run": local_state.last_run or None,
                }
                if local_state
                else None,
            }
        )
    return {"project": _project_data(answer.project), "problem": answer.problem or None, "clusters": clusters}


def _project_data(project: Any) -> dict[str, str] | None:
    if project is None:
        return None
    return {"auth_url": project.auth_url, "project_id": project.project_id, "region": project.region}
