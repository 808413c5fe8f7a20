"""Write docs/reference/cluster-file.md and its JSON Schema from the declarations in the collection's _spec_fields.py.

``make docs`` runs it; a test fails while a committed file differs from what this would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ansible_collections.q8s.emu.plugins.module_utils import _spec_fields as fields
from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import MEANINGS, Edit, Effect
from ansible_collections.q8s.emu.plugins.module_utils._spec_kinds import REQUIRED, Field, Group, Names
from ansible_collections.q8s.emu.plugins.module_utils._spec_links import Rows

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PAGE: Final = REPOSITORY / "docs" / "reference" / "cluster-file.md"
SCHEMA: Final = REPOSITORY / "docs" / "reference" / "cluster-file.schema.json"

_MANY: Final = 8  # fields of a mapping

_INTRODUCTION: Final = """\
<!-- Written by tools/cluster_file_docs.py (make docs) from the declarations that the checker reads. Do not edit. -->
# Cluster file

One YAML file describes a cluster. [examples/demo.yaml](../../examples/demo.yaml) is a small one with comments.
`q8s-run init` writes one for your cloud, and `q8s-run validate FILE` checks it without a cloud. The column *edit* says what
a changed field does to a running cluster.

Files of the prototype load unchanged, with the tags `!ClusterData`, `!ClusterDefinition`, `!VmTypes` and `!VmType` or
without them. Every field that the paper does not have is optional. All errors are reported at once, each with its place:

    $ q8s-run validate cluster.yaml
    error: cluster.yaml has 3 errors; nothing was changed
    cluster.yaml:5:1: required_udp_ports: is missing
      hint: such as required_udp_ports: [8472]
    cluster.yaml:16:1: requred_udp_ports: unknown key
      hint: did you mean required_udp_ports?
    cluster.yaml:34:12: vm_types.types.x86-small.ram: is '2 GB'; must be a whole number (MB) from 512 to 4194304
      hint: write the number alone, in MB

An editor that supports JSON Schema shows most errors while you type. With yaml-language-server, add a first line:

    # yaml-language-server: $schema=docs/reference/cluster-file.schema.json

Replace the path with the path or address of [cluster-file.schema.json](cluster-file.schema.json).
"""

_REST: Final = """\
## Rules across fields

Errors:

- Each type of `worker` is defined in `vm_types.types`.
- The CPU model is one of the architecture, with a 64-bit mode, and the machine model is one of the architecture's. With
  `host_os` given, the QEMU of that system has both.
- The networks of servers, guests, pods and Services do not overlap. `remote_ip_prefix` has an address for each server,
  `guest_ip_prefix` a subnet of at least 8 addresses for each address of `remote_ip_prefix`, `pod_cidr` a /24 for each
  node.
- `CLUSTER_NAME-TYPE-NUMBER`, the name of a worker's host, has at most 63 characters. The names of all servers differ,
  and so do the names of all nodes.
- `access` has the fields of its type, and no other.

Warnings:

- Without `host_os`: a CPU or machine model that the QEMU of a system lacks. It is the system that `default_image_name` names,
  or any if it names none.
- A type that `worker` does not list, and an image of `guest_images` whose architecture no worker has.
- An even number of control planes, which survives no more losses than one less.
- `required_tcp_ports` without 22, 2222 or 6443. With `inside: listed`, also without 10250, and with additional control planes without
  2379 or 2380; and `required_udp_ports` without 8472.
- A range of NodePorts that includes a port which nodes use themselves: 22, 2222, 2379, 2380, 6443, 8472 or 10250.
- A floating IP without `allowed_prefixes`, `no_proxy` without a proxy, and one of `http_proxy` and `https_proxy` without the other.
- Links of nodes or zones that the cluster does not have, and links that cannot do what they say, such as a queue too short for
  rate × delay.

The plan checks what only the cloud knows, before anything is created: image, network, flavors and quota.
[Cloud requirements](cloud-requirements.md) has the list.

## YAML

The file is one UTF-8 document of at most 128 KiB. Anchors, aliases and merges (`<<`) are allowed. A duplicate key, a key
that is not text, and any other tag are errors. So are values that YAML 1.1 reads differently from how they look: `012`
(10), `22:22` (1342), `0x10`, `1_000`, and `on`, `off`, `yes`, `no` where text is expected. Quotes make them text.
"""


_EDITS: Final = """\
## Changing a running cluster

Each field has a class, which says what `deploy` does to a cluster that is running when the field has changed:

<!-- begin of the classes -->
"""


def page() -> str:
    """The reference page."""
    parts = [_INTRODUCTION, "## Fields\n", _table(fields.CLUSTER, "")]
    for path, group, about in _groups(fields.CLUSTER, ""):
        parts += [f"## {path}\n", about + "\n", _table(group, path)]
    return "\n".join([*parts, _EDITS, _edits(), _REST])


def _edits() -> str:
    """The tables of the classes and of what is in each."""
    rows = [f"| {effect.value} | {meaning} |" for effect, meaning in MEANINGS.items()]
    found: dict[Edit, list[str]] = {}
    for name, edit in _named_edits():
        found.setdefault(edit, []).append(name)
    order = list(MEANINGS)
    listed = sorted(found.items(), key=lambda item: order.index(item[0].effect))
    fields_of = [f"| {edit.effect.value} | {', '.join(names)} | {_detail(edit)} |" for edit, names in listed]
    classes = "\n".join(["| class | what happens |", "|---|---|", *rows])
    table = "\n".join(["| class | fields | detail |", "|---|---|---|", *fields_of])
    return f"{classes}\n\n{table}\n\n<!-- end of the classes -->\n"


def _named_edits() -> Iterator[tuple[str, Edit]]:
    """Yield the fields that have a class, and the class; as one if all of the many fields of a mapping have the same."""
    mappings: dict[str, list[tuple[str, Edit]]] = {}
    for path, edit in edits():
        mappings.setdefault(re.split(r"[.[]", path)[0], []).append((path, edit))
    for mapping, found in mappings.items():
        classes = {edit for _path, edit in found}
        if len(found) >= _MANY and len(classes) == 1:
            yield f"all fields of `{mapping}`", classes.pop()
        else:
            yield from ((f"`{path}`", edit) for path, edit in found)


def edits() -> Iterator[tuple[str, Edit]]:
    """Return every field that has a class, by its path, and the class."""
    for path, group, _about in [("", fields.CLUSTER, ""), *_groups(fields.CLUSTER, "")]:
        for field in group.fields:
            if field.edit is not None:
                yield (f"{path}.{field.name}" if path else field.name), field.edit


def _detail(edit: Edit) -> str:
    if edit.effect is not Effect.REFUSED:
        return edit.text
    return f"{edit.text[:1].upper()}{edit.text[1:]}. To change it: {edit.remedy}."


def schema() -> str:
    """The JSON Schema."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Q8S cluster file",
        "description": "Written by make docs. q8s-run validate also checks the rules across fields.",
    }
    return json.dumps({**head, **fields.CLUSTER.schema()}, indent=2) + "\n"


def _groups(group: Group, path: str) -> Iterator[tuple[str, Group, str]]:
    """Every mapping with fields that is below a group."""
    for field in group.fields:
        kind, place = field.kind, f"{path}.{field.name}" if path else field.name
        if isinstance(kind, Names) and isinstance(kind.of, Group):
            kind, place = kind.of, f"{place}.NAME"
        if isinstance(kind, Rows):
            kind, place = kind.of, f"{place}[N]"
        if isinstance(kind, Group):
            yield place, kind, field.about
            yield from _groups(kind, place)


def _table(group: Group, path: str) -> str:
    rows = [_row(field, path) for field in group.fields]
    return "\n".join(["| field | value | default | edit | meaning |", "|---|---|---|---|---|", *rows]) + "\n"


def _row(field: Field, path: str) -> str:
    name = f"`{field.name}`" + (f" or `{field.spelling}`" if field.spelling else "")
    what = field.kind.description()
    if isinstance(field.kind, Group):
        what = f"[mapping](#{_anchor(f'{path}.{field.name}' if path else field.name)})"
    elif isinstance(field.kind, Names) and isinstance(field.kind.of, Group):
        what = f"[mapping from names](#{_anchor(f'{path}.{field.name}.NAME')})"
    edited = field.edit.effect.value if field.edit else ""
    return (
        "| "
        + " | ".join(text.replace("|", "\\|") for text in (name, what, _default(field.default), edited, field.about))
        + " |"
    )


def _anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in "_-")


def _default(default: Any) -> str:
    if default is REQUIRED:
        return "required"
    return "" if default in (None, "", [], {}) else f"`{default}`"
