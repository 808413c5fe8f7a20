"""Where things are: the files that Ansible reads, the caches, the state of each cluster."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
_PACKAGED: Final = Path(__file__).resolve().parent / "data"
# The collection, the inventory and Ansible's settings: data of the wheel, or a checkout with the same layout.
DATA: Final = _PACKAGED if _PACKAGED.is_dir() else REPOSITORY
COLLECTIONS: Final = DATA / "collections"
PLAYBOOKS: Final = COLLECTIONS / "ansible_collections" / "q8s" / "emu" / "playbooks"
INVENTORY: Final = DATA / "inventory" / "cluster.q8s.yml"


def state_root() -> Path:
    """Local state of all clusters: ``Q8S_STATE``, else below the user's state directory (XDG)."""
    explicit = os.environ.get("Q8S_STATE")
    if explicit:
        return _expanded(explicit).absolute()
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    # The XDG specification has relative paths ignored.
    return (base if base.is_absolute() else _expanded("~/.local/state").absolute()) / "q8s"


def _expanded(path: str) -> Path:
    """The path with ~ replaced; as it is where the home folder is not known, which pathlib takes for an error."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def cluster_variable(file: Path) -> list[str]:
    """How Ansible is told of the cluster file; as JSON, for ``name=value`` ends at a space."""
    return ["-e", json.dumps({"q8s_cluster_file": str(file.resolve())})]


def add_collections_to_path() -> None:
    """Let ``ansible_collections.q8s.emu`` be imported without importing Ansible."""
    folder = str(COLLECTIONS)
    if folder not in sys.path:
        sys.path.insert(0, folder)
