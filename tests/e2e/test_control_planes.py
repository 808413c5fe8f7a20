"""Three control planes: the loss of any one of them is not felt by a node, and a deleted one is joined again.

The tests build on each other, in the order of the file.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest
from openstack.exceptions import ConflictException

from tests.e2e import clusters
from tests.e2e.clusters import Q8S_RUN, ready

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("half an hour"),
]
NAME: Final = "trio"
FIRST: Final = f"{NAME}-control-plane"
CONTROL_PLANES: Final = (FIRST, f"{FIRST}-2", f"{FIRST}-3")
WORKER: Final = "x86-small-1"
# Seconds: a node that does not report is NotReady after 50, counted anew when the one that counts was lost, too, whose
# loss is noticed after 15.
GRACE: Final = 180
# On a control plane: signs its certificates again, so that they end at once, and restarts what has read them.
END_CERTIFICATES: Final = """\
set -eu
cd /etc/kubernetes/pki
end() {
    openssl x509 -x509toreq -in $1.crt -signkey $1.key -copy_extensions copyall |
        openssl x509 -req -CA $2.crt -CAkey $2.key -days 0 -copy_extensions copyall -out $1.new
    mv $1.new $1.crt
}
for name in apiserver apiserver-kubelet-client; do end $name ca; done
end front-proxy-client front-proxy-ca
for name in apiserver-etcd-client etcd/server etcd/peer etcd/healthcheck-client; do end $name etcd/ca; done
# The kubelet's own, as after a year in which the server was switched off: it does not start again.
cd /var/lib/kubelet/pki
name=kubelet-client-1970-01-01-00-00-00
openssl pkey -in kubelet-client-current.pem -out $name.key
openssl x509 -x509toreq -in kubelet-client-current.pem -signkey $name.key |
    openssl x509 -req -CA /etc/kubernetes/pki/ca.crt -CAkey /etc/kubernetes/pki/ca.key -days 0 -out $name.crt
(umask 077; cat $name.crt $name.key > $name.pem)
rm $name.crt $name.key
ln -sfn /var/lib/kubelet/pki/$name.pem kubelet-client-current.pem
for name in etcd kube-apiserver; do crictl stop $(crictl ps --quiet --label io.kubernetes.container.name=$name); done
systemctl restart kubelet.service
"""
# In the guest: asks the API by its name, with a new connection each time, and prints when it answered.
WATCH: Final = """\
import http.client, ssl, time
context = ssl._create_unverified_context()
while True:
    start = time.time()
    try:
        connection = http.client.HTTPSConnection("trio-api", 6443, timeout=1, context=context)
        connection.request("GET", "/livez")
        if connection.getresponse().status == 200:
            print(time.time(), flush=True)
    except OSError:
        pass
    finally:
        connection.close()
    time.sleep(max(0, 0.2 - (time.time() - start)))
"""


class Cluster(clusters.Cluster):
    """The cluster of these tests, and what may happen to it."""

    def run(self, verb: str, *others: str, code: int = 0) -> str:
        """Run a command. Return all that it wrote."""
        done = self.ended(verb, *others, code=code)
        return done.stdout + done.stderr

    def answer(self, verb: str, *others: str, code: int = 0) -> str:
        """Run a command. Return what it answered, without warnings."""
        return self.ended(verb, *others, code=code).stdout

    def ended(self, verb: str, *others: str, code: int) -> subprocess.CompletedProcess[str]:
        """Run a command that ends with an exit code."""
        done = self.attempt(verb, *others)
        assert done.returncode == code, done.stderr[-2000:]
        return done

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows of ``status`` by node, of a cluster that has a problem."""
        rows = json.loads(self.answer("status", "--json", code=1))
        return {row["node"]: row for row in rows}

    def ask_for(self, additional: int) -> None:
        """Ask for so many additional control planes in the file."""
        text = self.file.read_text()
        self.file.write_text(re.sub(r"(number_additional_master_nodes: )\d\b", rf"\g<1>{additional}", text))

    def power_off(self, name: str) -> None:
        """Take a server's power: nothing is ended, and nobody is told."""
        # In the background: ssh would wait for the answer of a server that is gone.
        self.run("ssh", name, "--", "sudo sh -c '(sleep 1; systemctl poweroff --force --force) >/dev/null 2>&1 &'")

    def stop(self, name: str) -> None:
        """Let the cloud know that a server is off."""
        server = self.cloud.compute.get_server(self.servers()[name])
        if server.status != "SHUTOFF":
            with suppress(ConflictException):  # it has just been noticed
                self.cloud.compute.stop_server(server)
        self.cloud.compute.wait_for_server(server, "SHUTOFF", wait=60)

    def delete(self, name: str) -> None:
        server = self.cloud.compute.get_server(self.servers()[name])
        self.cloud.compute.delete_server(server)
        self.cloud.compute.wait_for_delete(server, wait=60)

    def kubectl(self, host: str, *arguments: str) -> Any:
        """Return what the API server of a control plane says."""
        command = ["sudo", "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", *arguments, "--output=json"]
        return json.loads(self.answer("ssh", host, "--", *command))

    def nodes(self, host: str = CONTROL_PLANES[1]) -> dict[str, Any]:
        return {node["metadata"]["name"]: node for node in self.kubectl(host, "get", "nodes")["items"]}

    def authority(self, host: str) -> str:
        return self.answer("ssh", host, "--", "sudo", "sha256sum", "/etc/kubernetes/pki/ca.crt").split()[0]

    def serial(self, host: str) -> str:
        """Return the serial number of an API server's certificate."""
        certificate = "/etc/kubernetes/pki/apiserver.crt"
        return self.answer("ssh", host, "--", "sudo", "openssl", "x509", "-noout", "-serial", "-in", certificate)

    def members(self, host: str) -> set[str]:
        """Return the names of etcd's members."""
        pki = "/etc/kubernetes/pki/etcd"
        url = "https://127.0.0.1:2379/v3/cluster/member/list"
        script = (
            "import ssl, urllib.request as r; "
            f"c = ssl.create_default_context(cafile='{pki}/ca.crt'); "
            f"c.load_cert_chain('{pki}/healthcheck-client.crt', '{pki}/healthcheck-client.key'); "
            f"print(r.urlopen(r.Request('{url}', b'{{}}'), context=c).read().decode())"
        )
        text = self.answer("ssh", host, "--", f"sudo python3 -c {shlex.quote(script)}")
        return {member.get("name", "") for member in json.loads(text)["members"]}

    def places_of_dns(self, host: str) -> list[str]:
        """Return the nodes on which CoreDNS runs."""
        found = self.kubectl(host, "--namespace=kube-system", "get", "pods", "--selector=k8s-app=kube-dns")["items"]
        return [pod["spec"].get("nodeName", "") for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def means_to_join(self) -> set[str]:
        """Return the names of the Secrets by which nodes and control planes join."""
        names = {
            one["metadata"]["name"] for one in self.kubectl(FIRST, "--namespace=kube-system", "get", "secrets")["items"]
        }
        return {name for name in names if name.startswith("bootstrap-token-") or name == "kubeadm-certs"}

    def wait_until_ready(self, names: set[str], host: str, patience: float = 300) -> None:
        end = time.monotonic() + patience
        while (found := ready(self.nodes(host))) != names:
            assert time.monotonic() < end, f"Ready are {found}"
            time.sleep(5)

    def wait_until_noticed(self, lost: str, host: str) -> dict[str, Any]:
        """Wait until Kubernetes knows that a node is lost. Return the nodes."""
        end = time.monotonic() + GRACE
        while lost in ready(nodes := self.nodes(host)):
            assert time.monotonic() < end, f"{lost} is still Ready"
            time.sleep(5)
        return nodes

    @contextmanager
    def watched(self) -> Iterator[list[float]]:
        """Ask the API from inside the guest all the while. The list has the times of the answers in the end."""
        command = [
            str(Q8S_RUN),
            "ssh",
            str(self.file),
            WORKER,
            "--",
            f"exec timeout 900 python3 -c {shlex.quote(WATCH)}",
        ]
        watch = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        answers: list[float] = []
        assert watch.stdout is not None
        try:
            answers.append(float(watch.stdout.readline()))
            yield answers
        finally:
            watch.terminate()
            answers += [float(line) for line in watch.stdout.read().splitlines()]
            watch.wait()


def transition(node: Mapping[str, Any]) -> str:
    """Return since when the node is Ready: a moment in which it was not is seen here."""
    return next(str(c["lastTransitionTime"]) for c in node["status"]["conditions"] if c["type"] == "Ready")


def gap(answers: list[float]) -> float:
    return max(after - before for before, after in itertools.pairwise(answers))


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clusters.small_cluster(lab, tmp_path_factory.mktemp(NAME), NAME, additional=0) as made:
        yield Cluster(made.name, made.file, made.environment, made.cloud)


@pytest.fixture(scope="module")
def deployed(cluster: Cluster) -> dict[str, Any]:
    """The nodes of a cluster that was deployed with one control plane, and has three now."""
    cluster.run("deploy", "--yes")
    worker = cluster.nodes(FIRST)[WORKER]
    cluster.ask_for(2)
    cluster.run("deploy", "--yes")
    nodes = cluster.nodes()
    assert nodes[WORKER]["metadata"]["uid"] == worker["metadata"]["uid"]
    assert transition(nodes[WORKER]) == transition(worker), "a guest that runs gets the proxy without a restart"
    assert not cluster.means_to_join(), "they are removed when all have joined"
    return nodes


def test_every_control_plane_is_a_member(deployed: dict[str, Any], cluster: Cluster) -> None:
    assert ready(deployed) == {*CONTROL_PLANES, WORKER}
    assert all(cluster.members(name) == set(CONTROL_PLANES) for name in CONTROL_PLANES)
    assert ", 0 changes" in cluster.run("deploy", "--yes")
    places = cluster.places_of_dns(FIRST)
    assert set(places) <= set(CONTROL_PLANES) and len(places) == len(set(places)) == 2, "names survive the loss of one"


@pytest.mark.parametrize("lost", CONTROL_PLANES)
def test_no_node_feels_the_loss_of_a_control_plane(lost: str, deployed: dict[str, Any], cluster: Cluster) -> None:
    others = [name for name in CONTROL_PLANES if name != lost]
    found = cluster.nodes(others[0])
    before = {name: transition(found[name]) for name in (*others, WORKER)}
    with cluster.watched() as answers:
        time.sleep(10)
        start = time.time()
        cluster.power_off(lost)
        nodes = cluster.wait_until_noticed(lost, others[0])
        noticed = time.time()
        assert ready(nodes) == {*others, WORKER}
        assert {name: transition(nodes[name]) for name in before} == before, "the others were Ready all the time"
    usual, away = gap([moment for moment in answers if moment < start]), gap(answers)
    print(f"{lost} lost: the API was away for {away:.1f} s; before, it answered every {usual:.1f} s")
    cluster.stop(lost)
    address = {a["type"]: a["address"] for a in nodes[lost]["status"]["addresses"]}["InternalIP"]
    assert f"https://{address}:6443" not in cluster.run("kubeconfig")
    table = cluster.rows()
    assert table[WORKER]["kubernetes"] == "Ready" and not table[WORKER]["problem"]
    assert "switched off" in table[lost]["problem"]
    cluster.run("deploy", "--yes")
    cluster.wait_until_ready({*CONTROL_PLANES, WORKER}, others[0])
    # Last: the next test needs all three. A gap between two answers contains one ordinary wait for an answer, which is
    # no loss. A question that was asked just before the proxy knew ends with the asker's own timeout of 1 s.
    assert usual <= 2, "before the loss, the API answered too rarely to tell anything"
    assert away <= 3 + 1 + usual, "2 to 3 s until the proxy knows"
    assert answers[-1] > noticed - 10, "the watch lasted until the end"


def test_a_deleted_first_control_plane_is_joined_to_the_others(deployed: dict[str, Any], cluster: Cluster) -> None:
    servers, nodes, authority = cluster.servers(), cluster.nodes(), cluster.authority(CONTROL_PLANES[1])
    cluster.delete(FIRST)
    assert "was deleted: a new one joins" in cluster.run("plan")
    cluster.run("deploy", "--yes")
    after = cluster.nodes(FIRST)
    assert ready(after) == {*CONTROL_PLANES, WORKER} == set(after)
    assert {name for name, number in cluster.servers().items() if servers[name] != number} == {FIRST}
    for name in (*CONTROL_PLANES[1:], WORKER):
        assert after[name]["metadata"]["uid"] == nodes[name]["metadata"]["uid"]
    assert transition(after[WORKER]) == transition(nodes[WORKER]), "the worker was Ready all the time"
    assert {cluster.authority(name) for name in CONTROL_PLANES} == {authority}
    assert all(cluster.members(name) == set(CONTROL_PLANES) for name in CONTROL_PLANES)
    assert ", 0 changes" in cluster.run("deploy", "--yes")
    cluster.run("verify")


def test_the_playbook_changes_nothing(deployed: dict[str, Any], cluster: Cluster) -> None:
    command = [Q8S_RUN.with_name("ansible-playbook"), "playbooks/site.yml", "-e", f"q8s_cluster_file={cluster.file}"]
    done = subprocess.run(
        command, env=cluster.environment, cwd=clusters.DEMO.parents[1], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    changed = re.findall(r"^(\S+) .*changed=(\d+)", done.stdout, re.MULTILINE)
    assert {*CONTROL_PLANES, "localhost"} <= {host for host, _ in changed}
    assert {number for _, number in changed} == {"0"}


def test_a_control_plane_is_replaced_by_deleting_its_server(deployed: dict[str, Any], cluster: Cluster) -> None:
    """The command ``replace`` is for workers, and says what to do."""
    output = " ".join(cluster.run("replace", CONTROL_PLANES[2], "--yes", code=2).split())
    assert f"{CONTROL_PLANES[2]} is not a worker" in output
    assert f"openstack server delete {CONTROL_PLANES[2]}" in output


def test_a_deleted_additional_control_plane_is_joined_again(deployed: dict[str, Any], cluster: Cluster) -> None:
    cluster.delete(CONTROL_PLANES[2])
    cluster.run("deploy", "--yes")
    assert not cluster.means_to_join()
    assert ready(cluster.nodes(FIRST)) == {*CONTROL_PLANES, WORKER}
    assert all(cluster.members(name) == set(CONTROL_PLANES) for name in CONTROL_PLANES)


def test_certificates_are_renewed_one_control_plane_after_another(deployed: dict[str, Any], cluster: Cluster) -> None:
    before = {name: cluster.serial(name) for name in CONTROL_PLANES}
    since = transition(cluster.nodes()[WORKER])
    with cluster.watched() as answers:
        cluster.run("renew")
        end = time.time()
        time.sleep(5)
    print(f"certificates renewed: the API was away for {gap(answers):.1f} s")
    assert answers[-1] > end, "the watch lasted until the end"
    assert gap(answers) <= 5, "while one restarts, the others answer"
    assert all(cluster.serial(name) != serial for name, serial in before.items())
    cluster.wait_until_ready({*CONTROL_PLANES, WORKER}, FIRST)
    assert transition(cluster.nodes()[WORKER]) == since, "the worker was Ready all the time"
    assert all(cluster.members(name) == set(CONTROL_PLANES) for name in CONTROL_PLANES)
    assert ", 0 changes" in cluster.run("deploy", "--yes")


def test_a_deploy_renews_certificates_that_have_ended_everywhere(deployed: dict[str, Any], cluster: Cluster) -> None:
    """Until most of the three have new ones, etcd has no quorum, and no API server is ready."""
    for name in CONTROL_PLANES:
        cluster.run("ssh", name, "--", f"sudo sh -c {shlex.quote(END_CERTIFICATES)}")
    rows = cluster.rows()
    assert all("have ended" in rows[name]["problem"] and "renew" in rows[name]["hint"] for name in CONTROL_PLANES)
    assert all("kubelet-client" in rows[name]["problem"] for name in CONTROL_PLANES)
    assert "They would be renewed" in " ".join(cluster.run("deploy", "--check", code=1).split())
    cluster.run("deploy", "--yes")
    cluster.wait_until_ready({*CONTROL_PLANES, WORKER}, FIRST)
    assert all(cluster.members(name) == set(CONTROL_PLANES) for name in CONTROL_PLANES)
    assert ", 0 changes" in cluster.run("deploy", "--yes")
    cluster.run("verify")


@pytest.mark.parametrize("how", ["deleted", "off"])
def test_nothing_is_left_of_a_lost_control_plane_that_the_file_no_longer_asks_for(
    how: str, deployed: dict[str, Any], cluster: Cluster
) -> None:
    lost, left = CONTROL_PLANES[2], CONTROL_PLANES[:2]
    cluster.power_off(lost)
    cluster.stop(lost)
    if how == "deleted":
        cluster.delete(lost)
    cluster.ask_for(1)
    cluster.wait_until_noticed(lost, CONTROL_PLANES[1])
    assert "deploy" in cluster.rows()[lost]["hint"]
    cluster.run("deploy", "--yes")
    after = cluster.nodes()
    assert set(after) == ready(after) == {*left, WORKER}
    assert all(cluster.members(name) == set(left) for name in left)
    assert lost not in cluster.servers()
    assert ", 0 changes" in cluster.run("deploy", "--yes")
    cluster.ask_for(2)
    cluster.run("deploy", "--yes")
    assert all(cluster.members(name) == set(CONTROL_PLANES) for name in CONTROL_PLANES)


def test_one_leaves_although_another_was_deleted(deployed: dict[str, Any], cluster: Cluster) -> None:
    """etcd's majority needs the one that leaves, until the dead member is forgotten."""
    lost, leaves, left = CONTROL_PLANES[1], CONTROL_PLANES[2], CONTROL_PLANES[:2]
    uid = cluster.nodes(FIRST)[WORKER]["metadata"]["uid"]
    cluster.power_off(lost)
    cluster.delete(lost)
    cluster.ask_for(1)
    cluster.wait_until_noticed(lost, FIRST)
    cluster.run("deploy", "--yes")
    after = cluster.nodes(FIRST)
    assert set(after) == ready(after) == {*left, WORKER} and after[WORKER]["metadata"]["uid"] == uid
    assert all(cluster.members(name) == set(left) for name in left)
    assert leaves not in cluster.servers()
    assert ", 0 changes" in cluster.run("deploy", "--yes")
    cluster.ask_for(2)
    cluster.run("deploy", "--yes")


def test_one_that_etcd_needs_stays_until_the_other_is_back(deployed: dict[str, Any], cluster: Cluster) -> None:
    off, needed, left = CONTROL_PLANES[1], CONTROL_PLANES[2], CONTROL_PLANES[:2]
    cluster.power_off(off)
    cluster.stop(off)
    cluster.ask_for(1)
    said = " ".join(cluster.run("deploy", "--yes", code=1).split())
    assert f"{needed} was not removed, and its server stays" in said and "etcd removes no member now" in said
    assert needed in cluster.servers()
    assert cluster.members(needed) == set(CONTROL_PLANES), "it was neither reset nor stopped"
    assert ready(cluster.nodes(FIRST)) == {*CONTROL_PLANES, WORKER}, "the deploy has started the other one"
    cluster.run("deploy", "--yes")
    assert all(cluster.members(name) == set(left) for name in left)
    assert needed not in cluster.servers()
    cluster.ask_for(2)
    cluster.run("deploy", "--yes")


def test_fewer_control_planes(deployed: dict[str, Any], cluster: Cluster) -> None:
    """Last, since two are left: the member of etcd goes before the server, so that etcd always has its quorum."""
    since = transition(cluster.nodes()[WORKER])
    servers = cluster.servers()
    cluster.ask_for(1)
    with cluster.watched() as answers:
        cluster.run("deploy", "--yes")
        end = time.time()
        time.sleep(5)
    print(f"one control plane less: the API was away for {gap(answers):.1f} s")
    assert answers[-1] > end, "the watch lasted until the end"
    assert gap(answers) <= 5
    left = CONTROL_PLANES[:2]
    after = cluster.nodes()
    assert set(after) == ready(after) == {*left, WORKER}
    assert transition(after[WORKER]) == since, "the worker was Ready all the time"
    assert all(cluster.members(name) == set(left) for name in left)
    assert cluster.servers() == {name: number for name, number in servers.items() if name != CONTROL_PLANES[2]}
    assert ", 0 changes" in cluster.run("deploy", "--yes")
