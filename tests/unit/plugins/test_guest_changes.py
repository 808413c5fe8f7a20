"""Changes of existing guests, computed from a host's report on its guest and the cluster file."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.node_plan import node_plan
from ansible_collections.q8s.emu.plugins.module_utils import _guest_changes, _spec
from ansible_collections.q8s.emu.plugins.modules import guest_archive

ROLE = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/emulated_worker"
CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
HOST = "demo-x86-small-1"
ARM = "demo-arm-mid-1"
# What inspect_guest.py prints of the demo's x86_64 guest.
FOUND: Mapping[str, Any] = {
    "state": "running",
    "architecture": "x86_64",
    "machine_model": "pc-q35-10.0",
    "ram": 2048,
    "num_cpus": 2,
    "cpu_model": "EPYC-Rome",
    "accel": "tcg",
    "tb_cache": 0,
    "qemu_args": [],
    "storage": 10,
    "node": {"architecture": "x86_64", "guest_image": "", "guest_user": "q8s", "proxy": {}},
    "address": "172.29.5.5",
    "prefixlen": 24,
}
ADDRESS = {"q8s_status": "ACTIVE", "q8s_private_ip": "10.254.1.5"}


def edited(**changes: Any) -> _spec.Cluster:
    """The demo with another machine of the type x86-small."""
    types = tuple(replace(t, **changes) if t.name == "x86-small" else t for t in CLUSTER.types)
    return replace(CLUSTER, types=types)


def plan(cluster: _spec.Cluster, **found: Any) -> _guest_changes.NodePlan:
    hosts = {HOST: {**ADDRESS, "emulated_worker_found": {**FOUND, **found}}}
    return _guest_changes.node_plan(cluster, hosts, [HOST])


def said(cluster: _spec.Cluster, **found: Any) -> list[str]:
    return [str(change) for change in plan(cluster, **found).changes]


def test_a_guest_that_is_as_the_file_says_is_left_alone() -> None:
    assert plan(CLUSTER) == _guest_changes.NodePlan()


def test_another_version_of_kubernetes_recreates_the_node() -> None:
    older = {**FOUND["node"], "kubernetes_version": "1.35.4"}
    cluster = replace(CLUSTER, kubernetes_version="1.36.3")
    assert said(cluster, node=older) == ["recreate x86-small-1: kubernetes_version 1.35.4 -> 1.36.3"]
    # A guest of an earlier release of Q8S records none: that release had one version.
    assert said(cluster) == []
    assert said(cluster, node={}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ram_mb": 1536}, "restart x86-small-1: ram 2048 MB -> 1536 MB"),
        ({"num_cpus": 1}, "restart x86-small-1: num_cpus 2 -> 1"),
        ({"cpu_model": "qemu64"}, "restart x86-small-1: cpu_model EPYC-Rome -> qemu64"),
        ({"machine_model": "pc"}, "restart x86-small-1: machine_model pc-q35-10.0 -> pc"),
        ({"qemu_args": "-smbios  type=1"}, "restart x86-small-1: qemu_args none -> -smbios type=1"),
        ({"tb_cache_mb": 64}, "restart x86-small-1: tb_cache none -> 64 MiB"),
        ({"accel": "kvm"}, "restart x86-small-1: accel tcg -> kvm"),
        ({"storage_gb": 12}, "recreate x86-small-1: storage 10 GB -> 12 GB"),
        (
            {"storage_gb": 12, "ram_mb": 1536},
            "recreate x86-small-1: ram 2048 MB -> 1536 MB, storage 10 GB -> 12 GB",
        ),
        (
            {"architecture": "aarch64", "cpu_model": "cortex-a57", "machine_model": "virt"},
            "recreate x86-small-1: architecture x86_64 -> aarch64, cpu_model EPYC-Rome -> cortex-a57, "
            "machine_model pc-q35-10.0 -> virt",
        ),
    ],
)
def test_what_an_edit_of_a_type_does(changes: dict[str, Any], expected: str) -> None:
    assert said(edited(**changes)) == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": (("disk", "ssd"),)},
        {"taints": ("a=b:NoSchedule",)},
        {"zone": "edge"},
        {"openstack_flavor": "c1.large"},
        {"accel": "auto"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_edit_of_another_class_touches_no_guest(changes: dict[str, Any]) -> None:
    assert said(edited(**changes)) == []


def test_what_only_the_data_disk_tells() -> None:
    user = replace(CLUSTER, guest_user="me")
    assert said(user) == ["recreate x86-small-1: guest_user q8s -> me"]
    proxy = replace(CLUSTER, proxy=replace(CLUSTER.proxy, http_proxy="http://proxy:3128"))
    assert said(proxy) == ["restart x86-small-1: proxy.http_proxy none -> http://proxy:3128"]
    image = _spec.load_mapping(
        {
            **CLUSTER.to_mapping(),
            "guest_images": {"x86_64": {"url": "https://example.org/a.qcow2", "checksum": "sha256:" + "a" * 64}},
        },
        "data",
    )
    assert said(image) == [
        "recreate x86-small-1: guest_images.x86_64.checksum Q8S's own image -> sha256:aaaaaaaaaaaa..."
    ]
    # a guest of an earlier release has no record of them
    for cluster in (user, proxy, image):
        assert said(cluster, node={}) == []


def test_a_guest_that_does_not_run_needs_no_drain_and_one_that_is_not_there_no_change() -> None:
    (change,) = plan(edited(ram_mb=1536), state="shut off").changes
    assert change.stopped
    (change,) = plan(edited(ram_mb=1536), state="paused").changes
    assert not change.stopped
    hosts = {HOST: {**ADDRESS, "emulated_worker_found": {"state": "none"}}}
    assert _guest_changes.node_plan(edited(ram_mb=1536), hosts, [HOST]) == _guest_changes.NodePlan()


def test_kvm_has_no_translation_cache() -> None:
    assert said(edited(accel="kvm", tb_cache_mb=64), accel="kvm") == []


FLAVOR = {"name": "c1.medium", "ram": 4096, "vcpus": 2}


def refused(cluster: _spec.Cluster, flavor: Mapping[str, Any] = FLAVOR, **found: Any) -> tuple[str, ...]:
    hosts = {HOST: {**ADDRESS, "q8s_flavor": flavor, "emulated_worker_found": {**FOUND, **found}}}
    return _guest_changes.node_plan(cluster, hosts, [HOST]).refused


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"ram_mb": 8192}, r"needs 8\d\d\d MB of memory of its host"),
        ({"num_cpus": 4}, "needs 4 vCPUs of its host"),
        ({"ram_mb": 8192, "num_cpus": 4}, r"needs 8\d\d\d MB of memory and 4 vCPUs of its host"),
    ],
)
def test_a_guest_that_its_host_has_no_room_for_is_refused(changes: dict[str, int], needs: str) -> None:
    (text,) = refused(edited(**changes))
    assert f"The host {HOST} has the flavor c1.medium (4096 MB, 2 vCPUs)" in text and re.search(needs, text)
    assert text.endswith("`q8s-run replace FILE x86-small-1`")
    assert refused(edited(**changes), state="none"), "nor is it created"


def test_a_guest_that_its_host_has_room_for_is_not() -> None:
    assert refused(edited(ram_mb=2560)) == refused(edited(ram_mb=8192), flavor={}) == ()
    small = {**FLAVOR, "ram": 1024}
    assert refused(edited(cpu_model="qemu64"), small) == (), "it runs there already"


def disk_notes(cluster: _spec.Cluster, disk: int, *hosts: str, **found: Any) -> tuple[str, ...]:
    variables = {**ADDRESS, "q8s_flavor": {**FLAVOR, "disk": disk}, "emulated_worker_found": {**FOUND, **found}}
    planned = _guest_changes.node_plan(cluster, dict.fromkeys(hosts or [HOST], variables), hosts or [HOST])
    assert planned.refused == ()
    return planned.notes


def test_a_disk_that_its_host_has_no_room_for_is_named() -> None:
    larger = edited(storage_gb=40)
    text = (
        "vm_types.types.x86-small.storage: the flavor c1.medium of {} has a disk of 20 GB; when the guest has filled "
        "its 40 GB the host needs 44 GB, and a full host stops its guest. Choose a larger openstack_flavor, and create "
        "the host again: `q8s-run replace FILE {}`"
    )
    assert disk_notes(larger, 20) == disk_notes(larger, 20, state="none") == (text.format(HOST, "x86-small-1"),)
    three = replace(larger, workers=(("x86-small", 3),))
    hosts = [f"demo-x86-small-{number}" for number in (1, 2, 3)]
    assert disk_notes(three, 20, *hosts) == (text.format(", ".join(hosts), "NODE"),)
    assert disk_notes(larger, 44) == disk_notes(larger, 0) == (), "it has room, or nobody knows"
    assert disk_notes(CLUSTER, 12) == disk_notes(edited(ram_mb=1536), 12) == (), "it was created so, with a note"
    assert plan(larger).notes == (), "an inventory that was cached by an earlier release has no disk"


def test_the_notes_are_data_only_if_there_are_any() -> None:
    hosts = {HOST: {**ADDRESS, "q8s_flavor": {**FLAVOR, "disk": 20}, "emulated_worker_found": FOUND}}
    (note,) = node_plan(hosts, edited(storage_gb=40).to_mapping(), [HOST])["notes"]
    assert note.startswith("vm_types.types.x86-small.storage: ")
    assert "notes" not in node_plan(hosts, CLUSTER.to_mapping(), [HOST])


def test_another_guest_ip_prefix_is_refused_with_the_one_that_the_guest_has() -> None:
    (text,) = plan(replace(CLUSTER, guest_ip_prefix="172.30.0.0/16")).refused
    assert text.startswith("guest_ip_prefix is 172.30.0.0/16 in the cluster file, but the cluster has 172.29.0.0/16. ")
    assert plan(replace(CLUSTER, guest_ip_prefix="172.30.0.0/16"), address="").refused == ()


def test_a_server_that_got_another_address_is_named_with_its_way_out() -> None:
    (text,) = plan(CLUSTER, address="172.29.77.77").refused
    assert f"The server {HOST} has another address" in text and "`q8s-run replace FILE x86-small-1`" in text
    assert "guest_ip_prefix" not in text


def test_hosts_that_were_not_asked_are_named_and_those_outside_of_the_limit_are_not() -> None:
    hosts = {HOST: {"q8s_status": "SHUTOFF"}, ARM: ADDRESS}
    told = node_plan(hosts, CLUSTER.to_mapping(), [HOST, ARM, "demo-control-plane", "demo-gone-1"])
    assert told == {
        "changes": [],
        "refused": [],
        "unknown": {HOST: "the server is SHUTOFF", ARM: "the host was not inspected"},
    }
    assert node_plan(hosts, CLUSTER.to_mapping(), [ARM])["unknown"] == {ARM: "the host was not inspected"}


def test_the_plan_as_data() -> None:
    (change,) = plan(edited(ram_mb=1536)).to_mapping()["changes"]
    assert change == {
        "node": "x86-small-1",
        "host": HOST,
        "type": "x86-small",
        "action": "restart",
        "stopped": False,
        "fields": [{"field": "ram", "has": "2048 MB", "wanted": "1536 MB"}],
    }
    assert json.loads(json.dumps(change)) == change


# As libvirt 11.3 prints a machine that runs, shortened.
DOMAIN = """
<domain type='qemu' id='1' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>x86-small-1</name>
  <memory unit='KiB'>2097152</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <features><acpi/><tcg><tb-cache unit='KiB'>65536</tb-cache></tcg></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>EPYC-Rome</model></cpu>
  <qemu:commandline><qemu:arg value='-smbios'/><qemu:arg value='type=1,serial=a&amp;b'/></qemu:commandline>
</domain>
"""
DISK = "image: x86-small-1.qcow2\nvirtual size: 10 GiB (10737418240 bytes)\ndisk size: 1 MiB\n"


@pytest.fixture
def script() -> ModuleType:
    module = ModuleType("inspect_guest")
    exec((ROLE / "files/inspect_guest.py").read_text(), module.__dict__)
    return module


def answer(script: ModuleType, answers: Mapping[str, str], error: str = "error: failed to get domain 'x'") -> None:
    """Let the script's programs print these, by the word that tells them apart, and fail without one."""

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        text = next((text for word, text in answers.items() if word in command), "")
        return subprocess.CompletedProcess(command, 0 if text else 1, text, "" if text else error)

    script.__dict__["run"] = run


def test_the_script_reads_the_machine_its_disk_and_its_data_disk(script: ModuleType, tmp_path: Path) -> None:
    node = {"architecture": "x86_64", "guest_user": "q8s"}
    files = [
        {"path": "/etc/q8s/node.json", "content": json.dumps(node)},
        {"path": "/etc/systemd/network/10-q8s.network", "content": "[Network]\nAddress=172.29.5.5/24\nGateway=x\n"},
    ]
    (tmp_path / "x86-small-1-data.img").write_bytes(guest_archive.pack(guest_archive.members(files)))
    answer(script, {"domstate": "running\n\n", "dumpxml": DOMAIN, "info": DISK})
    assert script.main("x86-small-1", str(tmp_path)) == {
        **FOUND,
        "tb_cache": 64,
        "qemu_args": ["-smbios", "type=1,serial=a&b"],
        "node": node,
        "links": False,
    }
    (tmp_path / "links").touch()
    assert script.main("x86-small-1", str(tmp_path))["links"] is True


def test_a_newer_command_line_restarts_no_guest(script: ModuleType) -> None:
    """A release that starts guests with another one defines it for their next start, and says nothing of them."""
    older, newer = (
        DOMAIN.replace("<os>", f"<os><cmdline>root=LABEL=rootfs{word}</cmdline>") for word in ("", " tsc=reliable")
    )
    assert script.machine(older) == script.machine(newer)
    assert said(CLUSTER, **{**script.machine(older), "tb_cache": 0, "qemu_args": []}) == []


def test_the_script_asks_a_machine_that_does_not_run_for_its_definition(script: ModuleType, tmp_path: Path) -> None:
    answer(script, {"domstate": "shut off\n\n", "--inactive": DOMAIN, "info": DISK})
    found = script.main("x86-small-1", str(tmp_path))
    assert (found["state"], found["ram"], found["node"], found["address"]) == ("shut off", 2048, {}, "")


def test_the_script_on_a_host_without_a_guest(script: ModuleType, tmp_path: Path) -> None:
    answer(script, {})
    assert script.main("x86-small-1", str(tmp_path)) == {"state": "none"}


def test_the_script_on_a_host_whose_libvirt_does_not_answer(script: ModuleType, tmp_path: Path) -> None:
    """It may have a guest that runs: nothing is known of it."""
    answer(script, {}, "error: failed to connect to the hypervisor")
    with pytest.raises(SystemExit, match="failed to connect to the hypervisor"):
        script.main("x86-small-1", str(tmp_path))


def test_the_script_on_a_host_without_libvirt(script: ModuleType, tmp_path: Path) -> None:
    script.__dict__["run"] = lambda *_: None
    assert script.main("x86-small-1", str(tmp_path)) == {"state": "none"}


def test_the_script_on_a_data_disk_that_is_no_archive(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x86-small-1-data.img").write_bytes(b"no archive" * 100)
    answer(script, {"domstate": "running\n", "dumpxml": DOMAIN, "info": DISK})
    assert script.main("x86-small-1", str(tmp_path))["node"] == {}


def test_the_data_disk_is_read_although_other_members_are_odd(script: ModuleType, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x86-small-1-data.img", "w") as archive:
        member = tarfile.TarInfo("etc/q8s/node.json")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"{ x"))
    answer(script, {"domstate": "running\n", "dumpxml": DOMAIN, "info": DISK})
    assert script.main("x86-small-1", str(tmp_path))["node"] == {}
