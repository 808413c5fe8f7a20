# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU and machine models by QEMU version, and the QEMU version of each host system.

The tables come from QEMU itself. 7.2 and 10.0: ``qemu-system-ARCH -cpu help`` and ``-machine help`` of Debian's packages
(1:7.2+dfsg-7+deb12u18+b3 and 1:10.0.13+ds-0+deb13u1). 6.2, 8.2 and 10.2: what these versions answered to
``query-cpu-definitions`` and ``query-machines``, as libvirt's tests keep it (tests/qemucapabilitiesdata/caps_VERSION_ARCH.xml).
Ubuntu's versions are from packages.ubuntu.com.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

Version = tuple[int, int]


@dataclass(frozen=True)
class HostSystem:
    """A system that hosts may run: its name for people, its codename, and the version of its QEMU packages."""

    title: str
    codename: str
    qemu: Version

    def __str__(self) -> str:
        return f"{self.title} (QEMU {_text(self.qemu)})"


HOST_SYSTEMS: Mapping[str, HostSystem] = {
    "debian-12": HostSystem("Debian 12", "bookworm", (7, 2)),
    "debian-13": HostSystem("Debian 13", "trixie", (10, 0)),
    "ubuntu-22.04": HostSystem("Ubuntu 22.04", "jammy", (6, 2)),
    "ubuntu-24.04": HostSystem("Ubuntu 24.04", "noble", (8, 2)),
    "ubuntu-26.04": HostSystem("Ubuntu 26.04", "resolute", (10, 2)),
}

# 64-bit models by the first of the versions above that has them.
_MODELS: Mapping[str, Mapping[Version, str]] = {
    "x86_64": {
        (
            6,
            2,
        ): """max qemu64 qemu64-v1 kvm64 kvm64-v1 phenom phenom-v1 core2duo core2duo-v1 Conroe Conroe-v1 Penryn Penryn-v1
        Nehalem Nehalem-IBRS Nehalem-v1 Nehalem-v2 Westmere Westmere-IBRS Westmere-v1 Westmere-v2 SandyBridge SandyBridge-IBRS
        SandyBridge-v1 SandyBridge-v2 IvyBridge IvyBridge-IBRS IvyBridge-v1 IvyBridge-v2 Haswell Haswell-IBRS Haswell-noTSX
        Haswell-noTSX-IBRS Haswell-v1 Haswell-v2 Haswell-v3 Haswell-v4 Broadwell Broadwell-IBRS Broadwell-noTSX
        Broadwell-noTSX-IBRS Broadwell-v1 Broadwell-v2 Broadwell-v3 Broadwell-v4 Denverton Denverton-v1 Denverton-v2
        Denverton-v3 Snowridge Snowridge-v1 Snowridge-v2 Snowridge-v3 Snowridge-v4 Skylake-Client Skylake-Client-IBRS
        Skylake-Client-noTSX-IBRS Skylake-Client-v1 Skylake-Client-v2 Skylake-Client-v3 Skylake-Client-v4 Skylake-Server
        Skylake-Server-IBRS Skylake-Server-noTSX-IBRS Skylake-Server-v1 Skylake-Server-v2 Skylake-Server-v3 Skylake-Server-v4
        Skylake-Server-v5 Cascadelake-Server Cascadelake-Server-noTSX Cascadelake-Server-v1 Cascadelake-Server-v2
        Cascadelake-Server-v3 Cascadelake-Server-v4 Cascadelake-Server-v5 Cooperlake Cooperlake-v1 Cooperlake-v2
        Icelake-Client Icelake-Client-noTSX Icelake-Client-v1 Icelake-Client-v2 Icelake-Client-v3 Icelake-Server
        Icelake-Server-noTSX Icelake-Server-v1 Icelake-Server-v2 Icelake-Server-v3 Icelake-Server-v4 Icelake-Server-v5
        KnightsMill KnightsMill-v1 Opteron_G1 Opteron_G1-v1 Opteron_G2 Opteron_G2-v1 Opteron_G3 Opteron_G3-v1 Opteron_G4
        Opteron_G4-v1 Opteron_G5 Opteron_G5-v1 EPYC EPYC-IBPB EPYC-v1 EPYC-v2 EPYC-v3 EPYC-Rome EPYC-Rome-v1 EPYC-Rome-v2
        EPYC-Milan EPYC-Milan-v1 Dhyana Dhyana-v1 Dhyana-v2""",
        (7, 2): "Icelake-Server-v6",
        (
            8,
            2,
        ): """SapphireRapids SapphireRapids-v1 SapphireRapids-v2 GraniteRapids GraniteRapids-v1 EPYC-v4 EPYC-Rome-v3
        EPYC-Rome-v4 EPYC-Milan-v2 EPYC-Genoa EPYC-Genoa-v1""",
        (10, 0): """Icelake-Server-v7 SapphireRapids-v3 GraniteRapids-v2 SierraForest SierraForest-v1 SierraForest-v2
        ClearwaterForest ClearwaterForest-v1 YongFeng YongFeng-v1 YongFeng-v2""",
        (10, 2): "SapphireRapids-v4 SierraForest-v3",
    },
    "aarch64": {
        (6, 2): "max a64fx cortex-a53 cortex-a57 cortex-a72",
        (7, 2): "cortex-a35 cortex-a76 neoverse-n1",
        (8, 2): "cortex-a55 cortex-a710 neoverse-n2 neoverse-v1",
        (10, 2): "cortex-a78ae",
    },
}
# The first of the versions above that no longer has a model, by a pattern for its name.
_REMOVED: Mapping[str, Mapping[str, Version]] = {"x86_64": {r"Icelake-Client(-.*)?": (7, 2)}, "aarch64": {}}

CPU_MODELS: Mapping[str, Mapping[str, Version]] = {
    architecture: {model: since for since, models in versions.items() for model in models.split()}
    for architecture, versions in _MODELS.items()
}

# The oldest machine version by family and QEMU version; not known of 10.2 for x86_64.
_OLDEST_MACHINE: Mapping[str, Mapping[Version, Version]] = {
    "pc-i440fx": {(6, 2): (1, 4), (7, 2): (1, 4), (8, 2): (2, 0), (10, 0): (2, 4)},
    "pc-q35": {(6, 2): (2, 4), (7, 2): (2, 4), (8, 2): (2, 4), (10, 0): (2, 4)},
    "virt": {(6, 2): (2, 6), (7, 2): (2, 6), (8, 2): (2, 6), (10, 0): (2, 6), (10, 2): (5, 0)},
}
_MACHINE = re.compile(r"(pc-q35|pc-i440fx|virt)-([0-9]+)\.([0-9]+)(\.[0-9]+)?")

# How the names and properties of cloud images spell systems. A number alone says nothing: "Server 22" may be anything.
_NAMES = tuple(
    (
        system,
        re.compile(
            rf"{distribution}(?:[^a-z0-9]+[a-z]+){{0,2}}?[^a-z0-9]*{re.escape(version)}(?![0-9])|\b{codename}\b"
        ),
    )
    for system, distribution, version, codename in (
        (name, *name.split("-"), system.codename) for name, system in HOST_SYSTEMS.items()
    )
)


def find_host_system(text: str) -> str:
    """Return the key of the system that the name of an image names, such as debian-12; empty if it names none, or several."""
    found = {system for system, pattern in _NAMES if pattern.search(text.lower())}
    return found.pop() if len(found) == 1 else ""


def host_system_of_image(distribution: str, version: str, name: str) -> str:
    """Return the key of an image's system, from Glance's ``os_distro`` and ``os_version``, else from the image's name."""
    distribution = distribution.lower()
    # "22.04 LTS", "12 (bookworm)" and "bookworm" all occur
    for text in (f"{distribution} {version}", version) if distribution in ("debian", "ubuntu") else ():
        system = find_host_system(text)
        if system.startswith(f"{distribution}-"):
            return system
    return find_host_system(name)


def has_cpu_model(system: str, architecture: str, model: str) -> Optional[bool]:
    """Return whether the QEMU of a system has a CPU model; None if the model is in no table."""
    since = CPU_MODELS[architecture].get(model)
    if since is None:
        return None
    version = HOST_SYSTEMS[system].qemu
    removed = [gone for pattern, gone in _REMOVED[architecture].items() if re.fullmatch(pattern, model)]
    return since <= version and not any(gone <= version for gone in removed)


def has_machine_model(system: str, model: str) -> Optional[bool]:
    """Return whether the QEMU of a system has a version of a machine model; None if that is not known."""
    match = _MACHINE.fullmatch(model)
    if match is None:
        return True  # q35, pc and virt themselves
    version, qemu = (int(match[2]), int(match[3])), HOST_SYSTEMS[system].qemu
    if version > qemu:
        return False
    oldest = _OLDEST_MACHINE[match[1]].get(qemu)
    return None if oldest is None else version >= oldest


def model_problem(system: str, what: str, model: str, architecture: str) -> str:
    """Return why a system's QEMU cannot run a model, and which systems can; empty if it can, or if that is not known.

    :param what: ``cpu_model`` or ``machine_model``
    """
    if _has(system, what, model, architecture) is not False:
        return ""
    others = [one for name, one in HOST_SYSTEMS.items() if _has(name, what, model, architecture)]
    have = (
        f"; {_joined(others)} {'have' if len(others) > 1 else 'has'} it"
        if others
        else "; no system that Q8S knows has it"
    )
    return f"is {model!r}, which QEMU {_text(HOST_SYSTEMS[system].qemu)} of {HOST_SYSTEMS[system].title} does not have{have}"


def lacking_systems(what: str, model: str, architecture: str) -> str:
    """Return the systems whose QEMU does not have a model, in words; empty if every one has it, or nothing is known."""
    return _joined([one for name, one in HOST_SYSTEMS.items() if _has(name, what, model, architecture) is False])


def _has(system: str, what: str, model: str, architecture: str) -> Optional[bool]:
    return has_cpu_model(system, architecture, model) if what == "cpu_model" else has_machine_model(system, model)


def _joined(systems: list[HostSystem]) -> str:
    names = [str(system) for system in systems]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _text(version: Version) -> str:
    return ".".join(map(str, version))
