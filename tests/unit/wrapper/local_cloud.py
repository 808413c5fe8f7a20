"""A stub cloud that answers which project it is, and local state of its clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _state

PROJECT = _state.Project("https://cloud.example.org:5000", "0123456789abcdef", "RegionOne", "login")


@dataclass
class Cloud:
    """Stands in for the client of a project, and for its key pairs, clusters and servers."""

    found: _state.Project = PROJECT
    key: str | None = None
    clusters_found: Sequence[Any] = ()
    problem: str = ""
    asked: list[str] = field(default_factory=list)

    def project(self) -> _state.Project:
        self.asked.append("project")
        return self.found

    def user_id(self) -> str:
        return "me"

    @property
    def keypairs(self) -> Cloud:
        return self

    @property
    def clusters(self) -> Cloud:
        return self

    @property
    def servers(self) -> Cloud:
        return self

    def find_public_key(self, name: str) -> str | None:
        return self.key

    def list_servers(self) -> Sequence[Any]:
        return []

    def list_clusters(self) -> Sequence[Any]:
        return self.clusters_found


def cluster_state(root: Path, name: str = "demo", project: _state.Project = PROJECT) -> Path:
    """Return the state folder of a cluster."""
    return Path(_state.folder(str(root), project, name))


def recorded(root: Path, name: str = "demo", project: _state.Project = PROJECT) -> Path:
    """Create the state folder of a cluster that was deployed; return it."""
    folder = cluster_state(root, name, project)
    folder.mkdir(parents=True)
    (folder / "cluster.json").write_text(_state.record_text(str(folder), project, name))
    return folder
