"""Local state of one cluster: a folder of its own, a lock against a second run, and the logs of earlier runs.

The folder is ``<root>/<cloud>/<cluster>``: names of clusters are unique in one project of one cloud only. The
collection computes it (``_state.py``), for the inventory plugin needs it, too. Runs in check mode change no state:
their logs are in the cache.

Nothing secret but the ssh key is in it, and all but that key can be made again from the cluster file and the cloud.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import messages
from q8s_wrapper.config import add_collections_to_path, state_root
from q8s_wrapper.errors import ExitCode, WrapperError

_RUNS_KEPT: Final = 10  # of those that change the cluster, and as many of those that look at it
_CHANGING: Final = frozenset({"deploy", "replace", "destroy"})
_LOCK: Final = "lock"
LOG: Final = "ansible.log"


def create_root() -> Path:
    """Return the folder with the state of all clusters, created if it is missing.

    :raises WrapperError: it is not a folder that this user may write to
    """
    return _private_folder(state_root())


def cluster_folder(cluster_name: str, *, changes: bool = True) -> Path:
    """Return the cluster's folder, created if it is missing, readable by its owner only.

    :param changes: whether the run may change the cluster: then the cloud says which project this is. Otherwise, what
        an earlier deploy recorded is enough
    :raises WrapperError: the folder cannot be used, or the project is not known
    """
    root = create_root()
    return _private_folder(_private_folder(_place(root, cluster_name, changes, move=True).parent) / cluster_name)


def check_folder(cluster_name: str) -> Path:
    """Return the folder for logs of runs in check mode, created if it is missing, in the cache.

    :raises WrapperError: the folder cannot be used, or the project is not known
    """
    from q8s_bundle.cache import cache_root

    root = state_root()
    folder = cache_root() / "checks" / _place(root, cluster_name, online=True, move=False).relative_to(root)
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
    """Return the cluster's folder for a command that needs no cloud: the cloud is asked only where it must be.

    Where no cloud is configured or it does not answer, the only cluster of that name on this machine is meant.

    :raises WrapperError: several clusters of that name are here, or only those of other clouds
    """
    from_collection = _Modules()
    root = state_root()
    places = [Path(place) for place in from_collection.state.local_folders(str(root), cluster_name)]
    try:
        place = _place(root, cluster_name, online=False, move=False)
    except CloudUnknownError as error:
        if len(places) == 1:
            messages.warning(f"{str(error).splitlines()[0]}. Used is the only cluster {cluster_name} here: {places[0]}")
            return places[0]
        if places:
            raise WrapperError(
                f"{str(error).splitlines()[0]}; this machine has several clusters {cluster_name}: {_named(places)}",
                "choose the cloud: OS_CLOUD names one of clouds.yaml",
            ) from None
        return root / cluster_name
    if not place.exists() and places:
        raise WrapperError(
            f"Failed to find local state of cluster {cluster_name} in this cloud ({place}); "
            f"other clouds have a cluster of that name: {_named(places)}",
            "choose the cloud: OS_CLOUD names one of clouds.yaml",
        )
    return place


def _named(places: list[Path]) -> str:
    """Return state folders with the project that each belongs to."""
    read = _Modules().state.read_record
    named = [(place, read(str(place))) for place in places]
    return ", ".join(f"{place} ({record.project})" if record else str(place) for place, record in named)


class CloudUnknownError(WrapperError):
    """The cloud cannot be asked which project this is."""


class _Modules:
    """The modules of the collection that know clouds and state."""

    def __init__(self) -> None:
        add_collections_to_path()
        from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _plan, _state

        self.cloud, self.plan, self.state = _cloud, _plan, _state


def connect() -> Any:
    """Return a connection to the cloud that the environment chooses.

    :raises WrapperError: the cloud cannot be asked
    """
    modules = _Modules()
    try:
        return modules.cloud.connect(os.environ.get("OS_CLOUD"))
    except modules.cloud.CloudError as error:
        raise CloudUnknownError(str(error)) from None


def login() -> str:
    """Return the fingerprint of the credentials that the environment chooses, without asking the cloud.

    :raises WrapperError: there are none
    """
    modules = _Modules()
    try:
        return str(modules.cloud.login(os.environ.get("OS_CLOUD")))
    except modules.cloud.CloudError as error:
        raise CloudUnknownError(str(error)) from None


def _place(root: Path, cluster_name: str, online: bool, move: bool) -> Path:
    """Return where the state of a cluster is. What was found in an earlier layout is said.

    :param online: whether the cloud has to say which project this is, although an earlier deploy recorded it
    :param move: whether an earlier layout may be moved
    """
    modules = _Modules()
    if not online:
        project = modules.state.known_project(str(root), cluster_name, login())
        if project:
            return Path(modules.state.folder(str(root), project, cluster_name))
    cloud = connect()
    try:
        place = modules.state.settle(
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
    if place.note:
        (messages.info if place.moved else messages.warning)(place.note)
    return Path(place.folder)


def _private_folder(folder: Path) -> Path:
    try:
        if not folder.is_dir():
            if folder.exists():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder != state_root():  # which may be the user's own choice, and shared
            folder.chmod(0o700)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise WrapperError(
            f"Failed to use the state folder {folder}{_origin()}: {error.strerror}",
            "set Q8S_STATE to a folder that you may write to",
            ExitCode.WRONG_INPUT,
        ) from None
    return folder


def _origin() -> str:
    """Return which variable names the state folder, in brackets."""
    for name in ("Q8S_STATE", "XDG_STATE_HOME", "HOME"):
        if value := os.environ.get(name):
            return f" ({name} is {value!r})"
    return ""


@contextmanager
def locked(folder: Path, what: str) -> Iterator[Path]:
    """Hold the cluster for one run. Yield the lock's file: who else takes it shared holds the cluster as well.

    :raises WrapperError: another run holds it; the message says which
    """
    path = folder / _LOCK
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise _refused(folder.name, stream.read()) from None
        _write_owner(
            path, f"{os.getpid()}\nq8s-run {what} (process {os.getpid()}, since {time.strftime('%H:%M:%S')})\n"
        )
        # From here on another may share it, but none may have it alone.
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield path


def _write_owner(path: Path, text: str) -> None:
    """Write who holds a lock into its file.

    :raises OSError: with the path, which that of a full disk has not
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def shared(folder: Path) -> Path:
    """The lock of runs that change nothing: any number of them may go on, beside one that holds the cluster too."""
    path = folder / "reading"
    path.touch(mode=0o600)
    return path


def _refused(cluster_name: str, owner: str) -> WrapperError:
    """Return why the cluster cannot be used; ``owner`` is what its holder wrote into the lock."""
    lines = owner.splitlines()
    if len(lines) < 2 or not lines[0].isdecimal():
        return WrapperError(f"Failed to start: another process is working on cluster {cluster_name}")
    pid, holder = int(lines[0]), lines[1]
    if _runs(pid):
        return WrapperError(
            f"Failed to start: {holder} is working on cluster {cluster_name}",
            f"wait for it, or end it: kill -INT {pid}",
        )
    return WrapperError(
        f"Failed to start: {holder} was killed, and what it started on cluster {cluster_name} is still ending",
        "try again in a few seconds",
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def new_run(folder: Path, what: str, alone: bool) -> Path:
    """A folder for the log of this run.

    Of earlier runs of its kind, all but the newest are removed: looks at a cluster never push out what a deploy wrote.

    :param alone: whether no other run goes on that may change the cluster
    """
    runs = folder / "runs"
    runs.mkdir(mode=0o700, exist_ok=True)
    earlier = [run for run in past_runs(folder) if changing(run) == (what in _CHANGING)]
    for old in earlier[: -(_RUNS_KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    for killed in earlier[-(_RUNS_KEPT - 1) :] if alone else []:
        keep_log(killed)
    # Sorted by name they are sorted by time, also those of one command that runs two playbooks.
    run = runs / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{what}"
    run.mkdir(mode=0o700)
    return run


def changing(run: Path) -> bool:
    """Whether a run, by its folder's name, was one that may change the cluster."""
    return not _CHANGING.isdisjoint(run.name.split("-"))


def past_runs(folder: Path) -> list[Path]:
    """Folders of earlier runs, the oldest first."""
    runs = folder / "runs"
    return sorted(runs.iterdir()) if runs.is_dir() else []


def keep_log(run: Path) -> Path:
    """Keep the text of a run, and nothing else of what ansible-runner wrote: that has what tasks returned."""
    log = run / LOG
    if (run / "artifacts").exists():
        with suppress(OSError):
            (run / "artifacts" / "run" / "stdout").replace(log)
            log.chmod(0o600)
    for leftover in ("artifacts", "env", "inventory"):
        shutil.rmtree(run / leftover, ignore_errors=True)
    (run / "pid").unlink(missing_ok=True)
    return log
