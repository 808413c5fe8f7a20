"""Each guest gets the links that it shapes, and a change of them touches nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.linked_guests import linked_guests
from ansible_collections.q8s.emu.plugins.filter.node_links import node_links
from ansible_collections.q8s.emu.plugins.module_utils import _links_node, _spec
from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment, Loss
from ansible_collections.q8s.emu.plugins.module_utils._links_node import Found, NodeLinks

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "collections/ansible_collections/q8s/emu/roles/emulated_worker"
PROGRAM, UNIT = ((ROLE / "files" / name).read_text() for name in ("q8s-links", "q8s-links.service"))
EDGE = (ROOT / "examples" / "edge.yaml").read_text()
ADDRESSES = {"edge-control-plane": "10.254.1.2", "cloud-1": "10.254.1.3", "edge-1": "10.254.1.4"}
EXEMPT = ("ssh", "apiserver")


def delay(milliseconds: int) -> Impairment:
    return Impairment(delay=milliseconds * 1000)


def links(**outgoing: int) -> NodeLinks:
    return NodeLinks({f"10.254.1.{name[1:]}": delay(value) for name, value in outgoing.items()}, {}, EXEMPT)


def found(
    kept: NodeLinks | None, in_force: NodeLinks | None, *, files: bool = True, netems: int | None = None
) -> Found:
    checksum = hashlib.sha256((PROGRAM + UNIT).encode() if files else b"").hexdigest()
    return Found(kept, in_force, checksum, (in_force.count if in_force else 0) if netems is None else netems)


def change(has: Found, kept: NodeLinks, now: NodeLinks | None = None) -> _links_node.Change:
    return _links_node.change(has, kept, kept if now is None else now, PROGRAM, UNIT)


def files_of(command: str) -> dict[str, str]:
    packed = command.split("echo ")[1].split(" |", maxsplit=1)[0]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(base64.b64decode(packed)))) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        return {name: stream.read().decode() if stream else "" for name, stream in members.items()}


def test_a_guest_shapes_what_it_sends_and_what_control_planes_send_to_it() -> None:
    cluster = _spec.load_text(EDGE, "edge.yaml")
    shaped = _links_node.node_links(cluster, ADDRESSES)
    up = Impairment(delay=40_000, loss=Loss(1), rate=5_000_000)
    assert shaped == {
        "cloud-1": NodeLinks({"10.254.1.4": replace(up, rate=20_000_000)}, {}, EXEMPT),
        "edge-1": NodeLinks({"10.254.1.2": delay(15), "10.254.1.3": up}, {"10.254.1.2": delay(15)}, EXEMPT),
    }


def test_links_to_a_node_without_a_server_wait_for_it() -> None:
    cluster = _spec.load_text(EDGE, "edge.yaml")
    without = {name: address for name, address in ADDRESSES.items() if name != "edge-1"}
    assert "cloud-1" not in _links_node.node_links(cluster, without)


def test_the_filter_tells_the_links_of_the_next_boot_from_those_of_now() -> None:
    cluster = _spec.load_text(EDGE, "edge.yaml")
    hosts = {spec.name: {"q8s_private_ip": ADDRESSES[spec.node]} for spec in cluster.servers()}
    override = [{"from": "node:cloud-1", "to": "*", "delay": "200ms"}]
    shaped = node_links(hosts, cluster.to_mapping(), override)["cloud-1"]
    assert shaped["kept"]["outgoing"]["10.254.1.4"]["delay"] == 40_000
    assert {address: link["delay"] for address, link in shaped["now"]["outgoing"].items()} == {
        "10.254.1.2": 200_000,
        "10.254.1.4": 200_000,
    }
    assert json.loads(json.dumps(shaped)) == shaped


def test_a_new_guest_gets_all_files_and_shapes_at_once() -> None:
    result = change(found(None, None, files=False), links(n3=40))
    assert result.installed
    assert result.command.endswith("/usr/local/sbin/q8s-links start")
    files = files_of(result.command)
    assert set(files) == {
        "usr/local/sbin/q8s-links",
        "etc/systemd/system/q8s-links.service",
        "etc/systemd/system/multi-user.target.wants/q8s-links.service",
        "etc/q8s/links.tc",
        "etc/q8s/links.json",
    }
    assert "dst_ip 10.254.1.3" in files["etc/q8s/links.tc"]
    assert "q8s-in" not in files["etc/q8s/links.tc"]


def test_a_guest_that_has_its_links_needs_nothing() -> None:
    both = NodeLinks({"10.254.1.3": delay(1)}, {"10.254.1.2": Impairment(loss=Loss(1, 30))}, EXEMPT)
    assert change(found(both, both), both).command == ""
    assert change(found(None, None, files=False), NodeLinks(exempt=EXEMPT)).command == ""


def test_an_edit_keeps_the_links_that_stay() -> None:
    before, after = links(n3=40, n4=1), links(n3=40, n4=2)
    result = change(found(before, before), after)
    assert "q8s-links start" not in result.command
    files = files_of(result.command)
    assert "10.254.1.4" not in files["run/q8s/next.tc"]  # its filter stays, too
    assert "delay 2000us" in files["run/q8s/next.tc"]
    assert "delay 40000us" not in files["run/q8s/next.tc"]
    assert "delay 40000us" in files["etc/q8s/links.tc"]


def test_an_override_is_gone_with_the_next_boot() -> None:
    kept = links(n3=40)
    result = change(found(kept, kept), kept, links(n3=200))
    assert set(files_of(result.command)) == {"run/q8s/next.tc", "run/q8s/next.json"}
    assert change(found(kept, links(n3=200)), kept).command.endswith("update /run/q8s/next.tc /run/q8s/next.json")


def test_links_that_somebody_removed_with_tc_are_loaded_again() -> None:
    kept = links(n3=40, n4=1)
    assert change(found(kept, kept, netems=0), kept).command.endswith("q8s-links start")


def test_other_exempt_traffic_loads_all_links_again() -> None:
    kept = links(n3=40)
    result = change(found(kept, kept), replace(kept, exempt=("ssh",)))
    assert result.command.endswith("q8s-links start")
    assert "dst_port 6443" not in files_of(result.command)["etc/q8s/links.tc"]


def test_a_cluster_file_without_links_removes_everything() -> None:
    kept = links(n3=40)
    result = change(found(kept, kept), NodeLinks(exempt=EXEMPT))
    assert "q8s-links stop" in result.command
    assert not result.has_links
    for path in ("/etc/q8s/links.tc", "/etc/q8s/links.json", "multi-user.target.wants/q8s-links.service"):
        assert path in result.command


def test_control_planes_directions_come_and_go() -> None:
    none, one = links(n3=40), NodeLinks({"10.254.1.3": delay(40)}, {"10.254.1.2": delay(15)}, EXEMPT)
    coming = _links_node.update_batch(none, one)
    assert coming.splitlines()[0].startswith("qdisc replace dev q8s-in root handle 1: htb")
    assert coming.splitlines()[-1].endswith("src_ip 10.254.1.2 action mirred egress redirect dev q8s-in")
    assert _links_node.update_batch(one, none) == "qdisc del dev NIC clsact\nqdisc del dev q8s-in root\n"


def test_what_a_guest_answers_is_read() -> None:
    kept = links(n3=40)
    line = base64.b64encode(json.dumps(kept.to_mapping()).encode()).decode()
    assert _links_node.read_found(f"{line}\n\nabc  -\n1\n") == Found(kept, None, "abc", 1)
    assert _links_node.read_found("\n\nabc  -\n0\n") == Found(None, None, "abc", 0)
    older = base64.b64encode(b'{"links": []}').decode()
    assert _links_node.read_found(f"{older}\n\nabc  -\n0\n").kept is None
    with pytest.raises(ValueError, match="not understood"):
        _links_node.read_found("sh: tc: not found\n")


def test_the_command_leaves_what_the_next_run_compares(tmp_path: Path) -> None:
    """A shell runs it, below another root."""
    result = change(found(None, None, files=False), links(n3=40))
    command = result.command.replace("-C /", f"-C {tmp_path}").replace("mkdir -p /run/q8s", ":")
    command = command.rsplit("; ", 1)[0]
    subprocess.run(["sh", "-c", command], check=True)
    program = tmp_path / "usr/local/sbin/q8s-links"
    unit = tmp_path / "etc/systemd/system/q8s-links.service"
    assert hashlib.sha256(program.read_bytes() + unit.read_bytes()).hexdigest() == found(None, None).checksum
    assert program.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "etc/systemd/system/multi-user.target.wants/q8s-links.service").is_symlink()


def test_the_program_is_a_posix_shell_script() -> None:
    dash = shutil.which("dash") or "sh"
    subprocess.run([dash, "-n", ROLE / "files" / "q8s-links"], check=True)


def test_a_deploy_looks_at_guests_only_where_the_file_or_the_guest_has_links() -> None:
    host: dict[str, Any] = {
        "q8s_vm": {"name": "edge-1"},
        "q8s_cluster": {},
        "emulated_worker_found": {"state": "running"},
    }
    linked = {**host, "emulated_worker_found": {"links": True}}
    wanted = {**host, "q8s_cluster": {"network": {"links": []}}}
    control_plane: dict[str, Any] = {"q8s_cluster": {"network": {"links": []}}}
    assert linked_guests({"a": host, "b": control_plane}, ["a", "b"]) == "!all"
    assert linked_guests({"a": linked}, ["a"]) == "edge-1"
    assert linked_guests({"a": wanted}, ["a"]) == "edge-1"
    assert linked_guests({"a": wanted}, []) == "!all"


def test_what_a_guest_has_after_a_change_needs_none() -> None:
    kept = _links_node.NodeLinks({"10.254.1.2": Impairment(delay=1000)}, exempt=("ssh",))
    now = _links_node.NodeLinks({"10.254.1.2": Impairment(delay=2000)}, exempt=("ssh",))
    nothing = _links_node.NodeLinks()
    for links in ((kept, now), (kept, kept), (nothing, now), (nothing, nothing)):
        found = _links_node.found_after(*links, "program", "unit")
        assert not _links_node.change(found, *links, "program", "unit").command
