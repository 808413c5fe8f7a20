"""Check that etcd on this control plane has a leader, which it has while a majority of its members answers.

    majority.py SECONDS [--check | --restore]

Exits with 1 and the reason if it has none after so many seconds. With --restore, etcd then forgets all other members and goes on with the data
of this one (etcd's --force-new-cluster); prints what it did. A restore that was interrupted is ended, but not with --check.
"""

import json
import os
import ssl
import sys
import time
import urllib.request

PKI = "/etc/kubernetes/pki/etcd"
MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"
# Outside of the folder that the kubelet reads. It exists while etcd runs with FORCE.
ORIGINAL = "/etc/kubernetes/q8s/etcd.yaml"
FORCE = "    - --force-new-cluster\n"
COMMAND = "    - etcd\n"
SECONDS_TO_RESTART = 600  # the kubelet restarts etcd, which may run on a slow machine
HINT = (
    "Start or repair the others first (q8s-run status). If they are lost for good: q8s-run deploy FILE -- -e q8s_restore_etcd=true "
    "(ansible-playbook: -e q8s_restore_etcd=true) goes on with the data of this one alone. What the others had and this one had not is lost"
)


def ask(path, **request):
    """Call etcd's gateway for JSON, on this host."""
    context = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
    context.load_cert_chain(f"{PKI}/healthcheck-client.crt", f"{PKI}/healthcheck-client.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    url = f"https://127.0.0.1:2379/v3/{path}"
    with opener.open(urllib.request.Request(url, json.dumps(request).encode()), timeout=10) as answer:
        return json.load(answer)


def leader():
    """Return the id of etcd's leader, 0 if there is none, or None if etcd does not answer here."""
    try:
        return int(ask("maintenance/status").get("leader", 0))
    except (OSError, ValueError):
        return None


def members():
    """Return the names of the members that this one knows, without asking the others; none if etcd does not answer."""
    try:
        found = ask("cluster/member/list", linearizable=False)["members"]
    except (OSError, ValueError, KeyError):
        return []
    return sorted(member.get("name") or ", ".join(member.get("peerURLs", [])) for member in found)


def wait(condition, seconds):
    """Return whether a condition became true within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(2)
    return True


def write(path, text):
    """Replace a file in one step. The new one is written outside of the folder that the kubelet reads."""
    new = f"/etc/kubernetes/q8s/{os.path.basename(path)}.new"
    with open(new, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(text)
    os.replace(new, path)


def restore():
    """Start etcd as the only member, then without that option."""
    if not os.path.exists(ORIGINAL):
        with open(MANIFEST) as stream:
            text = stream.read()
        if COMMAND not in text:
            sys.exit(f"{MANIFEST} does not start etcd as kubeadm does: there is no line {COMMAND.strip()!r}")
        write(ORIGINAL, text)
    with open(ORIGINAL) as stream:
        original = stream.read()
    write(MANIFEST, original.replace(COMMAND, COMMAND + FORCE, 1))
    if not wait(lambda: leader() and len(members()) == 1, SECONDS_TO_RESTART):
        sys.exit(
            f"etcd has no leader {SECONDS_TO_RESTART} s after it was started with --force-new-cluster; run this again"
        )
    write(MANIFEST, original)
    # The forced one runs on until the kubelet has seen the manifest.
    if not wait(lambda: runs_as_usual() and leader(), SECONDS_TO_RESTART):
        sys.exit(
            f"etcd has no leader {SECONDS_TO_RESTART} s after it was started without --force-new-cluster; run this again"
        )
    os.remove(ORIGINAL)
    print("etcd has one member, with the data of this control plane")


def runs_as_usual():
    """Return whether etcd runs, and without --force-new-cluster."""
    found = False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                words = stream.read().split(b"\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == b"etcd":
            if b"--force-new-cluster" in words:
                return False
            found = True
    return found


def main(seconds, option=""):
    """Check, and restore if that is wanted."""
    if not os.path.exists("/etc/kubernetes/q8s/initialised"):
        return
    interrupted = os.path.exists(ORIGINAL)
    # An etcd that does not run is started later in the deploy.
    if not interrupted and (leader() is None or wait(leader, int(seconds))):
        return
    if option == "--restore" or (interrupted and option != "--check"):
        restore()
        return
    if interrupted:
        sys.exit("etcd's restore was interrupted; the next deploy ends it")
    known = members()
    of = f" (its members are {', '.join(known)})" if known else ""
    sys.exit(f"etcd has no leader, because no majority of its members answers{of}. {HINT}")


if __name__ == "__main__":
    main(*sys.argv[1:])
