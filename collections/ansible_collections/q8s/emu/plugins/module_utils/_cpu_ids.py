# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers by which a guest's /proc/cpuinfo names QEMU's CPU models.

x86_64: family and model, from QEMU's ``query-cpu-model-expansion`` (7.2) and, for later models, from its
target/i386/cpu.c. aarch64: implementer and part of MIDR_EL1, from the kernel's arch/arm64/include/asm/cputype.h.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

Ids = frozenset[tuple[int, int]]

# Versions of a model (-v4, -IBRS, -noTSX) have its numbers, except Icelake-Server, whose number changed with a version.
_X86: Mapping[str, str] = {
    "Broadwell": "6/61", "Cascadelake-Server": "6/85", "ClearwaterForest": "6/221", "Conroe": "6/15", "Cooperlake": "6/85",
    "Denverton": "6/95", "Dhyana": "24/0", "EPYC": "23/1", "EPYC-Genoa": "25/17", "EPYC-Milan": "25/1", "EPYC-Rome": "23/49",
    "GraniteRapids": "6/173", "Haswell": "6/60", "Icelake-Server": "6/106 6/134", "IvyBridge": "6/58", "KnightsMill": "6/133",
    "Nehalem": "6/26", "Opteron_G1": "15/6", "Opteron_G2": "15/6", "Opteron_G3": "16/2", "Opteron_G4": "21/1",
    "Opteron_G5": "21/2", "Penryn": "6/23", "SandyBridge": "6/42", "SapphireRapids": "6/143", "SierraForest": "6/175",
    "Skylake-Client": "6/94", "Skylake-Server": "6/85", "Snowridge": "6/134", "Westmere": "6/44",
}  # fmt: skip
_ARM: Mapping[str, str] = {
    "a64fx": "0x46/0x001", "cortex-a35": "0x41/0xd04", "cortex-a53": "0x41/0xd03", "cortex-a55": "0x41/0xd05",
    "cortex-a57": "0x41/0xd07", "cortex-a710": "0x41/0xd47", "cortex-a72": "0x41/0xd08", "cortex-a76": "0x41/0xd0b",
    "neoverse-n1": "0x41/0xd0c", "neoverse-n2": "0x41/0xd49", "neoverse-v1": "0x41/0xd40",
}  # fmt: skip
MODELS: Mapping[str, Mapping[str, str]] = {"x86_64": _X86, "aarch64": _ARM}
_FIELDS: Mapping[str, tuple[str, str]] = {
    "x86_64": ("cpu family", "model"),
    "aarch64": ("CPU implementer", "CPU part"),
}
_VERSION = re.compile(r"(-v\d+|-IBRS|-IBPB|-noTSX)+$")


def of_model(architecture: str, model: str) -> Ids:
    """Return the numbers of a CPU model of QEMU; none if they are not known, as those of ``max`` and ``host``."""
    text = MODELS.get(architecture, {}).get(_VERSION.sub("", model), "")
    return frozenset(_pair(pair) for pair in text.split())


def in_guest(architecture: str, cpuinfo: Mapping[str, str]) -> Optional[tuple[int, int]]:
    """Return the numbers in a guest's /proc/cpuinfo, or None if they are not there.

    :param cpuinfo: its fields by name
    """
    first, second = _FIELDS.get(architecture, ("", ""))
    try:
        return int(cpuinfo[first], 0), int(cpuinfo[second], 0)
    except (KeyError, ValueError):
        return None


def names(architecture: str, ids: tuple[int, int]) -> list[str]:
    """Return the models that have these numbers."""
    known = MODELS.get(architecture, {})
    return sorted(name for name in known if ids in of_model(architecture, name))


def _pair(text: str) -> tuple[int, int]:
    first, second = text.split("/")
    return int(first, 0), int(second, 0)
