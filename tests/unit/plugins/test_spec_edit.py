"""Every field of the cluster file has an edit class, and the reference documents it."""

from __future__ import annotations

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _spec_fields
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
