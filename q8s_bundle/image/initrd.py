"""Our own initial RAM disk: busybox, the few modules that the root disk needs, and one shell script.

It is written in Python as an uncompressed cpio archive (the "new ASCII" format, cpio(5)): quick to make for any
architecture, and an emulated CPU spends no time on unpacking it.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

# virtio on both transports; ext4 with what it needs. Modules that a kernel has built in are left out by themselves.
# virtio_net is not needed for the root, but is one module fewer for the emulated udev to find and load.
MODULES: Final = ("virtio_pci", "virtio_mmio", "virtio_blk", "ext4", "virtio_net", "virtio_rng")

_APPLETS: Final = ("sh", "mount", "insmod", "findfs", "sleep", "switch_root", "cat", "echo", "tar")

# The data disk is unpacked at each boot: that is idempotent, and a changed disk takes effect by a restart.
_INIT: Final = """\
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for m in /m/*.ko; do [ -e "$m" ] && insmod "$m" 2>/dev/null; done
i=0
while ! root=$(findfs LABEL=rootfs) && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done
if ! mount -t ext4 -o rw,noatime "$root" /newroot; then
  echo "q8s: no file system with the label rootfs" > /dev/kmsg; exec sh
fi
for b in /sys/block/vd*; do
  if [ "$(cat $b/serial 2>/dev/null)" = q8s-data ]; then
    if tar -xf /dev/${b##*/} -C /newroot; then echo "q8s: data disk unpacked" > /dev/kmsg
    else echo "q8s: unpacking the data disk failed" > /dev/kmsg; fi
  fi
done
mount -o move /proc /newroot/proc; mount -o move /sys /newroot/sys; mount -o move /dev /newroot/dev
exec switch_root /newroot /sbin/init "$@"
"""


def module_name(path: str) -> str:
    """A module's name as the kernel says it, from its file's name (``virtio-rng.ko.xz`` is ``virtio_rng``)."""
    return path.rsplit("/", 1)[-1].partition(".ko")[0].replace("-", "_")


def load_order(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """Module files in an order in which they can be loaded, from the text of ``modules.dep`` (depmod(8))."""
    known: dict[str, tuple[str, list[str]]] = {}
    for line in dependencies.splitlines():
        file, _, needs = line.partition(":")
        known[module_name(file)] = (file, needs.split())
    order: list[str] = []

    def add(name: str) -> None:
        file, needs = known[name]
        if file not in order:
            for need in reversed(needs):
                add(module_name(need))
            order.append(file)

    for name in wanted:
        if name in known:
            add(name)
    return order


def archive(entries: Sequence[tuple[str, int, bytes, tuple[int, int]]]) -> bytes:
    """A cpio archive of (name, mode, content, device number) entries, all owned by root, with time 0."""
    out = bytearray()

    def put(number: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> None:
        label = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(label), 0)
        out.extend(b"070701" + "".join(f"{field:08X}" for field in fields).encode() + label)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(content)
        out.extend(b"\0" * (-len(out) % 4))

    for number, (name, mode, content, device) in enumerate(entries, 1):
        put(number, name, mode, content, device)
    put(0, "TRAILER!!!", 0, b"", (0, 0))
    return bytes(out)


def build(busybox: bytes, modules: Path) -> bytes:
    """The initrd for one kernel: ``modules`` is its ``lib/modules/<version>`` folder, with depmod's files."""
    none = (0, 0)
    entries: list[tuple[str, int, bytes, tuple[int, int]]] = [
        (name, stat.S_IFDIR | 0o755, b"", none) for name in ("bin", "proc", "sys", "dev", "newroot", "m")
    ]
    # The kernel opens the console before /init can mount anything.
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox, none))
    entries += [(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox", none) for applet in _APPLETS]
    order = load_order((modules / "modules.dep").read_text(), MODULES)
    for number, file in enumerate(order):
        content = (modules / file).read_bytes()
        if file.endswith(".xz"):
            content = lzma.decompress(content)
        entries.append((f"m/{number:02d}-{module_name(file)}.ko", stat.S_IFREG | 0o644, content, none))
    entries.append(("init", stat.S_IFREG | 0o755, _INIT.encode(), none))
    return archive(entries)
