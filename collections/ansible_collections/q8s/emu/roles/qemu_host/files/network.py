"""Compare libvirt's network with the one that the role wants, or define it.

    network.py             print `differs defined` or `differs running` where libvirt has other settings
    network.py --define    define the network, and start it again if it runs with other settings

Parameters, as environment variables: NETWORK (the XML that is wanted), CHECK (True changes nothing).
"""

import copy
import json
import os
import subprocess
import sys
from xml.etree import ElementTree

VIRSH = ["virsh", "--quiet", "--connect", "qemu:///system"]
# libvirt creates both for a new network. A network that exists is refused with another UUID, and guests know the bridge's MAC address.
KEPT = ("uuid", "mac")


def existing(name, *options):
    """Return the XML of a network; None where libvirt has none of that name."""
    done = subprocess.run(
        [*VIRSH, "net-dumpxml", name, *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, check=False,
    )  # fmt: skip
    return ElementTree.fromstring(done.stdout) if done.returncode == 0 else None


def has(found, wanted):
    """Return whether an element has all that is wanted. libvirt adds settings of its own."""
    return (
        wanted.attrib.items() <= found.attrib.items()
        and (wanted.text or "").strip() == (found.text or "").strip()
        and all(any(has(child, one) for child in found.findall(one.tag)) for one in wanted)
    )


def active(name):
    """Return whether the network runs."""
    done = subprocess.run([*VIRSH, "net-list", "--name"], stdout=subprocess.PIPE, universal_newlines=True, check=True)
    return name in done.stdout.split()


def restart(name, wanted):
    """Start the network again, and return the interfaces of guests that run to it."""
    bridge = wanted.find("bridge").get("name")
    shown = subprocess.run(
        ["ip", "-json", "link", "show", "master", bridge], stdout=subprocess.PIPE, universal_newlines=True, check=False
    )
    ports = [port["ifname"] for port in json.loads(shown.stdout or "[]")]
    subprocess.run([*VIRSH, "net-destroy", name], check=True)
    subprocess.run([*VIRSH, "net-start", name], check=True)
    for port in ports:
        mtu = ["mtu", wanted.find("mtu").get("size")]
        subprocess.run(["ip", "link", "set", "dev", port, *mtu, "master", bridge], check=True)


def main():
    define = "--define" in sys.argv
    if define and os.environ.get("CHECK") == "True":
        return
    wanted = ElementTree.fromstring(os.environ["NETWORK"])
    name = wanted.findtext("name")
    found = existing(name, "--inactive")
    differs = []
    if found is not None and not has(found, wanted):
        differs.append("defined")
    if found is not None and active(name) and not has(existing(name), wanted):
        differs.append("running")
    if not define:
        print("".join(f"differs {what}\n" for what in differs), end="")
        return
    own = copy.deepcopy(wanted)
    if found is not None:
        own.extend(found.find(tag) for tag in KEPT if found.find(tag) is not None)
    xml = ElementTree.tostring(own, encoding="unicode")
    subprocess.run([*VIRSH, "net-define", "/dev/stdin"], input=xml, universal_newlines=True, check=True)
    subprocess.run([*VIRSH, "net-autostart", name], check=True)
    if "running" in differs:
        restart(name, wanted)


if __name__ == "__main__":
    main()
