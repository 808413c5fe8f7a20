"""Approve the kubelets' requests for serving certificates, each with its own name and address only.

    approve.py NODES

NODES is a JSON file with the address of each node by its name: /etc/q8s/nodes.json. Kubernetes signs an approved request with
the cluster's CA. A kubelet asks when it has no certificate, when its address changes, and long before its certificate ends.
Other requests are left as they are, and the journal has the reason. Ends when the API server does; systemd starts it again.
"""

import ipaddress
import json
import re
import subprocess
import sys
from base64 import b64decode

KUBECTL = ["/var/lib/q8s/bin/kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"]
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kubelet-serving"
USAGES = {"digital signature", "key encipherment", "server auth"}
# Object identifiers in DER: RFC 5280, A.1, and RFC 2985, 5.4.2
COMMON_NAME, ORGANIZATION = bytes.fromhex("550403"), bytes.fromhex("55040a")
ALTERNATIVE_NAME, EXTENSION_REQUEST = bytes.fromhex("551d11"), bytes.fromhex("2a864886f70d01090e")
DNS, IP = 0x82, 0x87  # tags of alternative names
# Strict: what Kubernetes reads differently would be approved unseen.
PEM = re.compile(rb"-----BEGIN CERTIFICATE REQUEST-----\n([A-Za-z0-9+/=\n]+)-----END CERTIFICATE REQUEST-----\n*")


def parts(data):
    """Return tag and content of each DER element of ``data``."""
    found, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("the request is not DER")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def contents(data):
    """Return the content of each DER element of ``data``."""
    return [content for tag, content in parts(data)]


def names(pem):
    """Return the subject (object identifier, value) and the alternative names (tag, value) that a request in PEM asks for."""
    block = PEM.fullmatch(pem)
    if not block:
        raise ValueError("it is not PEM")
    (request,) = contents(b64decode(block[1].replace(b"\n", b""), validate=True))
    # RFC 2986, 4.1: version, subject, key, attributes
    information = contents(contents(request)[0])
    subject = [tuple(contents(pair)) for relative in contents(information[1]) for pair in contents(relative)]
    attributes = [contents(attribute) for group in information[3:] for attribute in contents(group)]
    extensions = [
        contents(extension)
        for identifier, values in attributes
        if identifier == EXTENSION_REQUEST
        for sequence in contents(values)
        for extension in contents(sequence)
    ]
    alternatives = [fields[-1] for fields in extensions if fields[0] == ALTERNATIVE_NAME]
    if len(alternatives) != 1:
        raise ValueError(f"it has {len(alternatives)} lists of names, not one")
    return subject, parts(contents(alternatives[0])[0])


def refusal(spec, nodes):
    """Return why a request is not approved, empty if it is.

    :param spec: the request's ``spec``. Its ``username`` and ``groups`` are those that the API server authenticated
    :param nodes: addresses by node name
    """
    user = spec.get("username", "")
    node = user[len("system:node:") :] if user.startswith("system:node:") else ""
    if spec.get("signerName") != SIGNER:
        return "it is not for a kubelet's serving certificate"
    if not node or "system:nodes" not in spec.get("groups", []):
        return f"{user} is not a node"
    if node not in nodes:
        return f"{node} is not a node of the cluster file"
    usages = set(spec.get("usages", []))
    if not usages <= USAGES or "server auth" not in usages:
        return f"it is for {', '.join(sorted(usages))}"
    try:
        subject, alternatives = names(b64decode(spec["request"]))
    except (IndexError, KeyError, ValueError) as error:
        return f"it cannot be read: {error}"
    if sorted(subject) != sorted([(COMMON_NAME, user.encode()), (ORGANIZATION, b"system:nodes")]):
        return f"its subject is not that of {user}"
    address = ipaddress.ip_address(nodes[node]).packed
    if not set(alternatives) <= {(DNS, node.encode()), (IP, address)} or (IP, address) not in alternatives:
        return f"it is not for {node} and {nodes[node]} alone"
    return ""


def approve(request):
    """Approve a request. Return what kubectl says if it fails."""
    condition = {"type": "Approved", "status": "True", "reason": "Q8S", "message": "name and address are the node's"}
    request["status"] = {"conditions": [condition]}
    uri = f"{REQUESTS}/{request['metadata']['name']}/approval"
    done = subprocess.run(
        [*KUBECTL, "replace", f"--raw={uri}", "--filename=-", "--request-timeout=30s"],
        input=json.dumps(request).encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    return done.stderr.decode().strip() if done.returncode else ""


def main(path):
    """Watch the requests until the API server ends the watch."""
    with open(path) as stream:
        nodes = json.load(stream)
    selector = f"fieldSelector=spec.signerName%3D{SIGNER.replace('/', '%2F')}"
    watch = subprocess.Popen([*KUBECTL, "get", f"--raw={REQUESTS}?watch=true&{selector}"], stdout=subprocess.PIPE)
    try:
        for line in watch.stdout:
            event = json.loads(line)
            request = event["object"]
            if event["type"] not in ("ADDED", "MODIFIED") or request.get("status", {}).get("conditions"):
                continue
            name, user = request["metadata"]["name"], request["spec"].get("username", "")
            why = refusal(request["spec"], nodes)
            problem = f"left as it is: {why}" if why else approve(request)
            print(f"{name} of {user}: {problem or 'approved'}", flush=True)
            # Another control plane may have been first. Anything else is tried again: systemd starts this anew, and a watch begins with all requests.
            if problem and not why and "Conflict" not in problem:
                return 1
        return watch.wait()
    finally:
        watch.kill()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
