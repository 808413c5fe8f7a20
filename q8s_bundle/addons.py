"""The container images of add-ons, for one architecture: what only clusters have whose file asks for it.

Each image is an archive of its own, beside the bundle, so that an add-on changes no bundle and its versions are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache, pod_image
from q8s_bundle.node import gobuild, oci
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.versions import Architecture
from q8s_bundle.pod_image import Recipe

METRICS_SERVER: Final = "0.9.0"

KIND: Final = "addons"
_STAMPS: Final = "k8s.io/client-go/pkg/version"


@dataclass(frozen=True)
class Addon:
    """An add-on: its name in a cluster file, the name of its image, and the program that the image holds."""

    name: str
    image: str
    program: Program


ADDONS: Final[Mapping[str, Addon]] = {
    addon.name: addon
    for addon in (
        Addon(
            "metrics_server",
            f"registry.k8s.io/metrics-server/metrics-server:v{METRICS_SERVER}",
            Program(
                "metrics-server",
                "metricsserver",
                {"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"},
                {f"{_STAMPS}.gitVersion": f"v{METRICS_SERVER}"},
            ),
        ),
    )
}


def recipe(addon: Addon, architecture: Architecture) -> Recipe:
    """Return how an add-on's image is made: a function of its program, its name, and the sources that write it."""

    def contents() -> oci.Image:
        programs, _ = gobuild.build(addon.program, architecture)
        (program,) = addon.program.packages
        return oci.Image((addon.image,), (f"/{program}",), {f"/{program}": programs / program})

    key = cache.content_key(addon.image, gobuild.key(addon.program, architecture), Path(__file__), *pod_image.SOURCES)
    return Recipe(KIND, f"addon-{addon.name}-{architecture.name}", addon.image, key, architecture, contents)
