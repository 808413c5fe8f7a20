# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the hosts' image and the QEMU in it suit a cluster. Pure functions."""

from __future__ import annotations

from ansible_collections.q8s.emu.plugins.module_utils import _spec_qemu
from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Findings
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster

X86_64_NAMES = ("", "x86_64", "amd64")  # as Glance's property architecture has them; images may lack it


def image_problems(cluster: Cluster, findings: Findings) -> list[str]:
    """Return why the image cannot be used: it is missing, not unique, not active, or of another architecture."""
    name = repr(cluster.default_image_name)
    if not findings.images:
        return [f"default_image_name: there is no image called {name}"]
    if len(findings.images) > 1:
        ids = ", ".join(sorted(image.id for image in findings.images))
        return [f"default_image_name: {len(findings.images)} images are called {name}; give the id of one: {ids}"]
    image, problems = findings.images[0], []
    if image.status != "active":
        problems.append(
            f"default_image_name: the image {name} is {image.status}, and servers can only use an active one"
        )
    if image.architecture.lower() not in X86_64_NAMES:
        problems.append(f"default_image_name: the image {name} is for {image.architecture}; hosts are x86_64")
    return problems


def model_problems(cluster: Cluster, findings: Findings) -> list[str]:
    """Return the CPU and machine models that the hosts' QEMU does not have."""
    system = _host_system(cluster, findings)
    problems = []
    for vm_type in cluster.used_types() if system else ():
        for what, model in (("cpu_model", vm_type.cpu_model), ("machine_model", vm_type.machine_model)):
            problem = _spec_qemu.model_problem(system, what, model, vm_type.architecture)
            if problem:
                problems.append(f"vm_types.types.{vm_type.name}.{what}: {problem}")
    return problems


def host_system_notes(cluster: Cluster, findings: Findings) -> list[str]:
    """Return a note if ``host_os`` differs from the system that the image names, or if that is one that Q8S does not know."""
    if len(findings.images) != 1:
        return []
    said, image = cluster.host_os, findings.images[0]
    name = f"the image {cluster.default_image_name!r} says that it is"
    if said != "auto":
        differs = image.host_system not in ("", said)
        return [f"host_os is {said}, but {name} {image.host_system}"] if differs else []
    family = image.distribution.lower() in ("debian", "ubuntu")
    # "debian" alone may be any release of it.
    if image.host_system or not image.distribution or (family and not image.version):
        return []
    known = ", ".join(system.title for system in _spec_qemu.HOST_SYSTEMS.values())
    return [
        f"{name} {f'{image.distribution} {image.version}'.strip()}; hosts can be {known}. Others fail when packages are installed"
    ]


def _host_system(cluster: Cluster, findings: Findings) -> str:
    """Return the system of the hosts as the file or the image says it, empty if neither does."""
    if cluster.host_os != "auto":
        return cluster.host_os
    return findings.images[0].host_system if len(findings.images) == 1 else ""
