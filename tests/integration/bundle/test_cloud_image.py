"""A guest image is made from a cloud image: a real disk, partitioned as Ubuntu's, with Debian's kernel on it.

The system on it is a small one, made here. It needs root, for the disk's file systems are mounted.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from q8s_bundle import cache, image
from q8s_bundle.errors import BundleError
from q8s_bundle.image import cloud, initrd, kernels
from q8s_bundle.image.cloud import CloudImage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a cloud image's file systems are mounted")

ARCHITECTURE = "x86_64"
MIB = 1 << 20
NEEDED = ("br_netfilter", "ext4", "overlay", "veth", "virtio_blk", "virtio_net", "virtio_pci", "vxlan")
UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"


def run(*command: str | Path, data: bytes | None = None) -> bytes:
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


@pytest.fixture(scope="session")
def kernel_packages() -> Path:
    """Debian's kernel as the cache has it, or is given it."""
    return image.kernel_tree(ARCHITECTURE)[0]


@pytest.fixture(autouse=True)
def own_cache(kernel_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that has packages, and no image."""
    home = cache.cache_root()
    (tmp_path / "cache").mkdir()
    for name in ("debs", "trees", "kernels"):
        (tmp_path / "cache" / name).symlink_to(home / name)
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))


def system(folder: Path, packages: Path) -> tuple[Path, Path]:
    """The trees of a root and of a /boot: what a node needs, a kernel, and what stands in a guest's way."""
    root, boot = folder / "system", folder / "boot"
    texts = {
        "usr/lib/os-release": "ID=ubuntu\n",
        "etc/fstab": "LABEL=cloudimg-rootfs / ext4 defaults 0 1\nLABEL=UEFI /boot/efi vfat umask=0077 0 1\n",
        "etc/hostname": "ubuntu\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/netplan/50-cloud-init.yaml": "network: {version: 2}\n",
        "etc/ssh/ssh_host_ed25519_key": "secret\n",
        "etc/ssl/certs/ca-certificates.crt": "of the image\n",
        **{f"usr/lib/systemd/system/{name}": UNIT for name in ("ssh.service", "systemd-networkd.service")},
        "usr/lib/systemd/system/systemd-udevd.service": "[Service]\nExecStart=/bin/true\n",
        "usr/lib/systemd/system/ssh.socket": "[Socket]\nListenStream=22\n[Install]\nWantedBy=sockets.target\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("root", "usr/bin", "usr/sbin", "usr/lib/modules"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "root").chmod(0o700)
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "etc/systemd/system/ssh.service.requires").mkdir(parents=True)
    (root / "etc/systemd/system/ssh.service.requires/ssh.socket").symlink_to("/usr/lib/systemd/system/ssh.socket")
    shutil.copyfile("/bin/true", root / "usr/lib/systemd/systemd")
    for name in ("cloud-init", "ip", "modprobe", "mount", "mountpoint", "python3", "sudo", "udevadm"):
        (root / "usr/bin" / name).touch()
    (root / "usr/sbin/sshd").touch()
    (root / "usr/sbin/iptables").symlink_to("/etc/alternatives/iptables")
    # what a copy may lose: an owner, a link, an extended attribute
    shutil.chown(root / "usr/bin/cloud-init", 1234, 1234)
    (root / "usr/bin/ip2").hardlink_to(root / "usr/bin/ip")
    os.setxattr(root / "usr/bin/sudo", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))

    vmlinuz = kernels.newest(packages)
    assert vmlinuz is not None
    boot.mkdir()
    shutil.copyfile(vmlinuz, boot / vmlinuz.name)
    (boot / vmlinuz.name.replace("vmlinuz", "initrd.img")).write_bytes(bytes(MIB))
    modules = kernels.modules_folder(packages, vmlinuz)
    target = root / "usr/lib/modules" / modules.name
    # Of each way in which modules are published, some.
    for number, name in enumerate(initrd.load_order((modules / "modules.dep").read_text(), NEEDED)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        data = (modules / name).read_bytes()
        suffix, packed = [("", data), (".xz", lzma.compress(data)), (".zst", run("zstd", "-q", data=data))][number % 3]
        (target / (name + suffix)).write_bytes(packed)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(modules / name, target / name)
    return root, boot


def publish(folder: Path, *trees: Path) -> CloudImage:
    """A disk with an EFI partition and a file system of each tree, as qcow2, with its checksum."""
    raw, disk = folder / "disk.raw", folder / "cloud.qcow2"
    lines = ["label: gpt", "start=1MiB, size=1MiB, type=uefi"]
    lines += [f"start={2 + 64 * number}MiB, size=64MiB, type=linux" for number, _ in enumerate(trees)]
    run("truncate", "-s", f"{4 + 64 * len(trees)}M", raw)
    run("sfdisk", "--quiet", raw, data="\n".join(lines).encode())
    for number, tree in enumerate(trees):
        options = ["-q", "-t", "ext4", "-d", tree, "-E", f"offset={(2 + 64 * number) * MIB}"]
        run("mke2fs", *options, raw, "64M")
    run("qemu-img", "convert", "-O", "qcow2", raw, disk)
    raw.unlink()
    return CloudImage(str(disk), f"sha512:{hashlib.sha512(disk.read_bytes()).hexdigest()}")


def shown(disk: Path, *requests: str) -> Sequence[str]:
    """What debugfs answers to each request on a root disk."""
    raw = disk.parent / "shown.raw"
    run("qemu-img", "convert", "-O", "raw", disk, raw)
    answers = [run("debugfs", "-R", request, raw).decode() for request in requests]
    raw.unlink()
    return answers


def test_a_guest_image_of_a_cloud_image(kernel_packages: Path, tmp_path: Path) -> None:
    root, boot = system(tmp_path, kernel_packages)
    source = publish(tmp_path, boot, root)
    made = image.ensure(ARCHITECTURE, source)
    assert made.changed
    assert made.cmdline.endswith(" lsm=landlock,yama,bpf") and "root=LABEL=rootfs " in made.cmdline
    (vmlinuz,) = boot.glob("vmlinuz-*")
    assert made.kernel.path.read_bytes() == vmlinuz.read_bytes()
    for name in (b"virtio_blk.ko", b"virtio_net.ko"):
        assert name in made.initrd.path.read_bytes()

    units = "/etc/systemd/system"
    asked = {
        "fstab": "cat /etc/fstab",
        "ssh": f"stat {units}/multi-user.target.wants/ssh.service",
        "socket": f"stat {units}/ssh.socket",
        "target": f"stat {units}/default.target",
        "requires": f"ls {units}/ssh.service.requires",
        "netplan": "ls /etc/netplan",
        "etc": "ls /etc",
        "machine-id": "stat /etc/machine-id",
        "keys": "ls /etc/ssh",
        "certificates": "cat /etc/ssl/certs/ca-certificates.crt",
        "owner": "stat /usr/bin/cloud-init",
        "hard link": "stat /usr/bin/ip2",
        "capability": "ea_list /usr/bin/sudo",
        "boot": "ls /boot",
        "modules": f"cat /usr/lib/modules/{vmlinuz.name.removeprefix('vmlinuz-')}/modules.dep",
        "label": "stats -h",
    }
    seen = dict(zip(asked, shown(made.root.path, *asked.values()), strict=True))
    assert seen["fstab"].startswith("LABEL=rootfs / ext4 ") and "efi" not in seen["fstab"]
    assert "/ssh.service" in seen["ssh"]
    assert '"/dev/null"' in seen["socket"]
    assert "multi-user.target" in seen["target"]
    assert "ssh.socket" not in seen["requires"], "ssh.service would fail for want of a masked unit"
    assert "yaml" not in seen["netplan"]
    assert "resolv.conf" not in seen["etc"] and "hostname" not in seen["etc"]
    assert "Size: 0" in seen["machine-id"]
    assert "ssh_host" not in seen["keys"]
    assert seen["certificates"] == "of the image\n"
    assert "User:  1234" in seen["owner"]
    assert "Links: 2" in seen["hard link"]
    assert "security.capability" in seen["capability"]
    assert vmlinuz.name in seen["boot"] and "initrd" not in seen["boot"]
    assert "virtio_blk.ko:" in seen["modules"] and ".ko.xz" not in seen["modules"] and ".ko.zst" not in seen["modules"]
    assert "rootfs" in seen["label"]

    # Nothing is made again, nor is the file read, which may be gone; what was made in between is gone, too.
    Path(source.url).unlink()
    assert not image.ensure(ARCHITECTURE, source).changed
    assert sorted(file.name for file in made.root.path.parent.iterdir()) == sorted(
        f"{name}{suffix}"
        for name in (f"initrd-{ARCHITECTURE}", f"kernel-{ARCHITECTURE}", f"root-{ARCHITECTURE}.qcow2")
        for suffix in ("", ".sha256")
    )
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_images_that_cannot_be_nodes_are_refused(kernel_packages: Path, tmp_path: Path) -> None:
    root, boot = system(tmp_path, kernel_packages)

    def refusal(architecture: str, source: CloudImage) -> str:
        with pytest.raises(BundleError) as error:
            image.ensure(architecture, source)
        assert error.value.hint
        assert {file.suffix for file in (tmp_path / "cache/images").iterdir()} <= {".lock"}, "nothing else is left"
        return str(error.value)

    whole = publish(tmp_path, root, boot)
    assert refusal("aarch64", whole) == (
        f"Failed to use the guest image {whole.url} for aarch64: its programs are for x86_64"
    )
    kernel_only = publish(tmp_path, boot)
    assert refusal(ARCHITECTURE, kernel_only) == (
        f"Failed to find the system in the guest image {kernel_only.url}: "
        "none of its ext4 file systems have etc/os-release"
    )
    (root / "usr/sbin/iptables").unlink()
    (root / "usr/lib/systemd/system/systemd-networkd.service").unlink()
    lacking = publish(tmp_path, root, boot)
    assert refusal(ARCHITECTURE, lacking) == (
        f"Failed to use the guest image {lacking.url}: it has no iptables, systemd-networkd.service, which a node needs"
    )
    assert cloud.fetch(whole).exists(), "a refused image need not be fetched again"
