"""Build without root: run this program again in a user namespace, where the user is root over a range of ids.

In the namespace, mmdebstrap can chroot, containerd can mount overlays, and files can have owners other than the user.
Two things are not possible: creating device nodes (not needed: a guest has devtmpfs) and using loop devices.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from q8s_bundle import cache, search_path

# The namespace needs ids 0 to 65534 (nobody). One is the user's own; /etc/subuid provides the others.
_IDS: Final = 65534
_ENTER: Final = (
    *("unshare", "--user", "--map-root-user", "--map-auto"),
    *("--mount", "--pid", "--fork", "--kill-child=KILL", "--"),
)
# containerd looks itself up in /proc by its process id in the namespace, so it needs a new /proc. The machine's
# binfmt_misc rules are bound into it: they run programs of other architectures.
_PREPARE: Final = """\
set -e
rules=/proc/sys/fs/binfmt_misc
if [ -e $rules/register ]; then
    kept=$(mktemp -d)
    mount --bind $rules "$kept"
    mount -t proc proc /proc
    mount --bind "$kept" $rules
    umount "$kept"
    rmdir "$kept"
else
    mount -t proc proc /proc
fi
exec "$@"
"""
_MARK: Final = "Q8S_BUNDLE_NAMESPACE"  # environment variable of a process that `run` started
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_APPARMOR: Final = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_DEBIAN_SWITCH: Final = Path("/proc/sys/kernel/unprivileged_userns_clone")
_MAXIMUM: Final = Path("/proc/sys/user/max_user_namespaces")


def needed() -> bool:
    """Return whether a build has to run in a namespace: this process is not root."""
    return os.geteuid() != 0


def range_missing(file: Path, names: Sequence[str]) -> bool:
    """Return whether no user has a sufficient range of subordinate ids.

    :param file: /etc/subuid or /etc/subgid (subuid(5))
    :param names: names of the user, see user_names()
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    for line in lines:
        owner, _, numbers = line.partition(":")
        count = numbers.rpartition(":")[2]
        if owner in names and count.isdecimal() and int(count) >= _IDS:
            return False
    return True


def user_names() -> list[str]:
    """Return the names by which /etc/subuid may list this user: the login name and the user id."""
    number = os.getuid()
    with suppress(KeyError):
        return [pwd.getpwuid(number).pw_name, str(number)]
    return [str(number)]


def refusal() -> tuple[str, str] | None:
    """Try to create a namespace and to mount in it.

    :returns: why it failed and what to do about it, or None if it works
    """
    mount = "mount -t tmpfs tmpfs /sys && chown 1:1 /sys"
    command = [*_ENTER, "sh", "-c", _PREPARE, "sh", "sh", "-c", mount]
    try:
        tried = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        return f"unshare cannot be run: {error.strerror}", "install util-linux 2.38 or newer"
    if tried.returncode == 0:
        return None
    said = tried.stderr.strip().replace("\n", "; ") or f"unshare exited with code {tried.returncode}"
    if "unrecognized option" in said:
        return f"unshare is too old: {said}", "install util-linux 2.38 or newer"
    for switch, bad, name in (
        (_APPARMOR, "1", "kernel.apparmor_restrict_unprivileged_userns"),
        (_DEBIAN_SWITCH, "0", "kernel.unprivileged_userns_clone"),
        (_MAXIMUM, "0", "user.max_user_namespaces"),
    ):
        if _read(switch) == bad:
            good = {"0": "1", "1": "0"}[bad] if switch is not _MAXIMUM else "10000"
            return (
                f"{name} is {bad}, so that the kernel refuses user namespaces to ordinary users ({said})",
                f"set it as root: sysctl {name}={good}",
            )
    return f"this machine refuses a user namespace with mounts: {said}", "build as root, or on another machine"


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def environment(user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the program in the namespace.

    :param user: the environment of this process
    """
    package = str(Path(__file__).resolve().parent.parent)
    return {
        **user,
        "PATH": search_path.complete(user.get("PATH", "")),
        "HOME": str(Path.home()),
        "Q8S_CACHE": str(cache.cache_root()),
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [user.get("PYTHONPATH")])]),
        # Archives of root file systems have device nodes, which cannot be created in a namespace.
        "TAR_OPTIONS": "--exclude=./dev/*",
        _MARK: "1",
    }


def run(arguments: Sequence[str]) -> int:
    """Run ``bundle ARGUMENTS`` in a namespace, and return its exit code.

    It stops when this process exits or is killed: the kernel kills all processes of a pid namespace.
    """
    package = __name__.partition(".")[0]
    # The child's standard input is a pipe: it reads the end of file when this process exits (end_with_parent).
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [*_ENTER, "sh", "-c", _PREPARE, "sh", sys.executable, "-m", package, *arguments],
            stdin=reader,
            env=environment(os.environ),
            process_group=0,  # the terminal sends Ctrl-C only to this process, which forwards it
        )
    finally:
        os.close(reader)
    interrupted = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    with _handled_by(pass_on):
        try:
            code = process.wait()
        finally:
            os.close(writer)
    return 130 if interrupted else code if code >= 0 else 1


@contextmanager
def _handled_by(handler: signal._HANDLER) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP with a handler within the context."""
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def end_with_parent() -> None:
    """Send SIGTERM to this process when its parent exits, if `run` started it."""
    if not os.environ.pop(_MARK, ""):
        return

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
