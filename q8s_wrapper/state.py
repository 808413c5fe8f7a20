"""Local state of a cluster: its folder, the lock against concurrent runs, and the logs of earlier runs.

The folder is ``<root>/<cloud>/<cluster>``, because cluster names are unique only within one project of one cloud. The
collection computes the path (``_state.py``): the inventory plugin needs it, too. Runs in check mode change no state:
their logs are in the cache.

The only secrets in the folder are the SSH key and the kubeconfig. Everything except the SSH key can be restored from
the cluster file and the cloud.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import messages
from q8s_wrapper.config import add_collections_to_path, state_root
from q8s_wrapper.errors import ExitCode, WrapperError

_RUNS_KEPT: Final = 10  # logs of runs that change the cluster, and as many of each other command
_CHANGING: Final = frozenset({"deploy", "replace", "upgrade", "renew", "destroy"})
_LOCK: Final = "lock"
LOG: Final = "ansible.log"


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


@contextmanager
def locked(folder: Path, what: str) -> Iterator[Path]:
    """Hold the cluster's lock within the context.

    :param what: the command, for the message of a run that finds the lock taken
    :returns: yields the lock file. Child processes take a shared lock on it, and so hold the cluster, too
    :raises WrapperError: another run holds the lock; the message names it
    """
    path = folder / _LOCK
    with path.open("a+", errors="replace") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise _lock_error(folder.name, _parse_owner(stream.read())) from None
        _write_owner(
            path, f"{os.getpid()}\nq8s-run {what} (process {os.getpid()}, since {time.strftime('%H:%M:%S')})\n"
        )
        # Downgrade the lock: child processes can share it, and no other run can take it exclusively.
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield path


@dataclass(frozen=True)
class Owner:
    """The process that holds a cluster's lock, and its command in words."""

    pid: int
    what: str


def owner(folder: Path) -> Owner | None:
    """Return who holds the cluster's lock, or None if nobody does."""
    try:
        with (folder / _LOCK).open("r+", errors="replace") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse_owner(stream.read()) or Owner(0, "another process")
    except FileNotFoundError:
        pass
    return None


def _parse_owner(text: str) -> Owner | None:
    """Return the owner from the content of a lock file, or None if it names none."""
    pid, _, what = text.partition("\n")
    known = re.fullmatch(r"[1-9][0-9]{0,6}", pid) and what  # Linux has at most 2^22 processes
    return Owner(int(pid), what.splitlines()[0]) if known else None


def _write_owner(path: Path, text: str) -> None:
    """Write the owner of a lock into the lock file.

    :raises OSError: the file cannot be written. Unlike Python's error for a full disk, it has the path
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def shared(folder: Path) -> Path:
    """Return the lock file of read-only runs. Any number of them may run, also beside a run that holds the cluster."""
    path = folder / "reading"
    path.touch(mode=0o600)
    return path


def _lock_error(cluster_name: str, owner: Owner | None) -> WrapperError:
    """Return the error for a cluster whose lock is taken.

    :param owner: who holds it, or None if that is not known
    """
    if owner is None:
        return WrapperError(f"Failed to start: another process is working on cluster {cluster_name}")
    pid, holder = owner.pid, owner.what
    if _process_exists(pid):
        return WrapperError(
            f"Failed to start: {holder} is working on cluster {cluster_name}",
            f"wait for it, or stop it: kill -INT {pid}",
        )
    return WrapperError(
        f"Failed to start: {holder} was killed, and its processes on cluster {cluster_name} have not exited yet",
        "try again in a few seconds",
    )


def _process_exists(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def new_run(folder: Path, what: str, alone: bool) -> Path:
    """Create the folder for the log of a run, and remove the oldest logs.

    Logs of runs that change the cluster are counted together, those of each other command separately. So a look at the
    cluster removes no log of a longer run, whose files it may still need.

    :param folder: the cluster's folder
    :param what: the command
    :param alone: whether this run holds the cluster's lock, so that logs of killed runs can be completed
    """
    runs = folder / "runs"
    runs.mkdir(mode=0o700, exist_ok=True)
    # The order of names is the order of time; with microseconds, also for two playbooks of one command.
    run = runs / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{what}"
    earlier_runs = [earlier for earlier in past_runs(folder) if _kind(earlier) == _kind(run)]
    for old in earlier_runs[: -(_RUNS_KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    for killed in earlier_runs[-(_RUNS_KEPT - 1) :] if alone else []:
        keep_log(killed)
    run.mkdir(mode=0o700)
    return run


def _kind(run: Path) -> str:
    """Return the kind of runs among which a log is counted: all that change the cluster, or those of its command."""
    return "changing" if changing(run) else run.name.lstrip("0123456789-")


def changing(run: Path) -> bool:
    """Return whether a run is of a command that may change the cluster, by the name of its folder."""
    return not _CHANGING.isdisjoint(run.name.split("-"))


def past_runs(folder: Path) -> list[Path]:
    """Return the folders of earlier runs, oldest first. Other files beside them are a user's."""
    runs = folder / "runs"
    return sorted(run for run in runs.iterdir() if run.is_dir()) if runs.is_dir() else []


def keep_log(run: Path) -> Path:
    """Keep Ansible's output of a run as its log, and delete ansible-runner's other files, which may hold secrets.

    :returns: path of the log
    """
    log = run / LOG
    if (run / "artifacts").exists():
        with suppress(OSError):
            (run / "artifacts" / "run" / "stdout").replace(log)
            log.chmod(0o600)
    for leftover in ("artifacts", "env", "inventory"):
        shutil.rmtree(run / leftover, ignore_errors=True)
    (run / "pid").unlink(missing_ok=True)
    return log
