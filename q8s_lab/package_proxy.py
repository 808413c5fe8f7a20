"""The hosts' package proxy: apt-cacher-ng, and how hosts are told to use it."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
from pathlib import Path

from q8s_bundle import cache
from q8s_lab import processes
from q8s_lab.settings import Settings


def start(settings: Settings) -> None:
    """Start apt-cacher-ng as the hosts' package proxy. It keeps packages in the cache.

    The configuration is written here: the distribution's default would replace the mirrors in the hosts' apt sources.
    """
    etc = settings.folder / "etc" / "package-proxy"
    etc.mkdir(parents=True, exist_ok=True)
    settings.log.mkdir(parents=True, exist_ok=True)
    store, lock = _package_store()
    (etc / "acng.conf").write_text(
        f"""\
CacheDir: {store}
LogDir: {settings.log}
SupportDir: /usr/lib/apt-cacher-ng
Port: {settings.proxy_port}
BindAddress: {settings.gateway}
ForeGround: 1
ConnectProto: v4
ExThreshold: 4000
"""
    )
    with (settings.log / "package-proxy.out").open("ab") as output:
        process = subprocess.Popen(
            ["apt-cacher-ng", "-c", str(etc)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **processes.mark(settings)},
            pass_fds=[lock],
        )
    # the proxy has inherited the descriptor, and holds the lock until it exits
    os.close(lock)
    processes.record(settings, "package-proxy", process.pid)


def _package_store() -> tuple[Path, int]:
    """Lock a package folder that no other proxy uses. Return the folder and the descriptor of its lock.

    The first lab on a machine always gets the first folder, a concurrent second one always the second.
    """
    for number in itertools.count(1):
        store = cache.cache_root() / f"lab-packages{'' if number == 1 else f'-{number}'}"
        store.mkdir(parents=True, exist_ok=True)
        lock = os.open(store.with_name(f".{store.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return store, lock
    raise AssertionError("never reached")


def vendor_data(settings: Settings) -> str:
    """Return the vendor data that sets the package proxy. It is a boothook, which user data does not override."""
    return f"""\
#cloud-boothook
#!/bin/sh
[ ! -d /etc/apt/apt.conf.d ] ||
    echo 'Acquire::http::Proxy "http://{settings.gateway}:{settings.proxy_port}";' > /etc/apt/apt.conf.d/01lab-proxy
"""
