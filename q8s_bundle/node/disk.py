"""The two forms in which a bundle's tree travels: a guest's disk, and a control plane's archive."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_bundle.progress import run

LABEL: Final = "q8s-bundle"
DISK_GIB: Final = 16  # virtual size: what users' images may grow to on a node; only what is written takes room


def write_disk(tree: Path, target: Path) -> None:
    """Write a tree as an ext4 file system without partitions, in a qcow2 image.

    Without a journal: a node's disk is an overlay that is thrown away, and its database of images can be made again.
    """
    log = cache.cache_root() / "logs" / f"disk-{target.stem}.log"
    log.unlink(missing_ok=True)
    raw = target.with_suffix(".raw")
    with raw.open("wb") as handle:
        handle.truncate(DISK_GIB << 30)
    # One inode for 64 KiB: a quarter of the default tables. Prezeroed, which a fresh sparse file is: otherwise the
    # guest's kernel fills those tables with zeros in the background, under emulation and into every node's overlay.
    options = ["-q", "-t", "ext4", "-L", LABEL, "-m", "0", "-O", "^has_journal", "-i", "65536"]
    options += ["-E", "root_owner=0:0,assume_storage_prezeroed=1"]
    run("make the bundle's file system", ["mke2fs", *options, "-d", tree, raw], log=log)
    # Compressed: every worker host fetches it from one control plane. 171 MB instead of 517; to read all of it takes
    # the host one more second of CPU time.
    compressed = ["-c", "-o", "compression_type=zstd"]
    run("convert the bundle's disk", ["qemu-img", "convert", "-O", "qcow2", *compressed, raw, target], log=log)
    raw.unlink()


def write_archive(tree: Path, target: Path) -> None:
    """Write a tree as a zstd-compressed tar with its extended attributes, for unpacking as root."""
    log = cache.cache_root() / "logs" / f"archive-{target.stem}.log"
    log.unlink(missing_ok=True)
    options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--sparse", "--sort=name"]
    options += ["--use-compress-program", "zstd -3 -T0"]
    run(
        "pack the control plane's bundle",
        ["tar", "--create", *options, "--directory", tree, "--file", target, "."],
        log=log,
    )
