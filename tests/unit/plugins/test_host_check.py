"""The check whether a host can be a control plane: it reports every problem with a hint."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.filter.host_notes import host_notes
from ansible_collections.q8s.emu.plugins.filter.host_problems import host_problems

SURVEY = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/k8s_common/files/survey.sh"
GOOD = """\
root yes
user ubuntu
python 3.12
init systemd
architecture x86_64
cpus 2
memory_mb 3900
disk_free_mb 17000
port 22 sshd
port 53 systemd-resolve
"""
MINE = {"family": "inet", "table": "filter", "name": "mine", "hook": "input", "policy": "drop"}
LOGIN = {
    "name": "mine",
    "status": "ACTIVE",
    "address": "10.0.0.5",
    "prefix": "10.0.0.0/24",
    "user": "ubuntu",
    "key_file": "/state/id_ed25519",
    "public_key": "ssh-ed25519 AAAA q8s",
}


def judge(*more: str, without: str = "", **options: object) -> list[str]:
    lines = [line for line in GOOD.splitlines() if not without or not line.startswith(without)]
    return host_problems({"stdout": "\n".join([*lines, *more])}, **options)  # type: ignore[arg-type]


def test_a_stock_server_has_no_problem() -> None:
    assert judge() == []
    assert judge(login=LOGIN, api_name="demo-api", artifact_port=8099) == []
    assert host_notes({"stdout": GOOD}) == []


@pytest.mark.parametrize(
    ("line", "without", "words"),
    [
        ("python", "python", ["no Python 3", "apt-get install python3"]),
        ("python 3.8", "python", ["Python 3.8", "3.9 or later"]),
        ("init runit", "init", ["runit", "systemd"]),
        ("architecture aarch64", "architecture", ["aarch64", "x86_64"]),
        ("cpus 1", "cpus", ["1 vCPUs", "needs 2"]),
        ("memory_mb 990", "memory_mb", ["990 MB", "1700"]),
        ("disk_free_mb 900", "disk_free_mb", ["900 MB free in /var/lib", "2000"]),
        ("root no", "root", ["ubuntu needs a password for sudo", "NOPASSWD", "/etc/sudoers.d"]),
        ("unit docker", "", ["docker", "apt-get purge docker.io"]),
        ("unit k3s", "", ["Kubernetes is installed (k3s)"]),
        ("package kubelet", "", ["the package kubelet", "apt-get purge kubeadm kubelet"]),
        ("kubernetes /etc/kubernetes/admin.conf", "", ["/etc/kubernetes/admin.conf", "kubeadm reset"]),
        ("cni /etc/cni/net.d/87-podman.conflist", "", ["87-podman.conflist"]),
        ("unit ufw", "", ["ufw is active", "sudo ufw disable"]),
        ("unit firewalld", "", ["firewalld", "systemctl disable --now firewalld"]),
        ("iptables -P INPUT DROP", "", ["incoming traffic", "sudo iptables -P INPUT ACCEPT, and"]),
        (
            "iptables -A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            "",
            ["the traffic of pods", "sudo iptables -D FORWARD -j REJECT --reject-with icmp-host-prohibited, and"],
        ),
        (
            f"nftables {json.dumps({'nftables': [{'chain': MINE}]})}",
            "",
            [
                "incoming traffic (the chain mine of nftables table inet filter)",
                "sudo nft delete table inet filter, and",
            ],
        ),
        ("port 6443 haproxy", "", ["6443 (by haproxy, for the API server)"]),
        ("port 8099", "", ["8099 (for the artifact server)"]),
    ],
)
def test_a_problem_comes_with_its_cure(line: str, without: str, words: list[str]) -> None:
    (problem,) = judge(line, without=without, artifact_port=8099)
    for word in words:
        assert word in problem


def test_all_problems_are_told_together() -> None:
    assert len(judge("unit docker", "unit containerd", "unit ufw", "port 2379 etcd", "package kubeadm")) == 4


def test_a_host_that_is_in_this_cluster_keeps_its_ports_and_files() -> None:
    ours = ("q8s yes", "api_name demo-api", "kubernetes /etc/kubernetes/admin.conf", "port 6443 kube-apiserver")
    assert judge(*ours, api_name="demo-api") == []
    (problem,) = judge(*ours, api_name="other-api")
    assert "another Q8S cluster" in problem
    assert "demo-api" in problem
    # a firewall that was switched on later stops it from working
    assert len(judge(*ours, "unit ufw", api_name="demo-api")) == 1


def test_a_deploy_that_was_interrupted_early_is_continued() -> None:
    begun = ("q8s yes", "kubernetes /etc/kubernetes/pki/ca.crt", "port 8099 python3")
    assert judge(*begun, api_name="demo-api", artifact_port=8099) == []
    assert len(judge(*begun, "unit containerd", api_name="demo-api", artifact_port=8099)) == 1


def test_swap_is_no_problem_but_is_told() -> None:
    assert judge("swap /dev/zram0", "swap /swapfile") == []
    (note,) = host_notes({"stdout": GOOD + "swap /dev/zram0\nswap /swapfile\n"})
    assert "/dev/zram0, /swapfile" in note


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "Failed to connect to the host via ssh: ubuntu@10.0.0.5: Permission denied (publickey).",
            ["refused with the key /state/id_ed25519", "ssh-ed25519 AAAA q8s", "~ubuntu/.ssh/authorized_keys"],
        ),
        ("ssh: connect to host 10.0.0.5 port 22: Connection timed out", ["port 22 does not answer", "security groups"]),
        ("ssh: connect to host 10.0.0.5 port 22: Connection refused", ["port 22 does not answer"]),
        ("Host key verification failed.", ["another ssh host key", "known_hosts"]),
        (
            "Received disconnect from UNKNOWN port 65535:11: q8s jump host me@gate: "
            "me@gate: Permission denied (publickey).\r\nDisconnected from UNKNOWN port 65535",
            [
                "the way to 10.0.0.5 through me@gate fails: me@gate: Permission denied (publickey): add",
                "ssh me@gate true",
            ],
        ),
        ("kex_exchange_identification: read", ["ssh to ubuntu@10.0.0.5 fails: kex_exchange_identification"]),
    ],
)
def test_a_login_that_fails_is_explained(message: str, words: list[str]) -> None:
    (problem,) = host_problems({"unreachable": True, "msg": message}, login=LOGIN)
    for word in words:
        assert word in problem
    assert "jump host" not in message or "authorized_keys" not in problem, "the server itself was not asked"


def test_a_server_that_answers_with_a_sentence_only() -> None:
    said = 'Please login as the user "ubuntu" rather than the user "root".'
    (problem,) = host_problems({"stdout": said, "rc": 142}, login={**LOGIN, "user": "root"})
    assert said in problem
    assert "initial_instance_user" in problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "SHUTOFF"}, ["SHUTOFF", "openstack server start mine"]),
        ({"status": "BUILD"}, ["BUILD", "wait"]),
        ({"status": "ERROR"}, ["ERROR", "openstack server show mine"]),
        ({"address": ""}, ["no address in remote_ip_prefix 10.0.0.0/24"]),
    ],
)
def test_a_server_that_cannot_be_logged_in_to(change: dict[str, str], words: list[str]) -> None:
    (problem,) = host_problems({}, login={**LOGIN, **change})
    for word in words:
        assert word in problem


def test_the_script_runs_on_this_machine_and_says_what_is_judged() -> None:
    done = subprocess.run(["sh", SURVEY], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    keys = {line.split(" ", 1)[0] for line in done.stdout.splitlines()}
    assert {"root", "user", "python", "init", "architecture", "cpus", "memory_mb", "disk_free_mb"} <= keys


# As the real ones answer for a unit that is active, one that is only enabled, and a package that was installed once.
SYSTEMCTL = """\
#!/bin/sh
case "$1 $3" in
"is-active docker.service" | "is-enabled k3s.service" | "is-enabled firewalld.service") exit 0 ;;
*) exit 3 ;;
esac
"""
DPKG_QUERY = """\
#!/bin/sh
for package do :; done
case $package in
kubelet) printf installed ;;
kubeadm) printf config-files ;;
*) exit 1 ;;
esac
"""
SWAPS = "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0\tpartition\t2048\t0\t100\n/swapfile\tfile\t4096\t0\t-2\n"


def test_the_script_finds_what_others_have_installed(tmp_path: Path) -> None:
    """On a host where somebody has used Kubernetes, Docker, podman, ufw and swap before."""
    files = {
        "proc/swaps": SWAPS,
        "etc/ufw/ufw.conf": "# set by ufw\nENABLED=yes\nLOGLEVEL=low\n",
        "etc/kubernetes/kubelet.conf": "",
        "etc/cni/net.d/87-podman.conflist": "",
        "etc/cni/net.d/10-flannel.conflist": "",
        "bin/systemctl": SYSTEMCTL,
        "bin/dpkg-query": DPKG_QUERY,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "var/lib/etcd/member").mkdir(parents=True)
    script = SURVEY.read_text().replace("/proc/swaps", f"{tmp_path}/proc/swaps")
    script = re.sub(r"/(etc|var/lib/etcd)/", rf"{tmp_path}/\1/", script)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    kinds = ("swap", "unit", "package", "kubernetes", "cni")
    found = [line.replace(str(tmp_path), "") for line in done.stdout.splitlines() if line.split(" ")[0] in kinds]
    assert found == [
        "swap /dev/zram0",
        "swap /swapfile",
        "unit docker",
        "unit k3s",
        "unit firewalld",
        "unit ufw",
        "package kubelet",
        "kubernetes /etc/kubernetes/kubelet.conf",
        "kubernetes /var/lib/etcd/member",
        "cni /etc/cni/net.d/87-podman.conflist",
    ]
    assert len(judge(*found)) == 5, "Kubernetes, the container runtime, the pod network, and two firewalls"
