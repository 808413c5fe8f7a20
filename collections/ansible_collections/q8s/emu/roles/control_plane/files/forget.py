"""Remove what is left in the cluster of a control plane that has not joined it: its member of etcd, and its node.

    forget.py NAME ADDRESS [--check | --is-member]

Runs on a control plane of the cluster. On one that has no cluster yet, there is nothing to remove. Prints what it
removes, or with --check would remove, a line each. With --is-member, prints only "no" if etcd has no such member.
"""

import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

PKI = "/etc/kubernetes/pki/etcd"
KUBECTL = ["/var/lib/q8s/bin/kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "--request-timeout=30s"]


def ask(method, **request):
    """Call etcd's gateway for JSON, on this host. What etcd refuses raises urllib.error.HTTPError."""
    context = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
    context.load_cert_chain(f"{PKI}/healthcheck-client.crt", f"{PKI}/healthcheck-client.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    url = f"https://127.0.0.1:2379/v3/cluster/member/{method}"
    with opener.open(urllib.request.Request(url, json.dumps(request).encode()), timeout=30) as answer:
        return json.load(answer)


def remove(number):
    """Remove a member. Where its removal would end etcd's majority, etcd refuses, and so does this."""
    try:
        ask("remove", ID=number)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            text = json.loads(text)["message"]
        except (ValueError, KeyError, TypeError):
            text = text or str(error)
        sys.exit(f"etcd removes no member now: {text}")


def members_of(members, name, address):
    """Return the members of that name; one that never started has no name, but the address of its server."""
    url = f"https://{address}:2380"
    return [m for m in members if m.get("name") == name or (not m.get("name") and url in m.get("peerURLs", []))]


def is_member(name, address):
    """Return whether etcd has a member of that server. It has, as long as etcd does not say otherwise."""
    try:
        members = ask("list")["members"]
    except (OSError, ValueError, KeyError):
        return True
    return any(m.get("name") == name or f"https://{address}:2380" in m.get("peerURLs", []) for m in members)


def main(name, address, option=""):
    """Remove the member and the node."""
    if not os.path.exists("/etc/kubernetes/q8s/initialised"):
        return
    if option == "--is-member":
        if not is_member(name, address):
            print("no")
        return
    check = option == "--check"
    for member in members_of(ask("list")["members"], name, address):
        print(f"member {member['ID']} of etcd, {member.get('name') or address}")
        if not check:
            remove(member["ID"])
    node = subprocess.run(
        [*KUBECTL, "get", "node", name, "--ignore-not-found", "--output=name"],
        check=True,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    ).stdout.strip()
    if node:
        print(node)
        if not check:
            subprocess.run([*KUBECTL, "delete", node, "--ignore-not-found"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
