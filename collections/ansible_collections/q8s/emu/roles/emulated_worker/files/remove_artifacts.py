"""Remove images, kernels and bundles that no machine on this host uses, and print their names as JSON.

    remove_artifacts.py DIRECTORY CHECK CURRENT...

CURRENT are the names that the next machine may need. With CHECK=True it removes nothing, and prints what it would remove.
Every disk of every machine counts, with all backing files below it. If one cannot be read, nothing is removed, and
``problem`` says why.
"""

import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

VIRSH = ["virsh", "--quiet", "--connect", "qemu:///system"]
# Kind, architecture, and the beginning of the SHA-256. An older Q8S used no suffixes.
ARTIFACT = re.compile(r"(root|kernel|initrd|bundle)-[a-z0-9_]+-[0-9a-f]{12}(\.[a-z0-9.]+)?")


def output(*command):
    """Return the output of a program. Raise CalledProcessError if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=True)
    return done.stdout


def definitions(directory):
    """Return the XML of all machines: as they run, as they start next, and those that are prepared."""
    found = []
    for name in output(*VIRSH, "list", "--all", "--name").split():
        found += [output(*VIRSH, "dumpxml", name), output(*VIRSH, "dumpxml", "--inactive", name)]
    for folder in (directory, f"{directory}/next"):
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if name.endswith(".xml"):
                with open(f"{folder}/{name}") as stream:
                    found.append(stream.read())
    return found


def files(text):
    """Return the disks that a machine's XML names, and its kernel and initial ramdisk."""
    domain = ElementTree.fromstring(text)
    disks = {element.get("file") for element in domain.iter("source") if element.get("file")}
    return disks, {domain.findtext("os/kernel"), domain.findtext("os/initrd")} - {None}


def chain(disk):
    """Return a disk and all backing files below it."""
    text = output("qemu-img", "info", "--force-share", "--backing-chain", "--output=json", disk)
    return {entry["filename"] for entry in json.loads(text)}


def used(directory):
    """Return the paths of all files that a machine uses."""
    disks, found = set(), set()
    for text in definitions(directory):
        some, booted = files(text)
        disks |= some
        found |= booted
    # A machine that has no definition yet, or that gets other disks when it is stopped.
    for folder in (directory, f"{directory}/next"):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        disks |= {f"{folder}/{name}" for name in names if name.endswith(".qcow2") and not ARTIFACT.fullmatch(name)}
    for disk in disks:
        if os.path.exists(disk):
            found |= chain(disk)
    return {os.path.realpath(path) for path in found}


def main(directory, check, current):
    """Remove what nobody uses."""
    names = [name for name in sorted(os.listdir(directory)) if ARTIFACT.fullmatch(name) and name not in current]
    try:
        needed = used(directory) if names else set()
    except (OSError, ValueError, ElementTree.ParseError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return {"removed": [], "problem": lines[-1] if lines else str(error)}
    removed = [name for name in names if os.path.realpath(f"{directory}/{name}") not in needed]
    if not check:
        for name in removed:
            os.remove(f"{directory}/{name}")
    return {"removed": removed, "problem": ""}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2] == "True", sys.argv[3:])))
