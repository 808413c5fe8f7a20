"""The definition of a guest's machine: what the kernel is started with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROLE = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/emulated_worker"
Render = Callable[..., ElementTree.Element]
OLDER = """    <kernel>/var/lib/q8s-guest/kernel-old</kernel>
    <initrd>/var/lib/q8s-guest/initrd-old</initrd>
    <cmdline>root=LABEL=rootfs no_timer_check</cmdline>"""


@pytest.fixture
def render() -> Render:
    """Render the template for an emulated x86_64 machine, with changes."""
    environment = Environment(
        loader=FileSystemLoader(ROLE / "templates"), undefined=StrictUndefined, trim_blocks=True, autoescape=False
    )

    def rendered(**changes: Any) -> ElementTree.Element:
        values = {
            "ansible_managed": "Ansible managed",
            "__emulated_worker_kvm": False,
            "__emulated_worker_keeps_flags": True,
            "__emulated_worker_booted": "",
            "emulated_worker_name": "x86-1",
            "emulated_worker_architecture": "x86_64",
            "emulated_worker_machine": "q35",
            "emulated_worker_cpu_model": "EPYC-Rome",
            "emulated_worker_num_cpus": 2,
            "emulated_worker_ram_mb": 2048,
            "emulated_worker_tb_cache_mb": 0,
            "emulated_worker_qemu_args": "",
            "emulated_worker_mac": "52:54:00:fe:01:03",
            "emulated_worker_directory": "/var/lib/q8s-guest",
            "emulated_worker_artifacts": {"kernel": {"name": "kernel-new"}, "initrd": {"name": "initrd-new"}},
            "emulated_worker_cmdline": "root=LABEL=rootfs quiet",
            **changes,
        }
        return ElementTree.fromstring(environment.get_template("domain.xml.j2").render(values))

    return rendered


@pytest.mark.parametrize("keeps_flags", [True, False], ids=["new-qemu", "old-qemu"])
@pytest.mark.parametrize(
    ("changes", "expected", "older"),
    [
        ({}, "root=LABEL=rootfs quiet panic=10 tsc=reliable", " clearcpuid=cx16"),
        ({"__emulated_worker_kvm": True}, "root=LABEL=rootfs quiet panic=10", ""),
        ({"emulated_worker_architecture": "aarch64"}, "root=LABEL=rootfs quiet panic=10", ""),
    ],
    ids=["emulated", "kvm", "arm64"],
)
def test_only_an_emulated_x86_64_machine_trusts_its_tsc_and_does_without_what_an_older_qemu_spoils(
    render: Render, changes: dict[str, Any], expected: str, older: str, keeps_flags: bool
) -> None:
    machine = render(__emulated_worker_keeps_flags=keeps_flags, **changes)
    assert machine.findtext("os/cmdline") == expected + ("" if keeps_flags else older)


def test_a_guest_whose_host_gets_a_newer_qemu_uses_it_again(render: Render) -> None:
    booted = OLDER.replace("</cmdline>", " panic=10 tsc=reliable clearcpuid=cx16</cmdline>")
    kept = render(__emulated_worker_booted=booted, __emulated_worker_keeps_flags=False)
    assert kept.findtext("os/cmdline") == "root=LABEL=rootfs no_timer_check panic=10 tsc=reliable clearcpuid=cx16"
    machine = render(__emulated_worker_booted=booted)
    assert machine.findtext("os/cmdline") == "root=LABEL=rootfs no_timer_check panic=10 tsc=reliable"


def test_an_existing_guest_keeps_its_kernel_and_gets_the_clock_and_the_reset(render: Render) -> None:
    machine = render(__emulated_worker_booted=OLDER)
    assert machine.findtext("os/kernel") == "/var/lib/q8s-guest/kernel-old"
    assert machine.findtext("os/cmdline") == "root=LABEL=rootfs no_timer_check panic=10 tsc=reliable"
    again = OLDER.replace("</cmdline>", " panic=10 tsc=reliable</cmdline>")
    assert ElementTree.tostring(render(__emulated_worker_booted=again)) == ElementTree.tostring(machine)


def test_a_guest_that_changes_to_kvm_loses_it(render: Render) -> None:
    booted = OLDER.replace("</cmdline>", " tsc=reliable</cmdline>")
    machine = render(__emulated_worker_booted=booted, __emulated_worker_kvm=True)
    assert machine.findtext("os/cmdline") == "root=LABEL=rootfs no_timer_check panic=10"
