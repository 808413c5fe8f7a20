# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the local state of a cluster is: ``<root>/<cloud>/<cluster>``.

A cluster's name is unique in one project of one cloud only, so the folder of the cloud stands for authentication URL,
project and region. The inventory plugin and ``q8s-run`` both compute it here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible_collections.q8s.emu.plugins.module_utils import _read

RECORD = "cluster.json"
KEY = "id_ed25519"
KUBECONFIG = "kubeconfig"
# What cannot be made again from the cluster file, or lets somebody in.
_PRECIOUS = (KEY, KUBECONFIG)
# Fields of clouds.yaml that say who logs in where. None of them is a secret.
_LOGIN_FIELDS = (
    "application_credential_id",
    "application_credential_name",
    "user_id",
    "username",
    "user_domain_id",
    "user_domain_name",
    "project_id",
    "project_name",
    "project_domain_id",
    "project_domain_name",
    "domain_id",
    "domain_name",
    "system_scope",
)


class StateError(Exception):
    """The state folder cannot be used. ``str()`` is a message for people, with a hint line."""


@dataclass(frozen=True)
class Project:
    """A project in a region of a cloud, in which names of clusters are unique."""

    auth_url: str
    project_id: str
    region: str = ""
    login: str = field(default="", compare=False)  # of the credentials that it was reached with, see fingerprint()

    def __str__(self) -> str:
        region = f", region {self.region}" if self.region else ""
        return f"project {self.project_id} of {self.auth_url}{region}"


@dataclass(frozen=True)
class Record:
    """What a state folder says about itself."""

    project: Project
    cluster_name: str
    logins: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Data:
    """The content of a state folder's record."""

    auth_url: str
    project_id: str
    cluster_name: str
    region: str = ""
    logins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A cluster's state folder, and what a person should know about how it was found."""

    folder: str
    note: str = ""
    moved: bool = False


def normalized(auth_url: str) -> str:
    """Return an authentication URL without what two spellings of one may differ in: version, slash, case."""
    parts = urlsplit(auth_url.strip())
    path = re.sub(r"/v[0-9.]+$", "", parts.path.rstrip("/"))
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{path}" if parts.netloc else auth_url.strip()


def fingerprint(auth: Mapping[str, Any], region: str) -> str:
    """Return a hash that names credentials, without their secrets: it tells a project again while offline."""
    known = [normalized(str(auth.get("auth_url") or "")), region]
    known += [f"{name}={auth[name]}" for name in _LOGIN_FIELDS if auth.get(name)]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]


def cloud_folder(project: Project) -> str:
    """Return the name of the folder for all clusters of a project: the cloud's host, and a hash."""
    host = re.sub(r"[^a-z0-9.-]", "", (urlsplit(project.auth_url).hostname or "cloud").lower())[:24].strip(".-")
    words = (normalized(project.auth_url), project.project_id, project.region)
    return f"{host or 'cloud'}-{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:8]}"


def folder(root: str, project: Project, cluster_name: str) -> str:
    """Return the state folder of a cluster."""
    return os.path.join(root, cloud_folder(project), cluster_name)


def read_record(place: str) -> Optional[Record]:
    """Return what the folder says about itself; None if it says nothing that can be understood."""
    try:
        data: _Data = _read.json_file(os.path.join(place, RECORD), _Data)
        normalized(data.auth_url)
    except (FileNotFoundError, _read.ReadError, ValueError):  # ValueError: it is no URL
        return None
    return Record(Project(data.auth_url, data.project_id, data.region), data.cluster_name, data.logins)


def record_text(place: str, project: Project, cluster_name: str) -> str:
    """Return what the folder's record has to contain: logins that are known already stay."""
    before = read_record(place)
    logins = {*(before.logins if before else ()), *([project.login] if project.login else [])}
    data = {
        "auth_url": normalized(project.auth_url),
        "project_id": project.project_id,
        "region": project.region,
        "cluster_name": cluster_name,
        "logins": sorted(logins),
    }
    return json.dumps(data, indent=2) + "\n"


def check(place: str, project: Project, cluster_name: str) -> None:
    """Refuse a folder whose record names another cluster.

    :raises StateError: it does
    """
    found = read_record(place)
    if found is None:
        return
    same = (normalized(found.project.auth_url), found.project.project_id, found.project.region, found.cluster_name)
    if same != (normalized(project.auth_url), project.project_id, project.region, cluster_name):
        raise StateError(
            f"Failed to use the state folder {place}: its {RECORD} names cluster {found.cluster_name} in "
            f"{found.project}, and this is cluster {cluster_name} in {project}"
            "\nhint: move the folder away, or choose the cloud that it belongs to (OS_CLOUD)"
        )


def local_folders(root: str, cluster_name: str = "*") -> list[str]:
    """Return the state folders on this machine, of all clusters or those of one name; earlier layouts come last."""
    found, earlier = [], []
    for name in _listed(root):
        outer = os.path.join(root, name)
        if name.startswith(".") or not os.path.isdir(outer):
            continue
        if is_earlier_layout(outer):
            earlier += [outer] if cluster_name in ("*", name) else []
            continue
        for inner in _listed(outer):
            place = os.path.join(outer, inner)
            if cluster_name in ("*", inner) and not inner.startswith(".") and os.path.isdir(place):
                found.append(place)
    return found + earlier


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def is_earlier_layout(place: str) -> bool:
    """Return whether a folder directly below the root is the state of a cluster, as before clouds had folders."""
    return any(os.path.lexists(os.path.join(place, name)) for name in (*_PRECIOUS, "runs", "lock", "history.jsonl"))


def known_project(root: str, cluster_name: str, login: str) -> Optional[Project]:
    """Return the project that these credentials reached when the cluster was deployed; None if that is not known."""
    projects = {
        record.project
        for record in map(read_record, local_folders(root, cluster_name))
        if record and login in record.logins
    }
    return projects.pop() if len(projects) == 1 else None


def settle(
    root: str, project: Project, cluster_name: str, cloud_key: Callable[[], Optional[str]], move: bool = True
) -> Place:
    """Return the state folder of a cluster, after it took over the folder of an earlier layout.

    Before clouds had folders, a cluster's state was in ``<root>/<cluster>``. That folder belongs to this cloud if its
    key is the one that the cloud has for the cluster.

    :param cloud_key: returns the public key of the cluster's key pair in the cloud, or None
    :param move: whether an earlier folder may be moved; otherwise it is used where it is
    :raises StateError: the folder belongs to another cluster, or another run uses the earlier one
    """
    place = folder(root, project, cluster_name)
    check(place, project, cluster_name)
    earlier = os.path.join(root, cluster_name)
    if not _has_precious(earlier) or _has_precious(place):
        return Place(place)
    if _same_key(_text(os.path.join(earlier, KEY + ".pub")), cloud_key() or ""):
        if not move:
            return Place(earlier)
        _move(earlier, place, cluster_name)
        _write(os.path.join(place, RECORD), record_text(place, project, cluster_name))
        return Place(place, f"the state of cluster {cluster_name} was moved from {earlier} to {place}", moved=True)
    if read_record(place) is not None:
        return Place(place)
    return Place(
        place,
        f"{earlier} has the ssh key or kubeconfig of a cluster {cluster_name} from an earlier version of Q8S. Nothing "
        f"proves that it is the one in {project}, so it is left alone. If it is, move the folder to {place}",
    )


def _has_precious(place: str) -> bool:
    return any(os.path.lexists(os.path.join(place, name)) for name in _PRECIOUS)


def _same_key(one: str, other: str) -> bool:
    """Return whether two public keys are the same, whatever their comments."""
    return bool(one.split()[:2]) and one.split()[:2] == other.split()[:2]


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _move(earlier: str, place: str, cluster_name: str) -> None:
    """Move a state folder, unless a run of an earlier version holds its lock. What is at the new place stays."""
    with open(os.path.join(earlier, "lock"), "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(
                f"Failed to move the state folder {earlier}: another run is working on cluster {cluster_name}"
                "\nhint: wait until it has finished"
            ) from None
        os.makedirs(place, mode=0o700, exist_ok=True)
        for name in _listed(earlier):
            target = os.path.join(place, name)
            if not os.path.lexists(target):
                os.rename(os.path.join(earlier, name), target)
    with suppress(OSError):
        os.rmdir(earlier)


def _write(path: str, text: str) -> None:
    """Write a file that only its owner may read, in one step."""
    fresh = f"{path}.{os.getpid()}"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(fresh, path)
