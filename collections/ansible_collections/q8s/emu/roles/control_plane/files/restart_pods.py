"""Restart the kubelet and the static pods of a control plane, one after the other, and wait until each is healthy again.

    restart_pods.py SECONDS

Prints the names of the pods that were restarted, as JSON. A pod that is not healthy after SECONDS is an error.
"""

import http.client
import json
import os
import ssl
import subprocess
import sys
import time

CRICTL = ["/var/lib/q8s/bin/crictl", "--runtime-endpoint", "unix:///run/containerd/containerd.sock"]
MANIFESTS = "/etc/kubernetes/manifests"
DUE = "/etc/kubernetes/q8s/restart-due"
GRACE = 30  # seconds that a container has to end
INTERVAL = 1  # seconds between two looks
STEADY = 15  # seconds for which all have to be healthy: the kubelet may still end one that was not in time
# Where each pod reports its health on loopback: the probes of its manifest. The order is that in which they need one another.
PODS = (
    ("etcd", False, 2381, "/health"),
    ("kube-apiserver", True, 6443, "/readyz"),
    ("kube-controller-manager", True, 10257, "/healthz"),
    ("kube-scheduler", True, 10259, "/healthz"),
)


def run(*command):
    """Run a program, and return its output. Exit if it fails; its own message is on stderr."""
    done = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True, check=False)
    if done.returncode != 0:
        sys.exit(f"Failed to run {' '.join(command)}: exit code {done.returncode}")
    return done.stdout


def containers(name):
    """Return the IDs of the running containers of a static pod."""
    return set(run(*CRICTL, "ps", "--quiet", "--state", "Running", "--name", f"^{name}$").split())


def is_healthy(secure, port, path):
    """Return whether a pod reports that it is healthy."""
    if secure:
        # Its certificate does not name the loopback address.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def restart(name, secure, port, path, timeout):
    """Restart a static pod: stop its container, and wait until the kubelet has started another, which is healthy."""
    old = containers(name)
    if old:
        run(*CRICTL, "stop", "--timeout", str(GRACE), *sorted(old))
    deadline = time.monotonic() + timeout
    while not (containers(name) - old and is_healthy(secure, port, path)):
        if time.monotonic() > deadline:
            sys.exit(f"{name} is not healthy {timeout} s after its container was stopped: crictl logs shows why")
        time.sleep(INTERVAL)


def await_all(pods, timeout):
    """Wait until all pods are healthy at the same time, and stay so."""
    deadline = time.monotonic() + timeout
    since = None
    while since is None or time.monotonic() - since < STEADY:
        sick = [name for name, secure, port, path in pods if not is_healthy(secure, port, path)]
        if sick:
            since = None
            if time.monotonic() > deadline:
                sys.exit(f"not healthy {timeout} s after all were restarted: {', '.join(sick)}; crictl logs shows why")
        elif since is None:
            since = time.monotonic()
        time.sleep(INTERVAL)


def main(timeout):
    """Restart everything."""
    # It reads its own certificate, and forgets how often it has started a pod in vain: it would pause for up to 5 minutes.
    run("systemctl", "restart", "kubelet.service")
    pods = [pod for pod in PODS if os.path.exists(f"{MANIFESTS}/{pod[0]}.yaml")]
    for pod in pods:
        restart(*pod, timeout)
    await_all(pods, timeout)
    if os.path.exists(DUE):
        os.remove(DUE)
    return [pod[0] for pod in pods]


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
