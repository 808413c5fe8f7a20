"""What a deploy has made, from the output of hosts, guests and the API server."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._deploy_facts import deploy_facts

JOURNAL = """\
1795806630.125000000
42.50 61.07
1795806595.312345 x86-small-1 systemd[1]: Started q8s-containerd.service - containerd.
1795806597.912345 x86-small-1 systemd[1]: Started kubelet.service - kubelet.
1795806620.000000 x86-small-1 systemd[1]: Started kubelet.service - kubelet.
"""


HOST = {
    "q8s_host_versions": {
        "stdout": "system Debian GNU/Linux 13 (trixie)\r\nkernel 6.12.48\ncpu Intel Xeon Processor\n"
        "ii  qemu-system-arm 1:10.0.8+ds-0\nrc  qemu-utils \nun  libvirt-daemon-driver-xen \n"
    }
}


def objects() -> list[dict[str, Any]]:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-27T19:10:10Z"}
    pod = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-27T19:10:12Z"},
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-27T19:10:10Z"},
    ]
    node_info = {"machineID": "5f", "systemUUID": "6e", "bootID": "7d", "kubeletVersion": "v1.36.3"}
    return [
        {
            "kind": "Node",
            "metadata": {"name": "x86-small-1", "creationTimestamp": "2026-11-27T19:10:00Z"},
            "spec": {},
            "status": {"conditions": [ready], "nodeInfo": node_info},
        },
        {
            "kind": "Pod",
            "metadata": {"namespace": "default", "name": "web", "creationTimestamp": "2026-11-27T19:10:00Z"},
            "spec": {"nodeName": "x86-small-1", "containers": [{"env": [{"name": "PASSWORD", "value": "hunter2"}]}]},
            "status": {"phase": "Pending", "conditions": pod},
        },
        {"kind": "Event", "involvedObject": {"kind": "Node", "name": "x86-small-1"}, "reason": "NodeReady"},
        {"kind": "Event", "involvedObject": {"kind": "Service", "name": "web"}, "reason": "Other"},
    ]


def hosts(**guest: Any) -> dict[str, dict[str, Any]]:
    manifest = json.dumps({"kubernetes_version": "1.36.3"}, indent=1)
    return {
        "demo-control-plane": {
            "q8s_objects": {"stdout": json.dumps({"items": objects()})},
            "q8s_installed": {
                "stdout": f"{manifest}\n---\n{'a' * 64}  /var/lib/q8s-artifacts/bundle.qcow2\nfind: oops\n"
            },
        },
        "demo-x86-small-1": {
            "q8s_power_on": {"stdout": "1795806580.123456789\r\n"},
            "q8s_objects": {"skipped": True},
            **HOST,
        },
        "x86-small-1": {"q8s_host": "demo-x86-small-1", "q8s_journal": {"stdout": JOURNAL}, **guest},
    }


def test_the_milestones_of_a_guest() -> None:
    [guest] = deploy_facts(hosts())["guests"]
    assert guest == {
        "node": "x86-small-1",
        "host": "demo-x86-small-1",
        "power_on": 1795806580.123456789,
        "kernel": 1795806587.625,
        "containerd": 1795806595.312345,
        "kubelet": 1795806597.912345,
        "registered": 1795806600.0,
        "ready": 1795806610.0,
    }


def test_a_guest_that_did_not_answer_has_what_others_know_of_it() -> None:
    [guest] = deploy_facts(hosts(q8s_journal={"unreachable": True}))["guests"]
    assert (guest["kernel"], guest["containerd"], guest["kubelet"]) == (None, None, None)
    assert (guest["power_on"], guest["ready"]) == (1795806580.123456789, 1795806610.0)


def test_pods_have_their_place_and_latencies_and_nothing_of_their_specification() -> None:
    facts = deploy_facts(hosts())
    [pod] = facts["pods"]
    assert (pod["nodeName"], pod["schedulingLatency"]) == ("x86-small-1", 12000)
    assert "podReadyLatency" not in pod
    assert "hunter2" not in json.dumps(facts)
    assert [event["reason"] for event in facts["events"]] == ["NodeReady"]
    assert facts["nodes"][0]["info"] == {"kubeletVersion": "v1.36.3"}
    assert facts["installed"] == {
        "manifest": {"kubernetes_version": "1.36.3"},
        "artifacts": [{"name": "bundle.qcow2", "sha256": "a" * 64}],
    }


def test_a_cluster_that_does_not_answer_has_no_facts() -> None:
    empty: dict[str, Any] = {"guests": [], "nodes": [], "pods": [], "events": [], "installed": {}, "hosts": []}
    assert (
        deploy_facts({"demo-control-plane": {"q8s_objects": {"stdout": ""}, "q8s_installed": {"stdout": ""}}}) == empty
    )


def test_the_versions_of_a_host() -> None:
    assert deploy_facts(hosts())["hosts"] == [
        {
            "name": "demo-x86-small-1",
            "system": "Debian GNU/Linux 13 (trixie)",
            "kernel": "6.12.48",
            "cpu": "Intel Xeon Processor",
            "packages": {"qemu-system-arm": "1:10.0.8+ds-0"},
        }
    ]
