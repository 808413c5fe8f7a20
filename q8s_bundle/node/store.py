"""Make a containerd root that holds images already unpacked, with a containerd of our own that no node knows of.

Needs root (the overlay snapshotter mounts while it unpacks), and a target that is not on an overlay file system.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_bundle.errors import BundleError
from q8s_bundle.node import versions
from q8s_bundle.node.versions import Architecture
from q8s_bundle.progress import run

_START_SECONDS: Final = 60.0  # until containerd answers; it takes 0.3 s on a quiet machine
_STOP_SECONDS: Final = 30.0
_NAMESPACE: Final = "k8s.io"  # the one that the kubelet's images live in
_DISABLED: Final = (
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.nri.v1.nri",
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("blockfile", "btrfs", "devmapper", "erofs", "native", "zfs")),
)


def machine() -> Architecture:
    """This machine's architecture; a ``BundleError`` if Q8S knows none of that name."""
    name = platform.machine()
    if name not in versions.ARCHITECTURES:
        raise BundleError(f"Failed to build a bundle on {name}: known are {', '.join(versions.ARCHITECTURES)}")
    return versions.ARCHITECTURES[name]


def fill(root: Path, archives: Sequence[Path], architecture: Architecture, programs: Path) -> None:
    """Import OCI tarballs into a new containerd root, unpacked, and drop the layers that are thereby held twice.

    ``programs`` is the folder of a containerd for this machine. A foreign architecture's images are unpacked natively:
    no foreign code is run.
    """
    root.mkdir()
    log = cache.cache_root() / "logs" / f"store-{architecture.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with _containerd(programs, root, log) as socket:
        ctr: list[str | Path] = [programs / "ctr", "--address", socket, "--namespace", _NAMESPACE]
        for archive in archives:
            options = ["--local", "--discard-unpacked-layers", "--platform", f"linux/{architecture.go}"]
            run(
                f"unpack image {archive.stem} for {architecture.name}",
                [*ctr, "images", "import", *options, archive],
                log=log,
            )
        # The layers are only let go by the collector, which must be asked to run.
        run("drop the packed layers", [*ctr, "content", "prune", "references"], log=log)


@contextmanager
def _containerd(programs: Path, root: Path, log: Path) -> Iterator[Path]:
    """Run a containerd on ``root``; gives its socket. It is stopped, and its database closed, on the way out."""
    # A short path of its own: a socket's may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="q8s-store-") as folder:
        state = Path(folder)
        socket = state / "c.sock"
        config = state / "config.toml"
        disabled = ", ".join(f"'{name}'" for name in _DISABLED)
        config.write_text(
            f"version = 3\nroot = '{root}'\nstate = '{state / 'state'}'\ndisabled_plugins = [{disabled}]\n"
            f"[grpc]\naddress = '{socket}'\n[ttrpc]\naddress = '{socket}.ttrpc'\n"
        )
        with log.open("ab") as output:
            daemon = subprocess.Popen(
                [programs / "containerd", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"},
            )
        try:
            _wait_until_it_answers(daemon, programs / "ctr", socket, log)
            yield socket
        finally:
            daemon.terminate()
            try:
                daemon.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait_until_it_answers(daemon: subprocess.Popen[bytes], ctr: Path, socket: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while subprocess.run([ctr, "--address", socket, "version"], check=False, capture_output=True).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise BundleError(
                f"Failed to start the containerd that unpacks images; log: {log}",
                "it needs root, and a cache (Q8S_CACHE) that is not on an overlay file system",
            )
        time.sleep(0.05)
