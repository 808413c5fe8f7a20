# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare what a cluster file says of the workers with what their guests and Kubernetes show. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _cpu_ids
from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import parse_quantity
from ansible_collections.q8s.emu.plugins.module_utils._spec import VmType

_GIB = 1 << 30
# The guest's kernel keeps memory for itself and its page tables; a file system keeps space for its own data.
_KERNEL_MB = 96
_KERNEL_SHARE = 0.05
_FILE_SYSTEM_SHARE = 0.1


class Inside(NamedTuple):
    """What a guest shows: memory in MiB, the root disk in bytes, and the fields of its first processor."""

    machine: str
    cpus: int
    memory_mb: float
    disk: int
    cpuinfo: Mapping[str, str]


class Shown(NamedTuple):
    """What a worker and Kubernetes show.

    :param answer: what the guest printed: see parse(); empty if it was not reached
    :param node: the Kubernetes node, None if there is none
    :param image_disk: the size in bytes of the file system of images and containers, None if the kubelet did not tell it
    """

    answer: str
    node: Optional[Mapping[str, Any]]
    image_disk: Optional[int] = None


def parse(text: str) -> Optional[Inside]:
    """Return what a guest printed, or None if it is not complete.

    :param text: lines with the machine, the number of CPUs, the memory in KiB and the root disk in sectors of 512 bytes;
        then the first processor's part of /proc/cpuinfo
    """
    lines = text.replace("\r", "").strip().splitlines()
    try:
        machine, cpus, memory, sectors = (line.strip() for line in lines[:4])
        fields = [line.partition(":") for line in lines[4:]]
        cpuinfo = {name.strip(): value.strip() for name, _colon, value in fields}
        return Inside(machine, int(cpus), int(memory) / 1024, int(sectors) * 512, cpuinfo)
    except ValueError:
        return None


def rows(
    name: str,
    vm_type: VmType,
    shown: Shown,
    *,
    labels: Mapping[str, str],
    taints: Sequence[Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Return a row for each promise of the cluster file for a worker.

    A row has ``node``, ``promise``, ``promised``, ``measured``, ``off``, which is the difference as text, ``kept``, which is
    None if it cannot be compared, and ``problem``, which is empty if there is none.

    :param labels: the labels that the node should have
    :param taints: the taints that the node should have, in the form of Kubernetes' API
    """
    inside, node = parse(shown.answer), shown.node
    found = (
        list(_of_guest(vm_type, inside)) if inside else [_row("guest", "an answer over ssh", "no answer", kept=False)]
    )
    if node is None:
        found.append(_row("Kubernetes node", "one of this name", "none", kept=False))
    else:
        capacity = node["status"].get("capacity", {})
        found.append(_storage("storage of pods", vm_type, parse_quantity(str(capacity.get("ephemeral-storage", "0")))))
        found.append(_storage("storage of images", vm_type, shown.image_disk))
        found += _of_node(node, labels, taints)
    return [{"node": name, **row, "problem": problem(name, row)} for row in found]


def problem(name: str, row: Mapping[str, Any]) -> str:
    """Return what is wrong with a promise; nothing if it is kept or cannot be compared."""
    if row["kept"] is not False:
        return ""
    return f"{name}: {row['promise']}: {row['measured']} instead of {row['promised']}"


def _of_guest(vm_type: VmType, inside: Inside) -> Iterator[dict[str, Any]]:
    """Yield the rows of the emulated machine."""
    yield _row("architecture", vm_type.architecture, inside.machine, kept=inside.machine == vm_type.architecture)
    yield _cpu_model(vm_type, inside)
    off = inside.cpus - vm_type.num_cpus
    yield _row("CPUs", str(vm_type.num_cpus), str(inside.cpus), f"{off:+d}" if off else "", kept=not off)
    lost = vm_type.ram_mb - inside.memory_mb
    share = f"{-100 * lost / vm_type.ram_mb:+.1f} %"
    kept = -1 <= lost <= _KERNEL_MB + _KERNEL_SHARE * vm_type.ram_mb
    yield _row("memory", f"{vm_type.ram_mb} MB", f"{inside.memory_mb:.0f} MB", share, kept=kept)
    wanted = vm_type.storage_gb * _GIB
    off_gb = (inside.disk - wanted) / _GIB
    yield _row(
        "root disk", f"{vm_type.storage_gb} GB", f"{inside.disk / _GIB:.4g} GB", f"{off_gb:+.4g} GB" if off_gb else "",
        kept=inside.disk == wanted,
    )  # fmt: skip


def _cpu_model(vm_type: VmType, inside: Inside) -> dict[str, Any]:
    """Return the row of the CPU model, which the guest shows as numbers."""
    wanted = _cpu_ids.of_model(vm_type.architecture, vm_type.cpu_model)
    has = _cpu_ids.in_guest(vm_type.architecture, inside.cpuinfo)
    measured = inside.cpuinfo.get("model name", "")
    if not measured and has:
        known = _cpu_ids.names(vm_type.architecture, has)
        measured = "/".join(known) or f"implementer {has[0]:#x}, part {has[1]:#x}"
    kept = has in wanted if wanted and has else None
    return _row(
        "CPU model", vm_type.cpu_model, measured or "unknown", "" if kept is not None else "not compared", kept=kept
    )


def _storage(promise: str, vm_type: VmType, size: Optional[float]) -> dict[str, Any]:
    """Return the row of a file system that is on the root disk, with its size in bytes as the kubelet reports it."""
    promised = f"{vm_type.storage_gb} GB"
    if size is None:
        return _row(promise, promised, "unknown", "not compared", kept=None)
    share = size / (vm_type.storage_gb * _GIB) - 1
    kept = -_FILE_SYSTEM_SHARE <= share <= 0
    return _row(promise, promised, f"{size / _GIB:.1f} GB", f"{100 * share:+.1f} %", kept=kept)


def _of_node(
    node: Mapping[str, Any], labels: Mapping[str, str], taints: Sequence[Mapping[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the node in Kubernetes: labels and taints."""
    has = node["metadata"].get("labels", {})
    off = {key: value for key, value in sorted(labels.items()) if has.get(key) != value}
    shown = [f"{key}={has[key]}" if key in has else f"no {key}" for key in off]
    yield _list_row("labels", len(labels), [f"{key}={value}" for key, value in off.items()], shown)
    if taints:
        set_ = [_taint(taint) for taint in node["spec"].get("taints", [])]
        yield _list_row("taints", len(taints), [text for text in map(_taint, taints) if text not in set_], set_)


def _list_row(promise: str, count: int, missing: Sequence[str], shown: Sequence[str]) -> dict[str, Any]:
    """Return the row of labels or taints: their number, or those that are missing and what is there instead."""
    if not missing:
        return _row(promise, str(count), str(count), kept=True)
    return _row(promise, ", ".join(missing), ", ".join(shown) or "none", kept=False)


def _row(promise: str, promised: str, measured: str, off: str = "", *, kept: Optional[bool]) -> dict[str, Any]:
    return {"promise": promise, "promised": promised, "measured": measured, "off": off, "kept": kept}


def _taint(taint: Mapping[str, str]) -> str:
    """Return a taint as text."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"
