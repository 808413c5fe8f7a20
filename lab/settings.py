"""Where the lab lives and which addresses and ports it uses."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CLOUD_NAME: Final = "q8s-lab"
IMAGE_NAME: Final = "debian-13"
REGION: Final = "RegionOne"


@dataclass(frozen=True)
class Settings:
    """One lab. A second one on the same machine needs another folder, bridge, subnet and port base."""

    folder: Path
    bridge: str
    subnet: ipaddress.IPv4Network
    port_base: int

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The bridge's own address: what hosts see as their gateway and package proxy."""
        return next(self.subnet.hosts())

    @property
    def ports(self) -> dict[str, int]:
        """TCP ports on loopback, by service."""
        names = ("keystone", "glance", "placement", "neutron", "nova", "mariadb")
        return {name: self.port_base + number for number, name in enumerate(names)}

    @property
    def proxy_port(self) -> int:
        """TCP port of the package proxy, on the gateway address."""
        return self.port_base + 9

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    @property
    def clouds_yaml(self) -> Path:
        return self.folder / "clouds.yaml"

    @property
    def machines(self) -> Path:
        return self.folder / "machines"

    @property
    def log(self) -> Path:
        return self.folder / "log"


def load() -> Settings:
    """The lab that the environment names: ``Q8S_LAB_DIR``, ``Q8S_LAB_BRIDGE``, ``Q8S_LAB_SUBNET``, ``Q8S_LAB_PORT``."""
    return Settings(
        folder=Path(os.environ.get("Q8S_LAB_DIR", "/var/lib/q8s-lab")),
        bridge=os.environ.get("Q8S_LAB_BRIDGE", "q8s-lab0"),
        subnet=ipaddress.IPv4Network(os.environ.get("Q8S_LAB_SUBNET", "10.254.1.0/24")),
        port_base=int(os.environ.get("Q8S_LAB_PORT", "15000")),
    )
