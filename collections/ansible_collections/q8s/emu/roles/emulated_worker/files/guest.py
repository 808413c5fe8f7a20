"""Look after a guest whose network or CPUs may hang.

    guest.py wait NAME ADDRESS TIMEOUT    wait until its sshd answers; reset it if it hangs, start it if its QEMU ended
    guest.py watch NAME ADDRESS           do that for good, for instance after a reboot of the host; never returns

QEMU without KVM at times loses an interrupt of an x86_64 guest early in its boot (seen with 10.0: the local APIC keeps
the timer's vector in service, so that nothing of lower priority is delivered). All virtual CPUs then halt for ever. A
guest that boots is never idle, so one that hardly ran or waited for a CPU of the host for half a minute hangs, unless
its kernel answers: then it has booted, and only its sshd does not run. More rarely, QEMU itself ends then; what it said
is in its log.

wait: TIMEOUT is the time in seconds without progress: a guest that prints on its console is waited for, up to six times
as long. A guest on a host that is itself emulated takes half an hour, and one that hangs prints nothing. Prints
{"resets": N, "ended": [TEXT, ...], "lacks_kubelet": BOOL} as JSON: how often it was reset or started, what QEMU said at each
of its ends, and whether nobody listens on its kubelet's port, as while it boots. Exit code 1 and the reason on stderr, if the guest did not come.

watch: is more patient, since a guest may wait for a device while it boots, and takes an answer to ARP for life, since a
guest may have a firewall. A guest that QEMU paused because its host's disk was full goes on once there is space again. One
that somebody has stopped or paused is left alone.
"""

import glob
import json
import os
import re
import socket
import subprocess
import sys
import time

WINDOW = 30.0  # seconds
WATCHED_WINDOW = 120.0  # seconds
PAUSE = 20.0  # seconds between two looks at a watched guest
IDLE = 0.25  # of one CPU; a guest that boots uses or waits for a whole one, a CPU that hangs leaves the others alive
RESETS = 3
PATIENCE = 6  # times TIMEOUT, for a guest that prints
PANIC = b"Kernel panic - not syncing"  # it boots again after that, and would print for good
SPACE = 256 << 20  # bytes that must be free on the host before a guest that lacked them goes on
CLOSED = 9  # a port on which nobody listens in a guest: sshd would start a process for each look, and log it
RESTART = 60.0  # seconds for which libvirt may not answer, as while it restarts
VIRSH = ["virsh", "--quiet", "--connect", "qemu:///system"]


def answer(address, port=22):
    """Return who answers on the port, by default that of ssh: "sshd", only the guest's "kernel", or "nobody"."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            try:
                return "sshd" if connection.recv(4) == b"SSH-" else "kernel"
            except OSError:
                return "kernel"  # it has accepted the connection
    except ConnectionRefusedError:
        return "kernel"
    except OSError:
        return "nobody"


def lacks_kubelet(address):
    """Return whether the guest refuses connections to the kubelet's port."""
    try:
        socket.create_connection((address, 10250), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # it may listen, and be slow
    return False


def busy_seconds(name):
    """Return the time that QEMU's threads ran or waited for a CPU of the host."""
    with open(f"/run/libvirt/qemu/{name}.pid") as stream:
        pid = stream.read().strip()
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        try:
            with open(path) as stream:
                ran, waited = stream.read().split()[:2]
            total += int(ran) + int(waited)
        except OSError:
            continue  # the thread has ended
    return total / 1e9


class Idleness:
    """Tells when QEMU was idle for a whole window of time."""

    def __init__(self, name, window):
        self.name, self.window = name, window
        self.since, self.busy = None, 0.0

    def forget(self):
        """Begin the next window at the next look."""
        self.since = None

    def look(self):
        """Return how long QEMU was idle if a window has ended in which it was, else 0."""
        now = time.monotonic()
        length = 0.0 if self.since is None else now - self.since
        if self.since is not None and length < self.window:
            return 0.0
        before, self.since, self.busy = self.busy, now, busy_seconds(self.name)
        return length if self.busy - before < IDLE * length else 0.0


def ask(*arguments):
    return subprocess.run(
        [*VIRSH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, check=False
    )


def virsh(*arguments):
    return ask(*arguments).stdout.strip()


def domstate(name, *options):
    """Return the machine's state, empty where libvirt does not tell."""
    done = ask("domstate", name, *options)
    return done.stdout.strip() if done.returncode == 0 else ""


def log_tail(name):
    """Return the end of QEMU's log, without its command line and what it lacks of a CPU model."""
    try:
        with open(f"/var/log/libvirt/qemu/{name}.log") as stream:
            lines = [line.strip() for line in stream if not re.search(r"^-|\\\n|requested feature|^$", line)]
    except OSError:
        return ""
    return "\nlast lines of QEMU's log:\n" + "\n".join(lines[-5:])


def console(name):
    """Return what the guest printed on its console, in bytes."""
    found = re.search(r"<source path='([^']+\.console)'", virsh("dumpxml", name))
    if not found:
        return b""
    with open(found.group(1), "rb") as stream:
        return stream.read()


def last_lines(name):
    """Return the end of the guest's console, without terminal control."""
    text = console(name)[-4000:].decode(errors="replace")
    text = re.sub(r"\x1b\[[0-9;?!]*[A-Za-z]", "", text)
    lines = [line for line in text.splitlines() if line.strip()]
    return "\nlast lines of its console:\n" + "\n".join(lines[-10:]) if lines else ""


def answers_arp(address):
    """Return whether the host knows the guest's MAC address. A connection was tried before, which lets the host ask for it."""
    command = ["ip", "-4", "neigh", "show", address]
    shown = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True, check=False).stdout
    return "lladdr" in shown and "FAILED" not in shown and "INCOMPLETE" not in shown


def has_space(name):
    """Return whether there is space for the guest's disk on its host."""
    file = re.search(r"<source file='([^']+)'", virsh("dumpxml", name))
    if not file:
        return False
    found = os.statvfs(os.path.dirname(file.group(1)))
    return found.f_bavail * found.f_frsize >= SPACE


def watch(name, address):
    """Reset the guest whenever it hangs, and start it when its QEMU ended, at most three times before it answers again."""
    idleness, attempts = Idleness(name, WATCHED_WINDOW), 0
    while True:
        time.sleep(PAUSE)
        state = domstate(name, "--reason")
        if state in ("shut off (crashed)", "shut off (failed)", "crashed (panicked)") and attempts < RESETS:
            attempts += 1
            say(f"the machine is {state}: starting it{log_tail(name)}")
            say(virsh("start", name))
        if state == "paused (I/O error)" and attempts < RESETS and has_space(name):
            attempts += 1
            say("the host's disk has space again: resuming the guest")
            say(virsh("resume", name))
        if not state.startswith("running"):
            idleness.forget()
            continue
        if answer(address, CLOSED) != "nobody" or answers_arp(address):
            idleness.forget()
            attempts = 0
            continue
        idle = idleness.look()
        if idle and attempts < RESETS:
            attempts += 1
            say(f"the guest was idle for {idle:.0f} s, and answers nobody: resetting it")
            say(virsh("reset", name))


def say(text):
    """Print for the journal."""
    print(text, flush=True)


def wait(name, address, timeout):
    """Wait; return how often the guest was reset or started, and what QEMU said each time that it ended."""
    start = progress = time.monotonic()
    earlier = printed = len(console(name))
    idleness, resets, ended = Idleness(name, WINDOW), 0, []
    known = start  # when libvirt told the machine's state
    while True:
        who = answer(address)
        if who == "sshd":
            return {"resets": resets, "ended": ended}
        reason = domstate(name, "--reason")
        state = reason.partition(" (")[0]
        if not state:
            if time.monotonic() - known > RESTART:
                sys.exit(
                    f"Failed to boot the guest {name}: libvirt has not told its machine's state for {RESTART:.0f} s: "
                    f"{virsh('domstate', name)}{log_tail(name)}"
                )
            idleness.forget()
            time.sleep(1)
            continue
        known = time.monotonic()
        if state in ("shut off", "crashed") and resets < RESETS:
            ended.append(log_tail(name))
            virsh("start", name)
            resets += 1
            idleness.forget()
            continue
        if state != "running":
            if reason == "paused (starting up)":  # by the watch
                time.sleep(1)
                continue
            sys.exit(f"Failed to boot the guest {name}: its machine is {reason}{log_tail(name)}{last_lines(name)}")
        now = time.monotonic()
        if now - progress > timeout:
            text = console(name)
            before, printed = printed, len(text)
            stuck = printed == before or text.count(PANIC, min(earlier, printed)) >= RESETS
            progress = progress if stuck else now
        if now - progress > timeout or now - start > PATIENCE * timeout:
            only = ", but its kernel answers: does its sshd run?" if who == "kernel" else ""
            sys.exit(f"Failed to boot the guest {name}: no ssh after {now - start:.0f} s{only}{last_lines(name)}")
        if who == "kernel":
            idleness.forget()
        elif idleness.look():
            if resets == RESETS:
                sys.exit(f"Failed to boot the guest {name}: it hangs, after {resets} resets{last_lines(name)}")
            virsh("reset", name)
            resets += 1
        time.sleep(1)


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(sys.argv[2], sys.argv[3])
    found = wait(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    print(json.dumps({**found, "lacks_kubelet": lacks_kubelet(sys.argv[3])}))
