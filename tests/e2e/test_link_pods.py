"""Each kind of link, as pods meet it: two pods on the nodes of an edge and of a cloud send to one another.

Each test stands by itself, on one cluster. ``make test-long`` runs them; with Q8S_TEST_CLUSTER=FILE they use the
cluster of that file, a deployed examples/edge.yaml, and the environment's cloud.
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.e2e.clusters import Cluster, edge_file, given_or_deployed
from tests.e2e.pods import IMAGE, PYTHON, python_of_the_node

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("a quarter of an hour"),
]
NAMESPACE: Final = "q8s-links"
PROGRAM: Final = Path(__file__).with_name("link_probe.py")
PORT: Final = 4711
EDGE, CLOUD = "edge-1", "cloud-1"
INTERVAL: Final = 0.02  # seconds between packets
# What HTB counts of a packet that has 1200 bytes of data: UDP and IP, and VXLAN's 64 bytes around the inner packet.
DATA_SHARE: Final = 1200 / (1200 + 28 + 64)


@dataclass(frozen=True)
class Pods:
    """A pod on each of the two nodes."""

    cluster: Cluster
    control_plane: str
    addresses: Mapping[str, str]

    def ask(self, sender: str, receiver: str, kind: str, *words: str) -> Any:
        """Let the pod of a node send to the other's. Return what it measured."""
        command = ["kubectl", f"--namespace={NAMESPACE}", "exec", sender, "--", PYTHON, f"/probe.d/{PROGRAM.name}"]
        command += [kind, self.addresses[receiver], str(PORT), *words]
        output = self.cluster.command("ssh", self.control_plane, "--", f"sudo {shlex.join(command)}")
        return json.loads(output.strip().splitlines()[-1])

    def echo(self, packets: int) -> list[list[float]]:
        """Send packets from the edge to the cloud and back. Return the times in ms of the replies to each."""
        found: list[list[float]] = self.ask(EDGE, CLOUD, "echo", str(packets), str(INTERVAL))
        return found

    def rate(self, sender: str, receiver: str, promised: float) -> float:
        """Return the rate in Mbit/s at which data arrives of half as much again as was promised."""
        return float(self.ask(sender, receiver, "flood", str(1.5 * promised), "10"))

    def link(self, *settings: str, sender: str = EDGE, receiver: str = CLOUD) -> None:
        self.cluster.command("link set", sender, receiver, *settings)


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with given_or_deployed(request, tmp_path_factory.mktemp("edge"), "edge", edge_file) as found:
        yield found


def pod(node: str, architecture: str) -> dict[str, Any]:
    python = python_of_the_node(architecture, "program")
    container = {
        "name": "program",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": [PYTHON, "-u", f"/probe.d/{PROGRAM.name}", "serve", str(PORT)],
        "volumeMounts": python["volumeMounts"],
    }
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]}
    metadata = {"name": node, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, "volumes": python["volumes"]}}


@pytest.fixture(scope="module")
def both(cluster: Cluster) -> Iterator[Pods]:
    control_plane = str(yaml.safe_load(cluster.file.read_text())["name_of_initial_instance"])

    def on_control_plane(command: str) -> str:
        return cluster.command("ssh", control_plane, "--", f"sudo sh -c {shlex.quote(command)}")

    def get(*words: str) -> dict[str, Any]:
        listed = on_control_plane(shlex.join(["kubectl", "get", *words, "--output=json"]))
        return {one["metadata"]["name"]: one for one in json.loads(listed[listed.index("{") :])["items"]}

    nodes = get("nodes")
    program = {"name": "program", "namespace": NAMESPACE}
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": program, "data": {PROGRAM.name: PROGRAM.read_text()}},
        *(pod(node, nodes[node]["status"]["nodeInfo"]["architecture"]) for node in (EDGE, CLOUD)),
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    remove = f"kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=120s"
    try:
        on_control_plane(f"{remove}; kubectl apply --filename=- <<'E'\n{text}\nE")
        on_control_plane(f"kubectl --namespace={NAMESPACE} wait --for=condition=Ready pod --all --timeout=300s")
        addresses = {name: one["status"]["podIP"] for name, one in get("pods", f"--namespace={NAMESPACE}").items()}
        yield Pods(cluster, control_plane, addresses)
    finally:
        on_control_plane(remove)


@pytest.fixture
def pods(both: Pods) -> Iterator[Pods]:
    """The pods; the links are the cluster file's again in the end."""
    yield both
    both.cluster.command("link clear")


@pytest.fixture
def one_way(pods: Pods) -> Pods:
    """The pods, with no link from the cloud back to the edge."""
    pods.link("delay=0ms", sender=CLOUD, receiver=EDGE)
    return pods


def shortest(replies: Sequence[Sequence[float]]) -> float:
    return min(time for times in replies for time in times)


def is_share(number: int, of: int, promised: float, name: str) -> None:
    """Check that so many of so many fit a promised share: they are within 4 standard deviations."""
    print(f"{name}: {number} of {of}, {number / of:.2%}, promised {promised:.2%}")
    assert abs(number / of - promised) < 4 * sqrt(promised * (1 - promised) / of)


def spread(replies: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of the times, from their quartiles: a machine that is busy makes some very late."""
    low, _, high = statistics.quantiles([times[0] for times in replies if times], n=4)
    return (high - low) / 1.349


def test_delays_of_both_directions_add_up(pods: Pods) -> None:
    pods.link("delay=1ms")
    pods.link("delay=1ms", sender=CLOUD, receiver=EDGE)
    path = shortest(pods.echo(500)) - 2
    pods.link("delay=100ms")
    pods.link("delay=20ms", sender=CLOUD, receiver=EDGE)
    found = shortest(pods.echo(500))
    print(f"{found:.2f} ms, and {path:.2f} ms without the links")
    assert 119.5 < found - path < 123


def test_jitter_of_a_normal_distribution(one_way: Pods) -> None:
    def measure(*settings: str) -> float:
        one_way.link("delay=100ms", *settings)
        return spread(one_way.echo(1000))

    before, found, after = measure(), measure("jitter=30ms", "distribution=normal"), measure()
    print(f"standard deviation {found:.1f} ms; without jitter {before:.1f} ms before and {after:.1f} ms after it")
    low, high = sorted((before, after))
    if high > 20:
        pytest.skip(f"times differ by {high:.0f} ms without jitter: the machine is too busy to tell 30 ms")
    assert 0.88 * sqrt(30**2 + low**2) < found < 1.12 * sqrt(30**2 + high**2)


def test_loss(one_way: Pods) -> None:
    one_way.link("loss=10%")
    replies = one_way.echo(2000)
    is_share(sum(not times for times in replies), len(replies), 0.1, "lost")


def test_loss_in_bursts(one_way: Pods) -> None:
    """Gilbert and Elliott's model: p to the bad state, r back; so a burst is 1 / r packets long."""
    one_way.link("loss.model=gilbert-elliott", "loss.p=2%", "loss.r=25%")
    lost = "".join("." if times else "x" for times in one_way.echo(4000))
    bursts = [len(burst) for burst in lost.split(".") if burst]
    share, length = lost.count("x") / len(lost), statistics.mean(bursts)
    print(f"lost {share:.1%}, promised {0.02 / 0.27:.1%}; {len(bursts)} bursts of {length:.1f} packets, promised 4")
    assert 0.045 < share < 0.11
    assert 3 < length < 5.2


def test_duplicates(pods: Pods) -> None:
    """Linux refuses a duplicating netem beside another one, so this is the node's only link."""
    pods.link("delay=0ms", sender=EDGE, receiver="*")
    pods.link("delay=0ms", sender="*", receiver=EDGE)
    pods.link("duplicate=10%")
    replies = pods.echo(2000)
    assert {len(times) for times in replies} == {1, 2}
    is_share(sum(len(times) == 2 for times in replies), len(replies), 0.1, "twice")


def test_corrupt_packets_do_not_arrive(one_way: Pods) -> None:
    """One bit of a packet is another one, and the checksum of what is inside VXLAN's packet tells."""
    one_way.link("corrupt=10%")
    replies = one_way.echo(2000)
    is_share(sum(not times for times in replies), len(replies), 0.1, "lost")


def test_reordered_packets_overtake_the_delay(one_way: Pods) -> None:
    one_way.link("delay=100ms", "reorder=30%")
    times = [one[0] for one in one_way.echo(1000) if one]
    is_share(sum(time < 90 for time in times), len(times), 0.3, "before the others")


def is_rate(found: float, promised: float, what: str) -> None:
    """Check a rate in Mbit/s. HTB does not make up for the time that a guest stands still on a busy machine."""
    print(f"{what}: {found:.2f} Mbit/s, promised {promised:.2f}")
    assert 0.75 * promised < found < 1.02 * promised


def test_rates_of_both_directions(pods: Pods) -> None:
    # Rates of which guests on a slow machine send half as much again: some 100 and 200 packets a second.
    pods.link("rate=1mbit")
    pods.link("rate=2mbit", sender=CLOUD, receiver=EDGE)
    is_rate(pods.rate(EDGE, CLOUD, 1), 1 * DATA_SHARE, "datagrams up")
    is_rate(pods.rate(CLOUD, EDGE, 2), 2 * DATA_SHARE, "datagrams down")
    # The headers of TCP and VXLAN are 8% of a full packet.
    is_rate(float(pods.ask(EDGE, CLOUD, "stream", "15")), 1 * 0.92, "TCP up")


def test_all_at_once(pods: Pods) -> None:
    pods.link("delay=10ms", sender=CLOUD, receiver=EDGE)
    pods.link("delay=100ms", "loss=5%", "reorder=20%", "rate=1mbit")
    replies = pods.echo(2000)
    is_share(sum(not times for times in replies), len(replies), 0.05, "lost")
    times = [one[0] for one in replies if one]
    # Those before the others wait for 10 ms only, on the way back.
    is_share(sum(time < 90 for time in times), len(times), 0.2, "before the others")
    assert 110 <= statistics.median(times) < 140
    # What is lost is lost before the rate: the others have all of it.
    is_rate(pods.rate(EDGE, CLOUD, 1), 1 * DATA_SHARE, "datagrams")


def test_a_partition_of_one_direction(pods: Pods) -> None:
    pods.link("loss=100%")
    assert not any(pods.echo(100))
