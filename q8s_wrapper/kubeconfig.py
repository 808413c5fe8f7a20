"""Write and merge kubeconfig files."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypedDict

from q8s_wrapper import damage
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.private_file import write_private

_PARTS: Final = ("clusters", "contexts", "users")


class _Server(TypedDict):
    server: str


class _Cluster(TypedDict):
    cluster: _Server


class _User(TypedDict):
    user: Mapping[str, Any]


class _Kubeconfig(TypedDict):
    """What is read of a cluster's kubeconfig."""

    clusters: list[_Cluster]
    users: list[_User]


def user_file() -> Path:
    """Return the user's kubeconfig, which kubectl changes: the first of ``KUBECONFIG``, else ``~/.kube/config``."""
    names = [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]  # kubectl skips empty ones
    return Path(names[0]) if names else Path.home() / ".kube" / "config"


def read(path: Path) -> str | None:
    """Return the kubeconfig of a cluster as YAML, or None if there is none or the file is not a whole one."""
    try:
        text = path.read_text()
        with damage.explained() as read:
            place = read.Place(str(path))
            content = read.parse(_Kubeconfig, read.yaml_data(text, place), place)
        port = urllib.parse.urlsplit(content["clusters"][0]["cluster"]["server"]).port
        return text if content["users"][0]["user"] and port != 0 else None
    except (FileNotFoundError, damage.DamagedError, ValueError, LookupError):
        return None


def is_reachable(text: str, timeout: float = 3) -> bool:
    """Return whether the API server of a kubeconfig says that it is ready. Without a working etcd, it is not.

    Its certificate is not checked, and nothing secret is sent.

    :param text: the kubeconfig as YAML
    :param timeout: in seconds, of each step
    """
    import yaml

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=context))
    url = yaml.safe_load(text)["clusters"][0]["cluster"]["server"]
    try:
        with opener.open(urllib.parse.urljoin(url, "/readyz"), timeout=timeout) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def renamed(text: str, name: str) -> str:
    """Rename the cluster, context and user of a kubeconfig: kubeadm uses the same names for every cluster.

    :param text: the kubeconfig as YAML
    :param name: name of the cluster
    :returns: the renamed kubeconfig as YAML
    """
    import yaml

    return yaml.safe_dump(merged_with(None, yaml.safe_load(text), name), sort_keys=False)


def write(target: Path, text: str, name: str) -> None:
    """Write a cluster's kubeconfig to a file of its own. Cluster, context and user get the cluster's name.

    :param target: a file that is missing, empty, or has nothing but this cluster
    :param text: the cluster's kubeconfig as YAML
    :param name: name of the cluster
    :raises WrapperError: the file has something else
    """
    if target.exists() and not _is_replaceable(target, name):
        raise WrapperError(
            f"{target} exists, and is not the kubeconfig of cluster {name} alone: nothing was changed",
            "choose another file; --merge adds the cluster to your own kubeconfig",
            ExitCode.WRONG_INPUT,
        )
    write_private(target.resolve(), renamed(text, name))  # the user may have put a link there


def _is_replaceable(target: Path, name: str) -> bool:
    """Return whether a file has nothing that a cluster's kubeconfig would replace but its earlier one."""
    if not target.is_file():  # such as /dev/stdout
        return False
    try:
        with damage.explained() as read:
            content = read.yaml_data(read.text(target), read.Place(str(target)))
    except damage.DamagedError:
        return False
    if content is None:
        return target.stat().st_size == 0
    if not isinstance(content, dict):
        return False
    entries = [entry for part in _PARTS for entry in content.get(part) or [None]]
    return all(isinstance(entry, dict) and entry.get("name") == name for entry in entries)


def merge(target: Path, text: str, name: str) -> Path | None:
    """Merge a cluster's kubeconfig into a file, and make its context the current one.

    Cluster, context and user get the cluster's name. Entries of that name are replaced; all others are kept.

    :param target: the file to change
    :param text: the cluster's kubeconfig as YAML
    :param name: name of the cluster
    :returns: the backup of the file, or None if the file did not exist
    :raises WrapperError: the file is not a kubeconfig
    """
    import yaml

    existing: Any = None
    if target.exists():
        try:
            with damage.explained() as read:
                existing = read.yaml_data(read.text(target), read.Place(str(target)))
        except damage.DamagedError as error:
            raise _merge_error(target, error.reason) from None
    merged = merged_with(existing, yaml.safe_load(text), name)
    if merged is None:
        raise _merge_error(target, "it has no lists of clusters, contexts and users")
    backup = None
    if target.exists():
        backup = target.with_name(f"{target.name}.q8s-{datetime.now():%Y%m%d-%H%M%S-%f}")
        shutil.copy2(target, backup)
    write_private(target.resolve(), yaml.safe_dump(merged, sort_keys=False))  # the user may have put a link there
    return backup


def _merge_error(target: Path, reason: str) -> WrapperError:
    return WrapperError(
        f"Failed to merge into {target}: {reason}",
        "fix it, or use --write to create a separate file",
        ExitCode.WRONG_INPUT,
    )


def merged_with(existing: Any, ours: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return a kubeconfig merged with the cluster's, whose context is the current one.

    :param existing: content of the file to merge into; None for a new one
    :param ours: content of the cluster's kubeconfig
    :param name: name of cluster, context and user in the result
    :returns: the merged content, or None if ``existing`` is not a kubeconfig
    """
    base = {"apiVersion": "v1", "kind": "Config"} if existing is None else existing
    if not isinstance(base, dict) or not all(isinstance(base.get(part) or [], list) for part in _PARTS):
        return None
    entries = {
        "clusters": {"name": name, "cluster": ours["clusters"][0]["cluster"]},
        "contexts": {"name": name, "context": {"cluster": name, "user": name}},
        "users": {"name": name, "user": ours["users"][0]["user"]},
    }
    merged = dict(base)
    for part, entry in entries.items():
        others = [item for item in base.get(part) or [] if not isinstance(item, dict) or item.get("name") != name]
        merged[part] = [*others, entry]
    merged["current-context"] = name
    return merged
