"""Check a machine against the QEMU that will run it, before anything is made.

    check_machine.py ARCHITECTURE CPU_MODEL MACHINE_MODEL ACCEL

Prints {"kvm": whether the machine runs on the host's processor, "installed": whether QEMU is on the host,
"problems": [what is not possible, and what is]} as JSON.
"""

import difflib
import json
import os
import platform
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


def ask(program, option):
    return subprocess.run(
        [program, option, "help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        check=False,
    ).stdout


def kvm_reason(architecture):
    """Return why KVM cannot run a machine of that architecture here; empty if it can."""
    here = platform.machine()
    if architecture != here:
        return f"the host is {here} and the guest {architecture}"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "the host has no /dev/kvm that can be opened (nested virtualization)"
    return ""


def main(architecture, cpu, machine, accel):
    """Check. Return whether KVM is used, and what is wrong."""
    program = f"/usr/bin/qemu-system-{architecture}"
    if not os.path.exists(program):
        return {"kvm": False, "installed": False, "problems": [f"{platform.node()} has no {program}"]}
    wrong = [
        check("CPU model", cpu, names(ask(program, "-cpu"))),
        check("machine model", machine, names(ask(program, "-machine"))),
    ]
    problems = [f"{program} of {platform.node()} {text}" for text in wrong if text]
    reason = "" if accel == "tcg" else kvm_reason(architecture)
    if accel == "kvm" and reason:
        problems.append(f"accel kvm is not possible: {reason}; take tcg or auto")
    return {"kvm": accel != "tcg" and not reason, "installed": True, "problems": problems}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
