"""The node status table: each possible problem of a node with its row and hint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.node_status import FilterModule
from ansible_collections.q8s.emu.plugins.module_utils import _spec

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml")).to_mapping()
CONTROL_PLANE, HOST, WORKER = "demo-control-plane", "demo-arm-mid-1", "arm-mid-1"
UNREACHABLE = {"unreachable": True, "msg": "Failed to connect to the host via ssh:\nConnection timed out"}


def node(name: str, ready: str = "True", **spec: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "message": "Kubelet stopped posting node status."}
    machine = {"architecture": "arm64", "kubeletVersion": "v1.36.3"}
    status = {"conditions": [{"type": "DiskPressure", "status": "False"}, condition], "nodeInfo": machine}
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def answer(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"rc": 0, "stdout": json.dumps({"items": list(nodes)}), "stderr": ""}


def server(**more: Any) -> dict[str, Any]:
    return {"q8s_server_id": "1", "q8s_status": "ACTIVE", "q8s_private_ip": "10.254.1.3", **more}


NODES = [node(CONTROL_PLANE), node("x86-small-1"), node(WORKER)]
RUNNING = {"rc": 0, "stdout": "running\n\n"}
WELL = {
    CONTROL_PLANE: server(q8s_kubernetes=answer(*NODES)),
    "demo-x86-small-1": server(q8s_domain=RUNNING),
    "x86-small-1": {"q8s_host": "demo-x86-small-1"},
    HOST: server(q8s_domain=RUNNING),
    WORKER: {"q8s_host": HOST},
}


def table(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    rows = FilterModule().filters()["node_status"](hosts, CLUSTER)
    return {row["node"]: row for row in rows}


def test_all_is_well() -> None:
    rows = table(WELL)
    assert list(rows) == [CONTROL_PLANE, "x86-small-1", WORKER]
    assert rows[WORKER] == {
        "node": WORKER,
        "host": HOST,
        "architecture": "aarch64",
        "address": "10.254.1.3",
        "server": "ACTIVE",
        "guest": "running",
        "kubernetes": "Ready",
        "version": "v1.36.3",
        "problem": "",
        "hint": "",
    }
    assert rows[CONTROL_PLANE]["guest"] == "" and {row["problem"] for row in rows.values()} == {""}


def test_a_control_plane_in_error_is_brought_back_before_it_is_replaced() -> None:
    """Nova says ERROR of servers that run, too, and etcd may need this one."""
    two = {**CLUSTER, "cluster_definition": {**CLUSTER["cluster_definition"], "number_additional_master_nodes": 1}}
    second = f"{CONTROL_PLANE}-2"
    rows = FilterModule().filters()["node_status"]({**WELL, second: server(q8s_status="ERROR")}, two)
    (hint,) = [row["hint"] for row in rows if row["node"] == second]
    assert hint.startswith(f"openstack server reboot --hard {second}; if that fails") and "--yes" not in hint


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in WELL.items() if key != name}


def with_nodes(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {**WELL, CONTROL_PLANE: server(q8s_kubernetes=answer(*nodes))}


@pytest.mark.parametrize(
    ("hosts", "columns", "problem", "hint"),
    [
        (
            without(HOST),
            ("absent", "unknown", "Ready"),
            "has no server demo-arm-mid-1",
            "create the server: q8s-run deploy FILE",
        ),
        (
            {**WELL, HOST: server(q8s_status="ERROR", q8s_fault="No valid host was found")},
            ("ERROR", "unknown", "Ready"),
            "is in ERROR: No valid host was found",
            "--yes",
        ),
        (
            {**WELL, HOST: server(q8s_status="SHUTOFF")},
            ("SHUTOFF", "unknown", "Ready"),
            "switched off",
            "start the server",
        ),
        (
            {**WELL, HOST: server(q8s_status="PAUSED")},
            ("PAUSED", "unknown", "Ready"),
            "is PAUSED",
            "openstack server unpause demo-arm-mid-1",
        ),
        (
            {**WELL, HOST: server(q8s_domain=UNREACHABLE)},
            ("ACTIVE", "unknown", "Ready"),
            "does not answer ssh: Connection timed out",
            "console log",
        ),
        (
            {**WELL, HOST: server(q8s_domain={"rc": 1, "stdout": "", "stderr": "error: failed to get domain"})},
            ("ACTIVE", "absent", "Ready"),
            "has no guest",
            "create the guest: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            {**WELL, HOST: server(q8s_domain={"rc": 0, "stdout": "shut off\n"})},
            ("ACTIVE", "shut off", "Ready"),
            "the guest arm-mid-1 is shut off",
            "start the guest",
        ),
        (with_nodes(*NODES[:2]), ("ACTIVE", "running", "absent"), "has not joined", "q8s-run logs FILE arm-mid-1"),
        (
            with_nodes(*NODES[:2], node(WORKER, "Unknown")),
            ("ACTIVE", "running", "Unknown"),
            "Kubelet stopped posting",
            "q8s-run deploy FILE --limit arm-mid-1",  # replace would end a guest that may be sound
        ),
        (with_nodes(*NODES[:2], node(WORKER, "False")), ("ACTIVE", "running", "NotReady"), "NotReady", "q8s-run logs"),
        (
            with_nodes(*NODES[:2], node(WORKER, unschedulable=True)),
            ("ACTIVE", "running", "Ready"),
            "cordoned",
            "kubectl uncordon arm-mid-1",
        ),
        (
            without(CONTROL_PLANE),
            ("ACTIVE", "running", "unknown"),
            "there is no control plane",
            "fix the control plane first",
        ),
        (
            {**WELL, CONTROL_PLANE: server(q8s_kubernetes=UNREACHABLE)},
            ("ACTIVE", "running", "unknown"),
            "no control plane can be reached",
            "",
        ),
        (
            {**WELL, CONTROL_PLANE: server(q8s_kubernetes={"rc": 1, "stdout": "", "stderr": "connection refused"})},
            ("ACTIVE", "running", "unknown"),
            "the API server does not answer (connection refused)",
            "",
        ),
        (
            {**WELL, CONTROL_PLANE: server(q8s_kubernetes={"rc": 127, "stdout": "", "stderr": "not found"})},
            ("ACTIVE", "running", "unknown"),
            "the control plane has no Kubernetes yet",
            "",
        ),
    ],
)
def test_what_is_wrong_and_what_to_do(
    hosts: Mapping[str, Any], columns: tuple[str, str, str], problem: str, hint: str
) -> None:
    row = table(hosts)[WORKER]
    assert (row["server"], row["guest"], row["kubernetes"]) == columns
    assert problem in row["problem"] and hint in row["hint"]


def test_a_control_plane_that_does_not_answer_is_told_on_its_own_row() -> None:
    row = table({**WELL, CONTROL_PLANE: server(q8s_kubernetes=UNREACHABLE)})[CONTROL_PLANE]
    assert row["problem"].startswith("the host demo-control-plane does not answer ssh")
    row = table({**WELL, CONTROL_PLANE: server(q8s_kubernetes={"rc": 1, "stderr": "refused"})})[CONTROL_PLANE]
    assert "does not answer (refused)" in row["problem"] and "q8s-run logs" in row["hint"]


def test_certificates_that_have_ended_are_why_an_api_server_does_not_answer() -> None:
    ended = {"ended": "certificates of demo-control-plane have ended, the first on 2026-11-25, and are refused: admin"}
    refused = server(q8s_kubernetes={"rc": 1, "stderr": "x509"}, control_plane_certificates=ended)
    row = table({**WELL, CONTROL_PLANE: refused})[CONTROL_PLANE]
    assert (row["problem"], row["hint"]) == (ended["ended"], "q8s-run renew FILE")


def test_any_control_plane_may_answer() -> None:
    silent = server(q8s_kubernetes=UNREACHABLE)
    rows = table({"other": silent, **WELL})
    assert rows[WORKER]["problem"] == ""


def test_what_the_file_does_not_ask_for() -> None:
    hosts = {**with_nodes(*NODES, node("gone-1")), "demo-arm-mid-2": server(q8s_status="ACTIVE")}
    rows = table(hosts)
    assert "does not ask for the server demo-arm-mid-2" in rows["demo-arm-mid-2"]["problem"]
    assert "node gone-1 that the cluster file does not ask for" in rows["gone-1"]["problem"]
    assert rows["gone-1"]["hint"] == "q8s-run ssh FILE demo-control-plane -- sudo kubectl delete node gone-1"


@pytest.mark.parametrize(
    ("status", "command"),
    [
        ("Unknown", "q8s-run deploy FILE"),
        ("True", "q8s-run ssh FILE demo-control-plane -- sudo kubectl delete node {}"),
    ],
)
def test_deploy_removes_a_control_plane_that_is_gone_and_no_other_node(status: str, command: str) -> None:
    """Its member of etcd would be left if only its node was deleted."""
    name = f"{CONTROL_PLANE}-4"
    assert table(with_nodes(*NODES, node(name, status)))[name]["hint"] == command.format(name)


def test_a_command_of_kubectl_runs_where_an_api_server_answers() -> None:
    """The initial control plane is down. The root of another one has no kubeconfig of its own."""
    second = f"{CONTROL_PLANE}-2"
    hosts = {
        **with_nodes(),
        CONTROL_PLANE: server(q8s_kubernetes=UNREACHABLE),
        second: server(q8s_kubernetes=answer(*NODES, node("gone-1"))),
    }
    hint = table(hosts)["gone-1"]["hint"]
    assert (
        hint == f"q8s-run ssh FILE {second} -- sudo kubectl --kubeconfig=/etc/kubernetes/admin.conf delete node gone-1"
    )


def test_a_surplus_server_and_its_node_are_one_row() -> None:
    """The node must not be deleted by hand while its server runs: its kubelet would register it again."""
    surplus = server(q8s_surplus={"name": "arm-mid-2", "control_plane_host": ""})
    rows = FilterModule().filters()["node_status"](
        {**with_nodes(*NODES, node("arm-mid-2")), "demo-arm-mid-2": surplus}, CLUSTER
    )
    (row,) = [row for row in rows if "arm-mid-2" in (row["node"] + row["host"])]
    assert (row["node"], row["server"], row["kubernetes"]) == ("arm-mid-2", "ACTIVE", "Ready")
    assert row["hint"].endswith(": q8s-run deploy FILE --yes")


def unreachable(message: str, **more: Any) -> dict[str, Any]:
    return {**WELL, HOST: server(q8s_domain={"unreachable": True, "msg": message}, ansible_user="q8s", **more)}


def jump_failed(reason: str, destination: str = "me@gate:2022") -> str:
    return (
        f"Task failed: Failed to connect to the host via ssh: Received disconnect from UNKNOWN port 65535:11: "
        f"q8s jump host {destination}: {reason}\r\nDisconnected from UNKNOWN port 65535"
    )


def behind(reason: str) -> dict[str, Any]:
    return unreachable(jump_failed(reason))


@pytest.mark.parametrize(
    ("hosts", "problem", "hint"),
    [
        (
            unreachable("q8s@10.254.1.3: Permission denied (publickey).", ansible_ssh_private_key_file="/home/me/key"),
            "refuses the login of q8s",
            "restore the key /home/me/key",
        ),
        (unreachable("Too many authentication failures"), "refuses the login", "restore the key"),
        (unreachable("Host key verification failed."), "does not have the host key", "q8s-run replace FILE arm-mid-1"),
        (
            unreachable("Host key verification failed.", q8s_foreign=True, q8s_state_dir="/state/demo"),
            "does not have the host key",
            "ssh-keygen -R 10.254.1.3 -f /state/demo/known_hosts",
        ),
        (unreachable("No route to host"), "does not answer ssh: No route", "openstack server reboot demo-arm-mid-1"),
        # What Ansible says when the way fails, and not the host.
        (
            behind("me@gate: Permission denied (publickey)."),
            "the way to demo-arm-mid-1 through me@gate:2022 fails: me@gate: Permission denied (publickey).",
            "add your key for it to the agent (ssh-add), until this works without a question: ssh -p 2022 me@gate true",
        ),
        (
            behind(
                "Host key for gate has changed and you have requested strict checking. | Host key verification failed."
            ),
            "the way to demo-arm-mid-1 through me@gate:2022 fails: Host key for gate has changed",
            "check its new host key; if it is right: ssh-keygen -R '[gate]:2022', then ssh -p 2022 me@gate true",
        ),
        (
            behind("ssh: connect to host gate port 2022: Connection timed out"),
            "the way to demo-arm-mid-1 through me@gate:2022 fails: ssh: connect to host gate port 2022: Connection",
            "check that it runs, and that this machine reaches it: ssh -p 2022 me@gate true",
        ),
        (
            unreachable("Connection closed by UNKNOWN port 65535"),
            "does not answer ssh: no connection to it from the jump host",
            "openstack server reboot demo-arm-mid-1",
        ),
        (
            {**WELL, HOST: server(q8s_domain={"rc": 1, "stdout": "", "stderr": "sudo: a password is required"})},
            "may not use sudo",
            "q8s-run replace FILE arm-mid-1",
        ),
    ],
)
def test_a_host_that_cannot_be_asked_has_a_hint_of_its_cause(hosts: Any, problem: str, hint: str) -> None:
    row = table(hosts)[WORKER]
    assert problem in row["problem"] and hint in row["hint"]
    refused = "refuses" in problem
    assert ("reboot" in row["hint"]) == ("does not answer" in problem), "a reboot cures no refused login"
    assert not refused or "console log" not in row["hint"]
    assert not problem.startswith("the way") or "replace" not in row["hint"]


FLOATING = {**CLUSTER, "access": {"type": "floating_ip", "floating_network": "public"}}
ADDRESS = "203.0.113.5"
TIMED_OUT = "Connection timed out during banner exchange\r\nConnection to UNKNOWN port 65535 timed out"
DIRECTLY = f"ssh: connect to host {ADDRESS} port 22: Connection timed out"


@pytest.mark.parametrize(
    ("gateway", "message", "reason", "hint"),
    [
        (
            {"q8s_status": "SHUTOFF", "q8s_kubernetes": {"unreachable": True, "msg": DIRECTLY}},
            jump_failed(DIRECTLY, f"q8s@{ADDRESS}"),
            f"through q8s@{ADDRESS} fails: {DIRECTLY}",
            f"fix {CONTROL_PLANE} first: start the server: q8s-run deploy FILE",
        ),
        # The shared connection has not noticed yet.
        (
            {"q8s_status": "SHUTOFF", "q8s_kubernetes": {"unreachable": True, "msg": DIRECTLY}},
            TIMED_OUT,
            f"through {CONTROL_PLANE} fails: the server {CONTROL_PLANE} is switched off",
            f"fix {CONTROL_PLANE} first: start the server: q8s-run deploy FILE",
        ),
        (
            {
                "q8s_kubernetes": {"unreachable": True, "msg": "Permission denied"},
                "ansible_ssh_private_key_file": "/key",
            },
            jump_failed(f"q8s@{ADDRESS}: Permission denied (publickey).", f"q8s@{ADDRESS}"),
            f"through q8s@{ADDRESS} fails: q8s@{ADDRESS}: Permission denied (publickey).",
            f"fix {CONTROL_PLANE} first: restore the key /key that the cluster was deployed with",
        ),
        (
            {"q8s_kubernetes": answer(*NODES)},
            jump_failed("ssh ended with 255", f"q8s@{ADDRESS}"),
            f"through q8s@{ADDRESS} fails: ssh ended with 255",
            "try again: q8s-run status FILE",
        ),
    ],
)
def test_servers_behind_a_control_plane_have_its_hint(
    gateway: dict[str, Any], message: str, reason: str, hint: str
) -> None:
    arguments = {"ansible_ssh_common_args": "-F none -o 'ProxyCommand=jump'"}
    silent = {"unreachable": True, "msg": message}
    worker = server(q8s_domain=silent, **arguments)
    hosts = {CONTROL_PLANE: server(**gateway), "demo-x86-small-1": worker, HOST: worker}
    rows = FilterModule().filters()["node_status"](hosts, FLOATING)
    for row in rows[1:]:
        assert row["problem"] == f"the way to {row['host']} {reason}" and row["hint"] == hint
    assert rows[0]["problem"] == "" or "the way to" not in rows[0]["problem"]


def test_of_servers_behind_a_control_plane_that_answers_one_may_be_lost() -> None:
    arguments = {"ansible_ssh_common_args": "-F none -o 'ProxyCommand=jump'"}
    lost = server(q8s_domain={"unreachable": True, "msg": TIMED_OUT}, **arguments)
    rows = FilterModule().filters()["node_status"]({**WELL, HOST: lost}, FLOATING)
    row = next(row for row in rows if row["host"] == HOST)
    assert row["problem"] == f"the host {HOST} does not answer ssh: Connection timed out during banner exchange"
    assert row["hint"].startswith(f"openstack server reboot {HOST}")


def on_host(stdout: str, rc: int = 0, stderr: str = "") -> dict[str, Any]:
    return {**WELL, HOST: server(q8s_domain={"rc": rc, "stdout": stdout, "stderr": stderr})}


NO_LIBVIRT = "error: failed to connect to the hypervisor\nerror: Failed to connect socket"


@pytest.mark.parametrize(
    ("hosts", "guest", "problem", "hint"),
    [
        (on_host("now 9\nqemu\n", 1, NO_LIBVIRT), "running", "the guest runs on without it", "start libvirt: "),
        (on_host("now 9\n", 1, NO_LIBVIRT), "unknown", "libvirt on the host", "q8s-run deploy FILE --limit arm-mid-1"),
        (on_host("now 9\n", 127, "virsh: not found"), "unknown", "has no libvirt yet", "install it: "),
        (
            on_host("paused (user)\n"),
            "paused",
            "is paused",
            "q8s-run ssh FILE demo-arm-mid-1 -- sudo virsh --connect qemu:///system resume arm-mid-1",
        ),
        (on_host("paused (I/O error)\n"), "paused", "disk failed or is full", "df -h"),
        (on_host("crashed (panicked)\n"), "crashed", "is crashed", "q8s-run deploy FILE --limit arm-mid-1"),
        (on_host("running (booted)\nnow 90\nstarted 60\nqemu\n"), "running", "", ""),
    ],
)
def test_what_a_host_says_of_its_guest(hosts: Any, guest: str, problem: str, hint: str) -> None:
    row = table(hosts)[WORKER]
    assert row["guest"] == guest and problem in row["problem"] and hint in row["hint"]
    assert bool(problem) == bool(row["problem"])
    assert "creates the guest" not in row["hint"], "there is one"


FLUSHED = """rules missing: nat -A PREROUTING -j Q8S_PRE
rules missing: nat -A Q8S_PRE -i virbr0 -j RETURN
unit q8s-guest.service inactive disabled
unit q8s-rules-check.timer active disabled
"""


@pytest.mark.parametrize(
    ("stdout", "problem", "hint"),
    [
        (
            FLUSHED + "running (booted)\n\nnow 900\nstarted 60\nqemu\n",
            "Q8S's rules on the host demo-arm-mid-1 are not in force "
            "(missing: nat -A PREROUTING -j Q8S_PRE and 1 more); "
            "the unit q8s-guest.service on the host demo-arm-mid-1 is inactive and disabled; "
            "the unit q8s-rules-check.timer on the host demo-arm-mid-1 is disabled",
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            "unit gone.service missing missing\nrunning (booted)\n",
            "the unit gone.service on the host demo-arm-mid-1 is missing",
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            FLUSHED.splitlines()[2] + "\npaused (user)\n\nnow 900\nstarted 60\nqemu\n",
            "the guest arm-mid-1 is paused; "
            "the unit q8s-guest.service on the host demo-arm-mid-1 is inactive and disabled",
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            "unit libvirtd.service active disabled\npaused (I/O error)\n",
            "the guest arm-mid-1 is paused, since its host's disk failed or is full; "
            "the unit libvirtd.service on the host demo-arm-mid-1 is disabled",
            "free space (q8s-run ssh FILE demo-arm-mid-1 -- df -h), then "
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            "running (booted)\n\nnow 900\nstarted 60\nqemu\ndefinition is missing\nautostart is off\n",
            "libvirt has no definition of the guest arm-mid-1 any more, and would forget it when it ends",
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            "running (booted)\nautostart is off\n",
            "the guest arm-mid-1 would not start with its host: its autostart is off",
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            "running (booted)\n\nnow 900\nstarted 60\nqemu\nnetwork is cut\n",
            "the guest arm-mid-1 is cut off: "
            "its network interface is not in the network q8s of libvirt on the host demo-arm-mid-1",
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
        (
            "running (booted)\n\nnow 900\nstarted 60\nqemu\nkubelet refuses\n",
            "the kubelet of arm-mid-1 does not run, though its guest does",
            "repair that: q8s-run deploy FILE --limit arm-mid-1",
        ),
    ],
)
def test_what_was_broken_on_a_host_is_named(stdout: str, problem: str, hint: str) -> None:
    row = table(on_host(stdout))[WORKER]
    assert (row["problem"], row["hint"]) == (problem, hint)
    assert row["guest"] in ("running", "paused")


def test_a_host_without_libvirt_has_nothing_of_q8s_yet() -> None:
    text = "rules q8s-rules is not installed\nunit libvirtd.service missing missing\nnow 9\n"
    row = table(on_host(text, 127))[WORKER]
    assert row["problem"] == "the host demo-arm-mid-1 has no libvirt yet"


def test_a_kubelet_of_a_control_plane_that_does_not_run_is_named_though_kubernetes_has_not_noticed() -> None:
    told = answer(*NODES)
    told["stdout"] = "unit kubelet.service inactive enabled\n" + told["stdout"]
    rows = table({**WELL, CONTROL_PLANE: server(q8s_kubernetes=told)})
    assert rows[CONTROL_PLANE]["kubernetes"] == "Ready" and rows[WORKER]["problem"] == ""
    assert (
        rows[CONTROL_PLANE]["problem"] == "the unit kubelet.service on the host demo-control-plane is inactive"
    ) and rows[CONTROL_PLANE]["hint"] == "repair that: q8s-run deploy FILE"
    told = {"rc": 1, "stdout": "unit kubelet.service failed enabled\n", "stderr": "connection refused"}
    row = table({**WELL, CONTROL_PLANE: server(q8s_kubernetes=told)})[CONTROL_PLANE]
    assert row["problem"] == "the unit kubelet.service on the host demo-control-plane is failed"


LONG_AGO, STARTED = "2026-11-26T10:00:00Z", 1795688400  # an hour later
LATER = "2026-11-26T11:00:30.000000Z"


def lease(name: str, renewed: str) -> dict[str, Any]:
    return {"kind": "Lease", "metadata": {"name": name}, "spec": {"renewTime": renewed}}


@pytest.mark.parametrize(
    ("heartbeat", "renewed", "state"),
    [(LONG_AGO, LONG_AGO, "stale"), (LONG_AGO, LATER, "Ready"), (LATER, "", "Ready"), ("", "", "Ready")],
)
def test_ready_from_before_a_reboot_is_stale(heartbeat: str, renewed: str, state: str) -> None:
    """Kubernetes calls a node Ready for 40 s after its machine has ended."""
    worker = node(WORKER)
    worker["status"]["conditions"][1]["lastHeartbeatTime"] = heartbeat
    items = [*NODES[:2], worker, lease(WORKER, renewed)]
    # A guest that boots has no kubelet yet: that is nothing to repair.
    refuses = "kubelet refuses\n" if state == "stale" else ""
    hosts = {
        **on_host(f"running (booted)\nnow {STARTED + 20}\nstarted {STARTED}\n{refuses}"),
        CONTROL_PLANE: server(q8s_kubernetes=answer(*items)),
    }
    row = table(hosts)[WORKER]
    assert row["kubernetes"] == state and bool(row["problem"]) == (state == "stale")
    if state == "stale":
        assert "started 20 s ago" in row["problem"] and "q8s-run status" in row["hint"]


def test_a_pressure_is_shown() -> None:
    worker = node(WORKER)
    worker["status"]["conditions"][0] = {
        "type": "DiskPressure",
        "status": "True",
        "message": "it is full",
    }
    row = table(with_nodes(*NODES[:2], worker))[WORKER]
    assert row["kubernetes"] == "Ready, DiskPressure"
    assert "has DiskPressure: it is full" in row["problem"]
    assert row["hint"] == "q8s-run ssh FILE arm-mid-1 -- df -h"


def test_a_guest_that_runs_for_long_without_its_node_needs_its_kubelet_restarted() -> None:
    """So it is when the node object was deleted: the kubelet registers a node only when it starts."""
    hosts = on_host(f"running (booted)\nnow {STARTED + 900}\nstarted {STARTED}\n")
    row = table({**hosts, CONTROL_PLANE: server(q8s_kubernetes=answer(*NODES[:2]))})[WORKER]
    assert "is not in the cluster" in row["problem"]
    assert row["hint"].startswith("q8s-run ssh FILE arm-mid-1 -- systemctl restart kubelet")


def test_an_api_server_that_fails_says_nothing_of_nodes() -> None:
    """kubectl prints an empty list, too, when it fails."""
    failing = {"rc": 1, "stdout": '{"items": []}', "stderr": "Unable to connect to the server: no route to host"}
    rows = table({**WELL, CONTROL_PLANE: server(q8s_kubernetes=failing)})
    assert {row["kubernetes"] for row in rows.values()} == {"unknown"}
    assert all(row["problem"] for row in rows.values())
    assert "no route to host" in rows[CONTROL_PLANE]["problem"]
    assert "systemctl restart q8s-containerd kubelet" in rows[CONTROL_PLANE]["hint"]
    other = table({"demo-control-plane-2": server(q8s_kubernetes=failing), **WELL})
    assert other[WORKER]["kubernetes"] == "Ready", "another control plane answers"


@pytest.mark.parametrize(
    ("status", "command"), [("RESCUE", "unrescue"), ("VERIFY_RESIZE", "resize confirm"), ("PAUSED", "unpause")]
)
def test_a_server_in_a_state_that_does_not_end_by_itself_has_a_way_out(status: str, command: str) -> None:
    row = table({**WELL, "demo-arm-mid-1": server(q8s_status=status)})["arm-mid-1"]
    assert row["hint"] == f"openstack server {command} demo-arm-mid-1"
