"""The folder with the local state of a cluster.

The folder is ``<root>/<cloud>/<cluster>``, because cluster names are unique only within one project of one cloud. The
collection computes the path (``_state.py``): the inventory plugin needs it, too. Runs in check mode change no state:
their logs are in the cache.

The only secrets in the folder are the SSH key and the kubeconfig. Everything except the SSH key can be restored from
the cluster file and the cloud.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from q8s_wrapper import messages
from q8s_wrapper.config import add_collections_to_path, state_root
from q8s_wrapper.errors import ExitCode, WrapperError


def create_root() -> Path:
    """Create the folder with the state of all clusters if it is missing, and return it.

    :raises WrapperError: it is not a folder, or this user may not write to it
    """
    return _private_folder(state_root())


def cluster_folder(cluster_name: str, *, online: bool = True) -> Path:
    """Create the cluster's folder with mode 0700 if it is missing, and return it.

    :param online: whether to ask the cloud for the project. Otherwise, the one that an earlier deploy recorded is
        sufficient
    :raises WrapperError: the folder is not usable, or the project is not known
    """
    root = create_root()
    return _private_folder(_private_folder(_locate_folder(root, cluster_name, online, move=True).parent) / cluster_name)


def check_folder(cluster_name: str) -> Path:
    """Create the folder for logs of runs in check mode if it is missing, and return it. It is in the cache.

    :raises WrapperError: the folder is not usable, or the project is not known
    """
    from q8s_bundle.cache import cache_root

    root = state_root()
    folder = cache_root() / "checks" / _locate_folder(root, cluster_name, online=True, move=False).relative_to(root)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WrapperError(
            f"Failed to use the cache folder {folder}: {error.strerror}",
            "set Q8S_CACHE to a folder that you may write to",
            ExitCode.WRONG_INPUT,
        ) from None
    return folder


def find(cluster_name: str) -> Path:
    """Find the cluster's folder for a command that can do without a cloud.

    Ask the cloud only if no project is recorded for the credentials. If no cloud is configured or it does not answer,
    return the folder of the only cluster of that name on this machine.

    :raises WrapperError: this machine has several clusters of that name, or only clusters of other clouds
    """
    modules = _Modules()
    root = state_root()
    locations = [Path(location) for location in modules.state.local_folders(str(root), cluster_name)]
    try:
        location = _locate_folder(root, cluster_name, online=False, move=False)
    except CloudUnknownError as error:
        if len(locations) == 1:
            messages.warning(
                f"{str(error).splitlines()[0]}. Using the only cluster {cluster_name} on this machine: {locations[0]}"
            )
            return locations[0]
        if locations:
            raise WrapperError(
                f"{str(error).splitlines()[0]}; this machine has several clusters {cluster_name}: "
                f"{_format_folders(locations)}",
                "choose the cloud: OS_CLOUD names one of clouds.yaml",
            ) from None
        return root / cluster_name
    if not location.exists() and locations:
        raise WrapperError(
            f"Failed to find local state of cluster {cluster_name} in this cloud ({location}); "
            f"other clouds have a cluster of that name: {_format_folders(locations)}",
            "choose the cloud: OS_CLOUD names one of clouds.yaml",
        )
    return location


def _format_folders(locations: list[Path]) -> str:
    """Format state folders, each with the project that it belongs to."""
    read = _Modules().state.read_record
    records = [(location, read(str(location))) for location in locations]
    return ", ".join(f"{location} ({record.project})" if record else str(location) for location, record in records)


class CloudUnknownError(WrapperError):
    """The cloud did not answer which project the credentials belong to."""


class _Modules:
    """The collection's modules for clouds, plans and state."""

    def __init__(self) -> None:
        add_collections_to_path()
        from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _plan, _state

        self.cloud, self.plan, self.state = _cloud, _plan, _state


def connect() -> Any:
    """Connect to the cloud that the environment selects.

    :returns: a ``_cloud.Cloud`` of the collection
    :raises CloudUnknownError: no cloud is configured, or it does not answer
    """
    modules = _Modules()
    try:
        return modules.cloud.connect(os.environ.get("OS_CLOUD"))
    except modules.cloud.CloudError as error:
        raise CloudUnknownError(str(error)) from None


def login() -> str:
    """Return the fingerprint of the credentials that the environment selects, without connecting to the cloud.

    :raises CloudUnknownError: there are no credentials
    """
    modules = _Modules()
    try:
        return str(modules.cloud.login(os.environ.get("OS_CLOUD")))
    except modules.cloud.CloudError as error:
        raise CloudUnknownError(str(error)) from None


def _locate_folder(root: Path, cluster_name: str, online: bool, move: bool) -> Path:
    """Return the path of a cluster's state folder, and report state in the layout of an earlier version.

    :param online: whether to ask the cloud for the project even if an earlier deploy recorded it
    :param move: whether to move state from an earlier layout
    """
    modules = _Modules()
    if not online:
        project = modules.state.known_project(str(root), cluster_name, login())
        if project:
            return Path(modules.state.folder(str(root), project, cluster_name))
    cloud = connect()
    try:
        location = modules.state.settle(
            str(root),
            cloud.project(),
            cluster_name,
            lambda: cloud.keypairs.find_public_key(modules.plan.keypair_name(cluster_name)),
            move=move,
        )
    except modules.cloud.CloudError as error:
        raise CloudUnknownError(str(error)) from None
    except modules.state.StateError as error:
        raise WrapperError(str(error), code=ExitCode.WRONG_INPUT) from None
    if location.note:
        (messages.info if location.moved else messages.warning)(location.note)
    return Path(location.folder)


def _private_folder(folder: Path) -> Path:
    """Create a folder with mode 0700 if it is missing, and return it.

    :raises WrapperError: it is not a folder, or this user may not write to it
    """
    try:
        if not folder.is_dir():
            if folder.exists():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder != state_root():  # the user may have chosen a shared folder as root
            folder.chmod(0o700)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise WrapperError(
            f"Failed to use the state folder {folder}{_root_variable()}: {error.strerror}",
            "set Q8S_STATE to a folder that you may write to",
            ExitCode.WRONG_INPUT,
        ) from None
    return folder


def _root_variable() -> str:
    """Return the variable that sets the state folder, in brackets, for a message."""
    for name in ("Q8S_STATE", "XDG_STATE_HOME", "HOME"):
        if value := os.environ.get(name):
            return f" ({name} is {value!r})"
    return ""
