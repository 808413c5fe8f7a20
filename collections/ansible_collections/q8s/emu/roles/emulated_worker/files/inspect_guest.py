"""Print what a guest on this host has, as JSON: what its machine runs with, its disk, and what its data disk holds.

    inspect_guest.py NAME DIRECTORY

``state`` is libvirt's, "none" without a machine of that name; where libvirt does not answer, this fails with the reason.
Of a machine that runs it prints what it was started with, whatever its definition says now. ``node`` is the data disk's
/etc/q8s/node.json, empty for a guest of an earlier release. ``links`` tells whether a deploy has given the guest links to
other nodes.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from xml.etree import ElementTree

VIRSH = ["virsh", "--quiet", "--connect", "qemu:///system"]
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
STOPPED = ("shut off", "crashed")
KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "k": 1, "KiB": 1, "M": 1024, "MiB": 1024, "G": 1 << 20, "GiB": 1 << 20}


def run(*command):
    """Run a program; None where it is not installed."""
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False
        )
    except OSError:
        return None


def output(*command):
    """Return the output of a program; nothing where it fails or is not installed."""
    done = run(*command)
    return done.stdout if done else ""


def mebibytes(element):
    """Return a size of libvirt's in MiB, 0 where there is none."""
    return int(int(element.text) * KIB[element.get("unit", "KiB")] / 1024) if element is not None else 0


def machine(text):
    """Return what libvirt's XML says of a machine."""
    domain = ElementTree.fromstring(text)
    kind = domain.find("os/type")
    return {
        "architecture": kind.get("arch"),
        "machine_model": kind.get("machine"),
        "ram": mebibytes(domain.find("memory")),
        "num_cpus": int(domain.findtext("vcpu")),
        "cpu_model": domain.findtext("cpu/model", ""),
        "accel": "kvm" if domain.get("type") == "kvm" else "tcg",
        "tb_cache": mebibytes(domain.find("features/tcg/tb-cache")),
        "qemu_args": [argument.get("value") for argument in domain.iter(QEMU + "arg")],
    }


def storage(text):
    """Return the size of a disk in GiB, from ``qemu-img info``."""
    found = re.search(r"^virtual size:.*\((\d+) bytes\)$", text, re.MULTILINE)
    return int(found.group(1)) >> 30 if found else 0


def data_disk(path):
    """Return what a data disk holds of the node: its description, and the guest's address and prefix length."""
    found = {"node": {}, "address": "", "prefixlen": 0}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                if member.name == "etc/q8s/node.json":
                    found["node"] = json.loads(archive.extractfile(member).read().decode())
                elif member.name == "etc/systemd/network/10-q8s.network":
                    text = archive.extractfile(member).read().decode()
                    line = re.search(r"^Address=([0-9.]+)/(\d+)$", text, re.MULTILINE)
                    if line:
                        found.update(address=line.group(1), prefixlen=int(line.group(2)))
    except (OSError, ValueError, tarfile.TarError):
        pass
    return found


def main(name, directory):
    """Look at the guest."""
    asked = run(*VIRSH, "domstate", name)
    if asked is None or "failed to get domain" in asked.stderr:
        return {"state": "none"}
    if asked.returncode != 0:
        sys.exit(asked.stderr)
    state = asked.stdout.strip()
    active = [] if state not in STOPPED else ["--inactive"]
    xml = output(*VIRSH, "dumpxml", *active, name)
    if not xml:
        return {"state": "none"}
    disk = output("qemu-img", "info", "--force-share", f"{directory}/{name}.qcow2")
    return {
        "state": state,
        **machine(xml),
        "storage": storage(disk),
        **data_disk(f"{directory}/{name}-data.img"),
        "links": os.path.exists(f"{directory}/links"),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
