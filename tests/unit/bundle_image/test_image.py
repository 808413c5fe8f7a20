"""Guest images, the pure functions: order of kernel modules, the initrd's archive, masked units, kernel arguments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from q8s_bundle import image
from q8s_bundle.errors import BundleError
from q8s_bundle.image import initrd, rootfs
from q8s_bundle.image.masks import MASKED, MASKED_GENERATORS

DEPENDENCIES = """\
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/fs/jbd2/jbd2.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
"""


def test_module_name() -> None:
    assert initrd.module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"


def test_load_order_puts_dependencies_first_and_skips_built_in() -> None:
    order = initrd.load_order(DEPENDENCIES, ["virtio_pci", "ext4", "virtio_rng", "ext4"])
    assert order[-2:] == ["kernel/fs/ext4/ext4.ko", "kernel/drivers/char/hw_random/virtio-rng.ko.xz"]
    assert len(order) == len(set(order)) == 5


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio, an independent reader of the format")
def test_initrd_is_read_by_cpio(tmp_path: Path) -> None:
    (tmp_path / "kernel/fs").mkdir(parents=True)
    (tmp_path / "kernel/fs/ext4.ko").write_bytes(b"module")
    (tmp_path / "modules.dep").write_text("kernel/fs/ext4.ko:\n")
    data = initrd.build(b"box", tmp_path)
    listed = subprocess.run(["cpio", "-tv", "--quiet"], input=data, check=True, capture_output=True).stdout.decode()
    assert "m/00-ext4.ko" in listed
    assert "bin/tar -> busybox" in listed
    assert [line.split()[0] for line in listed.splitlines() if line.endswith(" init")] == ["-rwxr-xr-x"]


def test_what_is_masked() -> None:
    names = {**MASKED, **MASKED_GENERATORS}
    assert all(names.values()), "each mask has a reason"
    for needed in ("systemd-timesyncd.service", "systemd-networkd.service", "ssh.service", "systemd-udevd.service"):
        assert needed not in names
    assert "systemd-networkd-wait-online.service" in names
    assert "systemd-fstab-generator" not in names, "it is what mounts and grows the root"


def test_key_is_of_the_architecture_and_not_of_the_mirror() -> None:
    assert rootfs.key("x86_64") != rootfs.key("aarch64")
    assert rootfs.key("x86_64") == rootfs.key("x86_64")


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(BundleError, match=r"Failed to build a guest image: no architecture 'vax'; there are .*x86_64"):
        image.ensure("vax")
