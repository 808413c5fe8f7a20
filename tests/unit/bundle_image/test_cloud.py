"""Guest images from cloud images: the pure functions. tests/integration/bundle/test_cloud_image.py builds an image."""

from __future__ import annotations

import gzip
import hashlib
import json
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from q8s_bundle import download
from q8s_bundle.download import UnavailableError
from q8s_bundle.errors import BundleError
from q8s_bundle.image import cloud, kernels
from q8s_bundle.image.cloud import CloudImage
from q8s_bundle.image.masks import CLOUD_MASKED, CLOUD_MASKED_GENERATORS, MASKED, MASKED_GENERATORS
from tests.upstream import Server

SHA256, SHA512 = "sha256:" + "0a" * 32, "sha512:" + "0a" * 64
ARM = bytes(56) + b"ARM\x64" + bytes(100)
X86 = bytes(0x202) + b"HdrS" + bytes(100)


# What is given


@pytest.mark.parametrize(
    "url",
    ["https://cloud.example.org/trixie/a,b=c.qcow2", "/srv/my images/a.qcow2", "file:///srv/my%20images/a.qcow2"],
)
@pytest.mark.parametrize("checksum", [SHA256, SHA512])
def test_an_image_is_an_architecture_an_address_and_a_checksum(url: str, checksum: str) -> None:
    assert cloud.parse(f"aarch64,{url},{checksum}") == ("aarch64", CloudImage(url, checksum))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aarch64",
        f"aarch64,{SHA256}",
        f"arm64,/a.qcow2,{SHA256}",
        f"aarch64,a.qcow2,{SHA256}",
        f"aarch64,http://cloud.example.org/a.qcow2,{SHA256}",
        f"aarch64,file://a.qcow2,{SHA256}",
        "aarch64,/a.qcow2,",
        "aarch64,/a.qcow2,md5:" + "0a" * 16,
        f"aarch64,/a.qcow2,{SHA256}0a",
        f"aarch64,/a.qcow2,{SHA512[:-2]}",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^"):
        cloud.parse(text)


# The file


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_image_is_downloaded_once_and_kept_by_its_checksum(server: Server, algorithm: str) -> None:
    server.files["/a.qcow2"] = b"disk"
    checksum = f"{algorithm}:{hashlib.new(algorithm, b'disk').hexdigest()}"
    file = cloud.fetch(CloudImage(f"{server.url}/a.qcow2", checksum))
    assert file.read_bytes() == b"disk"
    assert cloud.fetch(CloudImage(f"{server.url}/moved/a.qcow2", checksum)) == file
    assert server.asked == ["GET /a.qcow2"]


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_an_image_may_be_a_file_of_this_machine(tmp_path: Path, form: str) -> None:
    (tmp_path / "a.qcow2").write_bytes(b"disk")
    checksum = f"sha512:{hashlib.sha512(b'disk').hexdigest()}"
    kept = cloud.fetch(CloudImage(form.format(tmp_path / "a.qcow2"), checksum))
    (tmp_path / "a.qcow2").unlink()
    assert kept.read_bytes() == b"disk"
    assert cloud.fetch(CloudImage("/elsewhere", checksum)) == kept


def test_another_content_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/a.qcow2"] = b"evil"
    (tmp_path / "a.qcow2").write_bytes(b"evil")
    found = hashlib.sha512(b"evil").hexdigest()
    for url, do in ((f"{server.url}/a.qcow2", "download"), (f"{tmp_path}/a.qcow2", "copy")):
        with pytest.raises(BundleError) as error:
            cloud.fetch(CloudImage(url, SHA512))
        said = f"Failed to {do} the guest image a.qcow2: {url} has the sha512 {found}, and {SHA512[7:]} is pinned"
        assert str(error.value) == said
        assert error.value.hint and "SHA512SUMS" in error.value.hint
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.suffix != ".lock"] == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_download_beside_other_work_ends_at_once_with_the_command(server: Server, how: signal.Signals) -> None:
    server.files["/a.qcow2"] = b"disk" * 1000
    server.hold.clear()
    script = (
        "import signal\n"
        "from q8s_bundle import artifacts\n"
        "from q8s_bundle.image import cloud\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"image = cloud.CloudImage('{server.url}/a.qcow2', '{SHA512}')\n"
        "artifacts._side_by_side(lambda: None, lambda: cloud.fetch(image))\n"
    )
    running = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while "/a.qcow2" not in server.begun:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(how)
    begun = time.monotonic()
    assert running.wait(20) != 0
    assert time.monotonic() - begun < 5
    assert server.asked == ["GET /a.qcow2"], "it is not begun again"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"^Failed to copy the guest image a\.qcow2: /no/a\.qcow2: No such file"):
        cloud.fetch(CloudImage("/no/a.qcow2", SHA512))


def test_a_redirect_does_not_lead_to_a_file(server: Server, tmp_path: Path) -> None:
    server.moved["/a"] = "file:///etc/hostname"
    with pytest.raises(UnavailableError, match=r"a: .*"):
        download.fetch("a", f"{server.url}/a", SHA256, tmp_path / "a", "")
    assert not (tmp_path / "a").exists()


# The disk


def test_partitions_are_where_sfdisk_says() -> None:
    table = {
        "label": "gpt",
        "sectorsize": 4096,
        "partitions": [{"node": "disk1", "start": 256, "size": 10}, {"node": "disk15", "start": 16, "size": 2}],
    }
    assert cloud.parse_partitions(json.dumps({"partitiontable": table})) == [(1048576, 40960), (65536, 8192)]
    del table["sectorsize"], table["partitions"]
    assert cloud.parse_partitions(json.dumps({"partitiontable": table})) == []


# The kernel


def efi_program(name: bytes, packed: bytes) -> bytes:
    """An EFI zboot program: header of 64 bytes, the packed kernel, and something behind it."""
    head = b"MZ\0\0zimg" + (64).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + bytes(8) + name
    return head.ljust(64, b"\0") + packed + b"behind"


def test_a_kernel_is_given_to_qemu_in_the_form_that_every_version_boots() -> None:
    zstd = subprocess.run(["zstd", "-q"], input=ARM, check=True, capture_output=True).stdout
    assert kernels.bootable(X86, "x86_64") == X86
    for data in (ARM, gzip.compress(ARM), efi_program(b"gzip", gzip.compress(ARM)), efi_program(b"zstd22", zstd)):
        assert kernels.bootable(data, "aarch64") == ARM


@pytest.mark.parametrize(
    ("data", "architecture", "why"),
    [
        (X86, "aarch64", "it is no Linux kernel for aarch64"),
        (ARM, "x86_64", "it is no Linux kernel for x86_64"),
        (b"", "x86_64", "it is no Linux kernel for x86_64"),
        (gzip.compress(X86), "aarch64", "it is no Linux kernel for aarch64"),
        (efi_program(b"lz4", zlib.compress(ARM)), "aarch64", "it is compressed by lz4"),
    ],
    ids=["for-x86_64", "for-aarch64", "empty", "packed-for-x86_64", "packed-by-lz4"],  # gzip's bytes hold the second
)
def test_what_is_no_kernel_of_the_architecture_is_refused(data: bytes, architecture: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        kernels.bootable(data, architecture)


def test_the_newest_kernel_that_has_modules_is_taken(tmp_path: Path) -> None:
    assert kernels.newest(tmp_path) is None
    (tmp_path / "boot").mkdir()
    for version in ("6.8.0-9-generic", "6.8.0-31-generic", "6.8.0-40-generic"):
        (tmp_path / f"boot/vmlinuz-{version}").touch()
        if "-40-" not in version:
            (tmp_path / "usr/lib/modules" / version).mkdir(parents=True)
    assert kernels.newest(tmp_path) == tmp_path / "boot/vmlinuz-6.8.0-31-generic"


# Masks


def test_what_is_masked_in_a_cloud_image_besides() -> None:
    assert all((CLOUD_MASKED | CLOUD_MASKED_GENERATORS).values()), "each mask has a reason"
    assert not set(CLOUD_MASKED) & set(MASKED) and not set(CLOUD_MASKED_GENERATORS) & set(MASKED_GENERATORS)
    assert {"ssh.socket", "systemd-resolved.service", "apparmor.service"} < set(CLOUD_MASKED)
    for needed in (
        "systemd-timesyncd.service",
        "chrony.service",
        "systemd-networkd.service",
        "ssh.service",
        "dbus.service",
    ):
        assert needed not in CLOUD_MASKED
