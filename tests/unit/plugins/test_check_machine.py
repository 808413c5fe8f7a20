"""The check of a guest's machine against the host's QEMU: parsing of QEMU's lists, and errors for unknown names."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import Any

import pytest

SCRIPT = (
    Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/emulated_worker/files/check_machine.py"
)

# Parts of what QEMU prints: 10.0 on Debian 13, 8.2 on Ubuntu 24.04, 7.2 on Debian 12, 6.2 on Ubuntu 22.04.
CPUS_10 = """Available CPUs:
  486                   (alias configured by machine type)
  486-v1
  EPYC-Rome             (alias configured by machine type)
  EPYC-Rome-v1          AMD EPYC-Rome Processor
  base                  base CPU model type with no features enabled
  max                   Enables all features supported by the accelerator in the current host

Recognized CPUID flags:
  3dnow 3dnowext 3dnowprefetch abm ace2 ace2-en acpi adx aes amd-no-ssb
"""
CPUS_7 = """x86 486                   (alias configured by machine type)
x86 EPYC-Rome             (alias configured by machine type)
x86 max                   Enables all features supported by the accelerator in the current host

Recognized CPUID flags:
  3dnow 3dnowext
"""
# Ubuntu's QEMU has machines of its own.
CPUS_6 = """x86 486                   (alias configured by machine type)
x86 486-v1
x86 EPYC-Rome             (alias configured by machine type)
x86 EPYC-Rome-v1          AMD EPYC-Rome Processor
x86 max                   Enables all features supported by the accelerator in the current host

Recognized CPUID flags:
  3dnow 3dnowext
"""
MACHINES_6 = """Supported machines are:
microvm              microvm (i386)
ubuntu               Ubuntu 22.04 PC (i440FX + PIIX, + 10 machine, 1996) (alias of pc-i440fx-jammy)
ubuntu-q35           Ubuntu 22.04 PC (Q35 + ICH9, 2009) (alias of pc-q35-jammy)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-6.2)
none                 empty machine
"""
MACHINES_ARM_8 = """Supported machines are:
virt-8.1             QEMU 8.1 ARM Virtual Machine
virt                 QEMU 8.2 ARM Virtual Machine (alias of virt-8.2)
virt-8.2             QEMU 8.2 ARM Virtual Machine
witherspoon-bmc      OpenPOWER Witherspoon BMC (ARM1176)
"""
CPUS_ARM = """Available CPUs:
  a64fx
  cortex-a53
  cortex-a57
  max
"""
MACHINES = """Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("check_machine", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (CPUS_10, ["486", "486-v1", "EPYC-Rome", "EPYC-Rome-v1", "base", "max"]),
        (CPUS_7, ["486", "EPYC-Rome", "max"]),
        (CPUS_ARM, ["a64fx", "cortex-a53", "cortex-a57", "max"]),
        (MACHINES, ["microvm", "pc", "q35"]),
        (CPUS_6, ["486", "486-v1", "EPYC-Rome", "EPYC-Rome-v1", "max"]),
        (MACHINES_6, ["microvm", "ubuntu", "ubuntu-q35", "q35", "none"]),
        (MACHINES_ARM_8, ["virt-8.1", "virt", "virt-8.2", "witherspoon-bmc"]),
    ],
)
def test_the_names_that_qemu_lists(script: Any, text: str, names: list[str]) -> None:
    assert script.names(text) == names


def test_a_name_in_no_list_has_close_ones(script: Any) -> None:
    assert script.check("CPU model", "cortex-a57", ["cortex-a57"]) == ""
    assert script.check("CPU model", "cortex-a75", ["max", "cortex-a57"]) == (
        "has no CPU model cortex-a75; close to it: cortex-a57"
    )
    assert script.check("machine model", "xyz", ["q35", "pc"]) == "has no machine model xyz; it has: q35, pc"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", True),
        ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)", True),
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", False),
        ("QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)", False),
        ("another program", True),
    ],
)
def test_before_8_0_qemu_spoils_the_flags_of_cmpxchg16b(script: Any, version: str, expected: bool) -> None:
    assert script.keeps_flags(version) is expected


def test_kvm_needs_the_same_architecture(script: Any) -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    assert script.kvm_reason(other) == f"the host is {platform.machine()} and the guest {other}"


def test_a_host_without_qemu_is_a_problem_that_check_mode_can_tell_apart(script: Any) -> None:
    found = script.main("m68k", "max", "virt", "tcg")
    assert found["installed"] is False
    assert found["problems"] == [f"{platform.node()} has no /usr/bin/qemu-system-m68k"]
