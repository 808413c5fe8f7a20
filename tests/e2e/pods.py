"""Pods of the tests' own programs: each node has an image with a shell, and its Python is mounted into it."""

from __future__ import annotations

from typing import Any, Final

IMAGE: Final = "q8s.local/probe:1"  # every node has it
PYTHON: Final = "/usr/bin/python3"


def python_of_the_node(architecture: str, program: str) -> dict[str, list[dict[str, Any]]]:
    """Return the volumes of a pod that runs the node's Python on a program, which a ConfigMap of that name has.

    The program is in /probe.d.

    :param architecture: the node's, as Kubernetes names it
    """
    folders = {"usr": "/usr", "lib": "/usr/lib", **({"lib64": "/usr/lib64"} if architecture == "amd64" else {})}
    volumes: list[dict[str, Any]] = [{"name": name, "hostPath": {"path": path}} for name, path in folders.items()]
    mounts = [{"name": name, "mountPath": f"/{name}", "readOnly": True} for name in folders]
    return {
        "volumes": [*volumes, {"name": "program", "configMap": {"name": program}}],
        "volumeMounts": [*mounts, {"name": "program", "mountPath": "/probe.d"}],
    }
