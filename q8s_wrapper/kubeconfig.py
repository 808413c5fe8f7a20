"""Write and merge kubeconfig files."""

from __future__ import annotations

import os
import shutil
import socket
import time
import urllib.parse
from pathlib import Path
from typing import Any, Final

from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.private_file import write_private

_PARTS: Final = ("clusters", "contexts", "users")


def user_file() -> Path:
    """Return the user's kubeconfig, which kubectl changes: the first of ``KUBECONFIG``, else ``~/.kube/config``."""
    first = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    return Path(first) if first else Path.home() / ".kube" / "config"


def is_reachable(text: str, timeout: float = 3) -> bool:
    """Return whether the API server of a kubeconfig accepts connections.

    :param text: the kubeconfig as YAML
    :param timeout: in seconds
    """
    import yaml

    url = urllib.parse.urlsplit(yaml.safe_load(text)["clusters"][0]["cluster"]["server"])
    try:
        with socket.create_connection((url.hostname, url.port or 443), timeout):
            return True
    except OSError:
        return False


def renamed(text: str, name: str) -> str:
    """Rename the cluster, context and user of a kubeconfig: kubeadm uses the same names for every cluster.

    :param text: the kubeconfig as YAML
    :param name: name of the cluster
    :returns: the renamed kubeconfig as YAML
    """
    import yaml

    return yaml.safe_dump(merged_with(None, yaml.safe_load(text), name), sort_keys=False)


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
            existing = yaml.safe_load(target.read_text())
        except yaml.YAMLError as error:
            raise _merge_error(target, str(error).splitlines()[0]) from None
    merged = merged_with(existing, yaml.safe_load(text), name)
    if merged is None:
        raise _merge_error(target, "it has no lists of clusters, contexts and users")
    backup = None
    if target.exists():
        backup = target.with_name(f"{target.name}.q8s-{time.strftime('%Y%m%d-%H%M%S')}")
        shutil.copy2(target, backup)
    write_private(target, yaml.safe_dump(merged, sort_keys=False))
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
