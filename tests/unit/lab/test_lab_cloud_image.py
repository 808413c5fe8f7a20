"""Disk images of the lab's virtual machines: names, package sources, and GRUB in the disk's first sectors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from q8s_bundle.debs import Mirrors
from q8s_lab import cloud_image
from q8s_lab.errors import LabError

ROLES = Path(__file__).parents[3] / "collections" / "ansible_collections" / "q8s" / "emu" / "roles"
MIB = 1 << 20


def test_an_unknown_image_is_refused_with_the_known_names() -> None:
    with pytest.raises(LabError, match=r"no image 'debian-11'.*debian-13-cloud, debian-12-cloud"):
        cloud_image.ensure("debian-11")


def test_the_stock_images_are_those_without_baked_packages() -> None:
    assert cloud_image.STOCK_NAMES == ("debian-13-cloud", "debian-12-cloud")
    assert set(cloud_image.NAMES) == {*cloud_image.STOCK_NAMES, cloud_image.BAKED}


def test_the_roles_still_install_packages_on_the_baked_image() -> None:
    """On a host that lacks no package, apt's lists are never read, whatever a role assumes about them."""
    files = [file for folder in ("tasks", "vars") for file in (ROLES / "qemu_host" / folder).glob("*.yml")]
    names = {name for file in files for name in re.findall(r"^ +- ([a-z][a-z0-9-]+)$", file.read_text(), re.M)}
    baked = set(cloud_image._system(cloud_image._IMAGES[cloud_image.BAKED], "x86_64").packages)
    assert {"libvirt-clients", "libvirt-daemon-system"} <= names & baked, "these take minutes to unpack"
    assert "conntrack" in names - baked


def test_the_kernels_command_line_is_the_menus_first() -> None:
    menu = """
    menuentry 'Debian GNU/Linux' {
        search --no-floppy --fs-uuid --set=root 1234
        linux   /boot/vmlinuz-6.12 root=PARTUUID=12 ro console=ttyS0
        initrd  /boot/initrd.img-6.12
    }
    menuentry 'recovery mode' {
        linux   /boot/vmlinuz-6.12 root=PARTUUID=12 ro single
    }
    """
    assert cloud_image._command_line(menu) == "root=PARTUUID=12 ro console=ttyS0"


@pytest.mark.parametrize("security", ["http://mirror.test/debian-security", None])
def test_apt_sources_name_a_list_of_mirrors_for_each_archive(security: str | None) -> None:
    files = cloud_image._apt_files("bookworm", Mirrors("http://mirror.test/debian", security))
    sources = [yaml.safe_load(stanza) for stanza in files["etc/apt/sources.list.d/debian.sources"].split("\n\n")]
    suites = {source["URIs"]: source["Suites"] for source in sources}
    lists = {"debian.list": "bookworm bookworm-updates", "debian-security.list": "bookworm-security"}
    expected = lists if security else {"debian.list": lists["debian.list"]}
    assert suites == {f"mirror+file:///etc/apt/mirrors/{name}": value for name, value in expected.items()}
    assert files["etc/apt/mirrors/debian.list"] == "http://mirror.test/debian\n"
    assert files.get("etc/apt/mirrors/debian-security.list") == (f"{security}\n" if security else None)


def test_grub_finds_its_core_image_and_the_partition_table_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"P" * (4 * MIB))
    cloud_image._embed_grub(disk, b"B" * 512, b"C" * 1300)
    written = disk.read_bytes()
    assert written[440:512] == b"P" * 72, "the protective partition table"
    assert written[512:MIB] == b"P" * (MIB - 512), "the GPT"
    assert int.from_bytes(written[0x5C:0x64], "little") == MIB // 512
    core = written[MIB : MIB + 1536]
    assert core[1300:] == bytes(236)
    start, count = int.from_bytes(core[0x1F4:0x1FC], "little"), int.from_bytes(core[0x1FC:0x1FE], "little")
    assert (start, count) == (MIB // 512 + 1, 2), "the rest of the core image follows its first sector"
    assert written[MIB + 1536 :] == b"P" * (3 * MIB - 1536)
