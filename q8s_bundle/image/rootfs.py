"""An unpacked Debian system (of a guest, unless another is asked for), made by mmdebstrap, as a tar in the cache.

It is the slow part (foreign programs run under emulation), so that everything that we add to it later, which is quick,
is done by ``q8s_bundle.image.finish`` on a copy and never costs another bootstrap.
"""

from __future__ import annotations

import os
import platform
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs
from q8s_bundle.errors import BundleError
from q8s_bundle.progress import run, say, step

SUITE: Final = "trixie"
DEBIAN_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class System:
    """What a system is made of: Debian's packages (apt adds what they depend on), and shell commands run at the end.

    ``diverted`` are programs that the packages' scripts shall not run. A command of ``hooks`` has the system as ``$1``.
    ``suite`` is the release's code name.
    """

    packages: tuple[str, ...]
    diverted: tuple[str, ...]
    hooks: tuple[str, ...] = ()
    suite: str = SUITE


# Programs that maintainer scripts run for long under emulation, and whose work is done natively afterwards
# (certificates, bytecode) or not wanted (ssh host keys in an image).
DONE_LATER: Final = ("/usr/sbin/update-ca-certificates", "/usr/bin/py3compile", "/usr/bin/ssh-keygen")

GUEST: Final = System(
    packages=(
        "ca-certificates",
        "cloud-init",
        "conntrack",
        "crun",
        "dbus",
        "e2fsprogs",
        "ethtool",
        "iproute2",
        "iptables",
        "iputils-ping",
        "kmod",
        "netbase",
        "openssh-server",
        "procps",
        "python3",
        "sudo",
        "systemd-sysv",
        "systemd-timesyncd",
        "udev",
    ),
    diverted=(*DONE_LATER, "/usr/bin/systemd-hwdb"),  # a virtual machine has no use for the hardware database
)
_EXCLUDED: Final = ("doc", "man", "locale", "info", "i18n")
_ATTEMPTS: Final = 3  # a mirror at times serves indexes of two different moments; a minute later it does not
_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")


def ensure(arch: str, system: System = GUEST) -> tuple[Path, bool]:
    """The tar of an architecture's system, and whether it was built now."""
    folder, built = cache.entry(
        "rootfs", f"{system.suite}-{arch}", key(arch, system), lambda work: _build(arch, system, work)
    )
    return folder / "rootfs.tar", built


def key(arch: str, system: System = GUEST) -> str:
    """What the system depends on, as a cache key."""
    # The command without its mirrors: the same system from another mirror is the same system.
    return cache.content_key(*_command(arch, system, Path("rootfs.tar"), []))


def _command(arch: str, system: System, target: Path, sources: list[str]) -> list[str]:
    """mmdebstrap's command line."""
    diverted = " ".join(system.diverted)
    divert = (
        f"for f in {diverted}; do"
        ' chroot "$1" dpkg-divert --quiet --local --rename --divert $f.q8s --add $f;'
        ' printf "#!/bin/sh\\nexit 0\\n" > "$1$f"; chmod 755 "$1$f"; done'
    )
    restore = (
        f'for f in {diverted}; do rm -f "$1$f"; chroot "$1" dpkg-divert --quiet --local --rename --remove $f; done'
    )
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--architectures={DEBIAN_ARCHITECTURES[arch]}",
        f"--include={','.join(system.packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::By-Hash "force"',
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "3"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDED),
        "--dpkgopt=force-unsafe-io",
        f"--essential-hook={divert}",
        f"--customize-hook={restore}",
        *(f"--customize-hook={hook}" for hook in system.hooks),
        system.suite,
        str(target),
        *sources,
    ]


def _build(arch: str, system: System, folder: Path) -> None:
    if os.geteuid() != 0:
        raise BundleError(f"Failed to build the guest system for {arch}: it needs root", "run it as root or with sudo")
    debs.require("mmdebstrap")
    if arch != platform.machine():
        debs.require("arch-test")
        _require_emulation(arch)
    places = debs.mirrors()
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    suite = system.suite
    sources = [f"deb {signed} {places.archive} {name} main" for name in (suite, f"{suite}-updates")]
    if places.security:
        sources.append(f"deb {signed} {places.security} {suite}-security main")
    log = cache.cache_root() / "logs" / f"rootfs-{suite}-{arch}.log"
    log.unlink(missing_ok=True)
    command = _command(arch, system, folder / "rootfs.tar", sources)
    environment = dict(os.environ, LC_ALL="C.UTF-8", TMPDIR=str(folder))
    with step(f"bootstrap Debian {suite} for {arch} (log: {log})"):
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                run(f"bootstrap Debian {suite} for {arch}", command, log=log, env=environment)
                return
            except BundleError as error:
                if attempt == _ATTEMPTS or not _mirror_mismatch(log.read_text(errors="replace")):
                    raise
                say(f"{error}\nthe mirror was being updated; again in a minute ({attempt} of {_ATTEMPTS - 1})")
                time.sleep(60)


def _mirror_mismatch(text: str) -> bool:
    """Whether a failed bootstrap's log shows a mirror that was in the middle of an update, or a passing failure."""
    signs = ("Hash Sum mismatch", "File has unexpected size", "Mirror sync in progress", "Connection timed out")
    return any(sign in text for sign in signs)


def _require_emulation(arch: str) -> None:
    """Make sure that the kernel runs this architecture's programs through QEMU's user emulation."""
    if any((_BINFMT / name).exists() for name in (f"qemu-{arch}", f"q8s-{arch}")):
        return
    if not (_BINFMT / "register").exists():
        log = cache.cache_root() / "logs" / "binfmt.log"
        run("mount binfmt_misc", ["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT], log=log)
        if (_BINFMT / f"qemu-{arch}").exists():
            return
    for rule in (Path(f"/usr/lib/binfmt.d/qemu-{arch}.conf"), Path(f"/usr/lib/binfmt.d/qemu-{arch}-static.conf")):
        if rule.exists():
            (_BINFMT / "register").write_text(rule.read_text().strip())
            say(f"registered QEMU's user emulation for {arch} ({shlex.quote(str(rule))})")
            return
    raise BundleError(
        f"Failed to run programs of {arch} here: no binfmt_misc rule for them",
        "install qemu-user-static",
    )
