"""Paths: the files that Ansible reads, and the state folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
_PACKAGED: Final = Path(__file__).resolve().parent / "data"
# Folder with the collection, the inventory and ansible.cfg: data of the wheel, or a checkout with the same layout.
DATA: Final = _PACKAGED if _PACKAGED.is_dir() else REPOSITORY
COLLECTIONS: Final = DATA / "collections"
PLAYBOOKS: Final = COLLECTIONS / "ansible_collections" / "q8s" / "emu" / "playbooks"
INVENTORY: Final = DATA / "inventory" / "cluster.q8s.yml"


def state_root() -> Path:
    """Return the folder with the local state of all clusters.

    It is ``Q8S_STATE``, else ``q8s`` below ``XDG_STATE_HOME``, else ``~/.local/state/q8s``.
    """
    explicit = os.environ.get("Q8S_STATE")
    if explicit:
        return _expand_user(explicit).absolute()
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    # The XDG base directory specification says to ignore relative paths.
    return (base if base.is_absolute() else _expand_user("~/.local/state").absolute()) / "q8s"


def _expand_user(path: str) -> Path:
    """Expand ``~`` in a path. Unlike pathlib, leave it as it is if the home folder is not known."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def cluster_variable(file: Path) -> list[str]:
    """Return the arguments that pass the cluster file to Ansible, as JSON: ``name=value`` would end at a space.

    A link stays one: the file's other files are beside the link.
    """
    return ["-e", json.dumps({"q8s_cluster_file": str(file.absolute())})]


def add_collections_to_path() -> None:
    """Add the collection to ``sys.path``: ``ansible_collections.q8s.emu`` can then be imported without Ansible."""
    folder = str(COLLECTIONS)
    if folder not in sys.path:
        sys.path.insert(0, folder)
