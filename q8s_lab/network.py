"""The lab's part of this machine's network: a bridge, floating IPs, and machine-wide kernel settings."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

from q8s_lab import locks
from q8s_lab.errors import LabError
from q8s_lab.machine import read
from q8s_lab.settings import Settings


def bridge_up(settings: Settings) -> None:
    """Create the bridge with the gateway's address, unless it exists.

    :raises LabError: another link of this machine has the address
    """
    if not (Path("/sys/class/net") / settings.bridge).exists():
        for link in sorted(Path("/sys/class/net").iterdir()):
            shown = _ip("-brief", "-4", "address", "show", "dev", link.name)
            if f" {settings.gateway}/" in shown:
                raise LabError(
                    f"Failed to create the bridge {settings.bridge}: {link.name} has {settings.gateway} already",
                    hint="stop what uses it, or choose another subnet with Q8S_LAB_SUBNET and Q8S_LAB_BRIDGE",
                )
        _ip("link", "add", settings.bridge, "type", "bridge")
    _ip("address", "replace", f"{settings.gateway}/{settings.subnet.prefixlen}", "dev", settings.bridge)
    _ip("link", "set", settings.bridge, "up")


def floating_up(settings: Settings) -> None:
    """Route floating IPs: add their gateway's address to the bridge, and turn IP forwarding on."""
    _ip("address", "replace", f"{settings.external_gateway}/{settings.external.prefixlen}", "dev", settings.bridge)
    (_KERNEL / "net/ipv4/ip_forward").write_text("1")


def bridge_down(settings: Settings) -> None:
    """Delete the bridge, if it exists."""
    if (Path("/sys/class/net") / settings.bridge).exists():
        _ip("link", "del", settings.bridge)


# Kernel settings that the lab, and the kubelets and daemons on its hosts, change for the whole machine.
_WATCHED: Final = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/file-max",
    "fs/nr_open",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "net/ipv4/ip_forward",
)


# Folder with the original settings and the folders of the running labs. The first lab creates it, the last one removes
# it. /run is empty after a reboot, as the settings are reset.
_RECORD: Final = Path("/run/q8s-lab")
_KERNEL: Final = Path("/proc/sys")
_INOTIFY_INSTANCES: Final = 8192


def hold_kernel_settings(folder: Path) -> None:
    """Record the machine-wide kernel settings that hosts change, unless another lab has recorded them.

    :param folder: the folder of this lab, which holds the settings until release_kernel_settings()
    """
    with locks.locked(_RECORD, wait=True):
        values, users = _recorded()
        if not users:
            values = {}
        now = {name: value for name in _WATCHED if (value := read(_KERNEL / name).strip())}
        _write({"values": {**now, **values}, "users": sorted({*users, str(folder)})})
        _raise_inotify_limit()


def _raise_inotify_limit() -> None:
    """Raise the limit of inotify instances: all containers share it, and each systemd and kubelet needs dozens."""
    limit = _KERNEL / "fs/inotify/max_user_instances"
    if 0 < int(read(limit) or 0) < _INOTIFY_INSTANCES:
        limit.write_text(str(_INOTIFY_INSTANCES))


def release_kernel_settings(folder: Path) -> None:
    """Restore the recorded kernel settings, unless another lab still needs them."""
    if not _RECORD.exists():
        return
    with locks.locked(_RECORD, wait=True):
        values, users = _recorded()
        left = sorted(set(users) - {str(folder)})
        if left:
            _write({"values": values, "users": left})
            return
        for name, value in values.items():
            if read(_KERNEL / name).strip() != value:
                (_KERNEL / name).write_text(value)
        (_RECORD / "kernel.json").unlink(missing_ok=True)
        _RECORD.rmdir()


def _recorded() -> tuple[dict[str, str], list[str]]:
    """Return the recorded settings, and the folders of labs that still exist: a user may have removed one.

    :raises LabError: the record is damaged
    """
    path = _RECORD / "kernel.json"
    text = read(path)
    if not text:
        return {}, []
    try:
        data = json.loads(text)
        values = {str(name): str(value) for name, value in data["values"].items()}
        return values, [user for user in data["users"] if Path(user).exists()]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise LabError(
            f"Failed to read {path}: it is damaged ({error})",
            hint="remove it: kernel settings that the lab has changed stay until this machine boots again",
        ) from None


def _write(data: dict[str, object]) -> None:
    new = _RECORD / "kernel.json.new"
    new.write_text(json.dumps(data, indent=2))
    new.rename(_RECORD / "kernel.json")


def _ip(*arguments: str) -> str:
    """Run ip(8) and return its output.

    :raises LabError: it failed
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"Failed to run ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
