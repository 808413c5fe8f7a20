"""Settings of the lab: its folder, addresses and ports."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_lab.errors import SettingsError

CLOUD_NAME: Final = "q8s-lab"
SCALE_CLOUD_NAME: Final = "q8s-lab-scale"
ADMIN_CLOUD_NAME: Final = "q8s-lab-admin"
IMAGE_NAME: Final = "debian-13"
DISK_FORMAT: Final = "qcow2"  # disk format of virtual machines' images in Glance; containers' images are raw
CONTAINER_IMAGE: Final = "q8s_container_image"  # property of a disk image: the image that containers use instead
REGION: Final = "RegionOne"
_NOBODYS: Final = ipaddress.IPv4Network("198.18.0.0/15")


@dataclass(frozen=True)
class Settings:
    """The settings of a lab. Each lab on a machine needs its own folder, bridge, subnet and port base."""

    folder: Path
    bridge: str
    subnet: ipaddress.IPv4Network
    port_base: int

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """Return the address of the bridge, the hosts' gateway and package proxy."""
        return next(self.subnet.hosts())

    @property
    def ports(self) -> dict[str, int]:
        """Return the TCP ports on loopback, by service."""
        names = ("keystone", "glance", "placement", "neutron", "nova", "mariadb")
        return {name: self.port_base + number for number, name in enumerate(names)}

    @property
    def proxy_port(self) -> int:
        """Return the TCP port of the package proxy on the gateway's address."""
        return self.port_base + 9

    def url(self, service: str) -> str:
        """Return the URL of a service, by its name: ``keystone``, ``nova``, ..."""
        return f"http://127.0.0.1:{self.ports[service]}"

    @property
    def clouds_yaml(self) -> Path:
        """Return the clouds.yaml of the projects' members."""
        return self.folder / "clouds.yaml"

    @property
    def machines(self) -> Path:
        """Return the folder with a folder for each server."""
        return self.folder / "machines"

    @property
    def images(self) -> Path:
        """Return the folder with images as servers use them: unpacked, or as backing file of their disks."""
        return self.folder / "images"

    @property
    def external(self) -> ipaddress.IPv4Network:
        """Return the network of floating IPs: the servers' subnet, moved into 198.18.0.0/15, reserved by RFC 2544."""
        within = int(self.subnet.network_address) & int(_NOBODYS.hostmask)
        return ipaddress.IPv4Network((int(_NOBODYS.network_address) + within, self.subnet.prefixlen))

    @property
    def external_gateway(self) -> ipaddress.IPv4Address:
        """Return this machine's address in the network of floating IPs."""
        return next(self.external.hosts())

    @property
    def admin_clouds_yaml(self) -> Path:
        """Return the clouds.yaml of the administrator, for tests and ``q8s-run lab image``."""
        return self.folder / "admin-clouds.yaml"

    @property
    def network_changes(self) -> Path:
        """Return the file that Neutron's driver writes when a port, security group or floating IP changes."""
        return self.folder / "state" / "network-changes"

    @property
    def log(self) -> Path:
        """Return the folder with the logs of services."""
        return self.folder / "log"


def load() -> Settings:
    """Load the settings from ``Q8S_LAB_DIR``, ``Q8S_LAB_BRIDGE``, ``Q8S_LAB_SUBNET`` and ``Q8S_LAB_PORT``.

    :raises SettingsError: a variable has an invalid value
    """
    folder = Path(os.environ.get("Q8S_LAB_DIR", "/var/lib/q8s-lab"))
    # the path of a socket has at most 107 bytes, unix(7)
    if not folder.is_absolute() or len(os.fsencode(folder / "mysql.sock")) > 107:
        raise _wrong("Q8S_LAB_DIR", folder, "an absolute path of at most 96 bytes")
    bridge = os.environ.get("Q8S_LAB_BRIDGE", "q8s-lab0")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}", bridge):
        raise _wrong("Q8S_LAB_BRIDGE", bridge, "1 to 15 letters, digits, - and _")
    text = os.environ.get("Q8S_LAB_SUBNET", "10.254.1.0/24")
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise _wrong("Q8S_LAB_SUBNET", text, f"an IPv4 network such as 10.254.1.0/24 ({error})") from None
    if not 16 <= subnet.prefixlen <= 28:
        raise _wrong("Q8S_LAB_SUBNET", text, "a network of 16 to 65536 addresses")
    port = os.environ.get("Q8S_LAB_PORT", "15000")
    if not port.isdecimal() or not 1024 <= int(port) <= 65500:
        raise _wrong("Q8S_LAB_PORT", port, "the first of 20 free TCP ports, from 1024 to 65500")
    return Settings(folder, bridge, subnet, int(port))


def _wrong(name: str, value: object, allowed: str) -> SettingsError:
    return SettingsError(f"Failed to read {name}: {value} is not {allowed}", hint=f"unset {name} for its default")
