"""The lab's part of this machine's network: a bridge, and a package proxy on its address."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.errors import LabError
from lab.machine import read
from lab.settings import Settings


def bridge_up(settings: Settings) -> None:
    """Make the bridge with the gateway's address, unless it is there."""
    if not (Path("/sys/class/net") / settings.bridge).exists():
        for link in sorted(Path("/sys/class/net").iterdir()):
            shown = _ip("-brief", "-4", "address", "show", "dev", link.name)
            if f" {settings.gateway}/" in shown:
                raise LabError(
                    f"Failed to make the bridge {settings.bridge}: {link.name} has {settings.gateway} already",
                    hint="end what uses it, or choose another subnet with Q8S_LAB_SUBNET and Q8S_LAB_BRIDGE",
                )
        _ip("link", "add", settings.bridge, "type", "bridge")
    _ip("address", "replace", f"{settings.gateway}/{settings.subnet.prefixlen}", "dev", settings.bridge)
    _ip("link", "set", settings.bridge, "up")


def bridge_down(settings: Settings) -> None:
    """Remove the bridge, if it is there."""
    if (Path("/sys/class/net") / settings.bridge).exists():
        _ip("link", "del", settings.bridge)


# The kubelets and daemons of hosts change these for the whole machine.
_WATCHED = (
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
)


def kernel_settings() -> dict[str, str]:
    """Machine-wide kernel settings that the lab's hosts may change."""
    return {name: value for name in _WATCHED if (value := read(Path("/proc/sys") / name).strip())}


def restore_kernel_settings(values: dict[str, str]) -> None:
    """Put back what was changed."""
    for name, value in values.items():
        path = Path("/proc/sys") / name
        if read(path).strip() != value:
            path.write_text(value)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"Failed to run ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
