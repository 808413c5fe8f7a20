"""Every field of the cluster file has an edit class, and the reference documents it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _identity, _plan_servers, _spec, _spec_fields
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import FloatingIp, Port, Server
from ansible_collections.q8s.emu.plugins.module_utils._plan_notes import Resources, ports_by_server
from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import MEANINGS, Edit, Effect
from ansible_collections.q8s.emu.plugins.module_utils._spec_kinds import Field, Group, Names

from tools import cluster_file_docs


def leaves(group: Group, path: str = "") -> list[tuple[str, Field]]:
    """Return the fields that hold a value, not further fields, by path."""
    found: list[tuple[str, Field]] = []
    for field in group.fields:
        kind, place = field.kind, f"{path}.{field.name}" if path else field.name
        if isinstance(kind, Names) and isinstance(kind.of, Group):
            kind, place = kind.of, f"{place}.NAME"
        found += leaves(kind, place) if isinstance(kind, Group) else [(place, field)]
    return found


FIELDS = dict(leaves(_spec_fields.CLUSTER))
EDITS = dict(cluster_file_docs.edits())


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_has_a_class_and_the_reference_has_it(path: str) -> None:
    edit = FIELDS[path].edit
    assert edit is not None
    assert EDITS[path] == edit
    tables = cluster_file_docs.page().split("begin of the classes")[1].split("end of the classes")[0]
    rows = [line.strip("| ").split(" | ") for line in tables.splitlines() if line.count(" |") > 2]
    names = {f"`{path}`", f"all fields of `{path.partition('.')[0]}`"}
    found = [row[0] for row in rows if names & {*row[1].split(", ")}]
    assert found == [edit.effect.value], "once, in a row of its class"


def test_every_class_has_a_meaning_and_a_refusal_its_reason_and_a_way_out() -> None:
    assert set(MEANINGS) == set(Effect)
    for path, edit in EDITS.items():
        if edit.effect is Effect.REFUSED:
            assert edit.text and edit.remedy, path
            assert not edit.text.endswith("."), path


@pytest.mark.parametrize(
    ("path", "effect"),
    [
        ("vm_types.types.NAME.labels", Effect.LIVE),
        ("required_tcp_ports", Effect.LIVE),
        ("inside", Effect.LIVE),
        ("vm_types.types.NAME.ram", Effect.RESTART),
        ("vm_types.types.NAME.qemu_args", Effect.RESTART),
        ("vm_types.types.NAME.storage", Effect.RECREATE),
        ("vm_types.types.NAME.architecture", Effect.RECREATE),
        ("guest_images.aarch64.checksum", Effect.RECREATE),
        ("vm_types.types.NAME.openstack_flavor", Effect.REPLACE),
        ("guest_ip_prefix", Effect.REFUSED),
        ("name_of_initial_instance", Effect.REFUSED),
    ],
)
def test_the_classes_of_some_fields(path: str, effect: Effect) -> None:
    edit: Edit | None = FIELDS[path].edit
    assert edit is not None and edit.effect is effect


CLUSTER = replace(
    _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml")),
    access=_spec.Access("floating_ip", floating_network="external"),
)
REPORTED = [path for path, edit in EDITS.items() if edit.effect in (Effect.NEW, Effect.REPLACE)]
# No server shows where the programs on it came from; the plan names what has to be built.
NOT_REPORTED = ["bundle_source"]
# The demo with another value of each field, and what the note about it says.
EDITED = {
    "private_network_id": (replace(CLUSTER, private_network_id="other"), "in another network than other"),
    "default_image_name": (replace(CLUSTER, default_image_name="debian-14"), "the image debian-13, not debian-14"),
    "security_groups": (replace(CLUSTER, security_groups=("q8s-cluster", "web")), "no security group web"),
    "server_group": (replace(CLUSTER, server_group="soft-anti-affinity"), "not in the server group q8s-demo"),
    "cluster_definition.master_node_flavor": (
        replace(CLUSTER, master_node_flavor="c1.large"),
        "the flavor c1.small, not c1.large",
    ),
    "vm_types.types.NAME.openstack_flavor": (
        replace(CLUSTER, types=tuple(replace(one, openstack_flavor="c1.large") for one in CLUSTER.types)),
        "the flavor c1.medium, not c1.large",
    ),
    "access.floating_network": (
        replace(CLUSTER, access=replace(CLUSTER.access, floating_network="other")),
        "of another network than other",
    ),
}


def plan_notes(cluster: _spec.Cluster) -> tuple[str, ...]:
    """Return the notes of a plan for the demo, which a deploy of its file as it is has created."""
    metadata = {"q8s_cluster": CLUSTER.cluster_name, **_identity.metadata(CLUSTER)}
    servers = [
        Server(
            f"id-{number}",
            spec.name,
            "ACTIVE",
            (f"10.254.1.{number}",),
            metadata,
            flavor=spec.flavor,
            image="id-debian-13",
            networks=("private",),
        )
        for number, spec in enumerate(CLUSTER.servers(), 4)
    ]
    ports = [Port(f"p-{one.id}", one.name, one.id, ("own",), one.addresses, network="net") for one in servers]
    resources = Resources(
        ports_by_server(cluster, servers, ports),
        [f"id-{cluster.default_image_name}"],
        ["other-net"],
        external_networks=[f"id-{cluster.access.floating_network}"],
    )
    address = FloatingIp("f", "203.0.113.4", servers[0].addresses[0], "id-external")
    plan = _plan_servers.plan_servers(cluster, _plan_servers.Existing(servers, floating=[address], resources=resources))
    assert not plan.changed and not plan.problems
    return plan.notes


@pytest.mark.parametrize("path", [path for path in REPORTED if path not in NOT_REPORTED])
def test_an_edit_that_existing_servers_are_not_changed_for_has_a_note(path: str) -> None:
    edited, text = EDITED[path]
    (note,) = plan_notes(edited)
    assert text in note


def test_without_an_edit_there_is_no_note() -> None:
    assert plan_notes(CLUSTER) == ()
    assert set(REPORTED) == {*EDITED, *NOT_REPORTED}
