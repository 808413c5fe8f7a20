"""Check a machine against the QEMU that will run it, before anything is made.

    check_machine.py ARCHITECTURE CPU_MODEL MACHINE_MODEL ACCEL

Prints {"kvm": whether the machine runs on the host's processor, "installed": whether QEMU is on the host,
"keeps_flags": whether QEMU emulates cmpxchg16b rightly, "problems": [what is not possible, and what is]} as JSON.
"""

import difflib
import json
import os
import platform
import re
import subprocess
import sys


def names(text):
    """Return the names that `-cpu help` or `-machine help` lists: in each line the first word, after x86 in older versions."""
    found = []
    for line in text.splitlines():
        if line.startswith("Recognized"):  # CPU flags follow
            break
        words = line.split()
        if words[:1] == ["x86"]:
            words = words[1:]
        if words and not line.rstrip().endswith(":"):
            found.append(words[0])
    return found


def check(what, wanted, known):
    """Return what is wrong with the choice, in words; empty if nothing is."""
    if wanted in known:
        return ""
    close = difflib.get_close_matches(wanted, known, 5, 0.4)
    return f"has no {what} {wanted}; " + (
        "close to it: " + ", ".join(close) if close else "it has: " + ", ".join(known)
    )


def ask(program, *options):
    return subprocess.run(
        [program, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        check=False,
    ).stdout


def keeps_flags(version):
    """Return whether QEMU computes the flags of an emulated cmpxchg16b from those before it.

    Before 8.0, it may take an address for them, which an interrupt then restores: Linux panics or hangs. Since then
    the instruction is translated without a helper.

    :param version: what `--version` prints
    """
    found = re.search(r"version (\d+)", version)
    return found is None or int(found.group(1)) >= 8


def kvm_reason(architecture):
    """Return why KVM cannot run a machine of that architecture here; empty if it can."""
    here = platform.machine()
    if architecture != here:
        return f"the host is {here} and the guest {architecture}"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "the host has no /dev/kvm that can be opened (nested virtualization)"
    return ""


def main(architecture, cpu, machine, accel):
    """Check. Return whether KVM is used, what QEMU can do, and what is wrong."""
    program = f"/usr/bin/qemu-system-{architecture}"
    if not os.path.exists(program):
        problems = [f"{platform.node()} has no {program}"]
        return {"kvm": False, "installed": False, "keeps_flags": True, "problems": problems}
    wrong = [
        check("CPU model", cpu, names(ask(program, "-cpu", "help"))),
        check("machine model", machine, names(ask(program, "-machine", "help"))),
    ]
    problems = [f"{program} of {platform.node()} {text}" for text in wrong if text]
    reason = "" if accel == "tcg" else kvm_reason(architecture)
    if accel == "kvm" and reason:
        problems.append(f"accel kvm is not possible: {reason}; take tcg or auto")
    return {
        "kvm": accel != "tcg" and not reason,
        "installed": True,
        "keeps_flags": keeps_flags(ask(program, "--version")),
        "problems": problems,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
