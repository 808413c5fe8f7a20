"""The metadata of a record: RO-Crate 1.1, profile Process Run Crate 0.5. Pure functions.

https://www.researchobject.org/ro-crate/specification/1.1/, https://www.researchobject.org/workflow-run-crate/profiles/0.5/process_run_crate/
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

METADATA: Final = "ro-crate-metadata.json"
_PROFILE: Final = "https://w3id.org/ro/wfrun/process/0.5"
_CONTEXT: Final = ("https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context")
_DESCRIPTOR: Final = {
    "@id": METADATA,
    "@type": "CreativeWork",
    "about": {"@id": "./"},
    "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
}
_PROFILE_ENTITY: Final = {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
_FORMATS: Final = {
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".md": "text/markdown",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".csv": "text/csv",
}


@dataclass(frozen=True)
class Action:
    """A run of a program: its files and times. The times are ISO 8601, or empty if they are not known."""

    name: str
    command: str
    objects: Sequence[str]
    results: Sequence[str]
    start: str = ""
    end: str = ""
    failed: bool = False


def metadata(
    title: str,
    description: str,
    *,
    published: str,
    license_text: str,
    files: Mapping[str, bytes],
    described: Mapping[str, str],
    actions: Sequence[Action],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the metadata of a crate.

    :param license_text: URL of the licence, or how the record may be used
    :param published: date of the record, ISO 8601
    :param files: content of each file by its path in the crate
    :param described: description of files by their path
    :param versions: version of each program; the first one is the instrument of all actions
    """
    programs = _programs(versions)
    datasets = _datasets(files, described)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": description,
        "datePublished": published,
        "license": {"@id": license_text} if "://" in license_text else license_text,
        "conformsTo": {"@id": _PROFILE},
        "hasPart": [
            *({"@id": _identifier(name)} for name in files if "/" not in name),
            *({"@id": d["@id"]} for d in datasets),
        ],
        "mentions": [{"@id": f"#{action.name}"} for action in actions],
    }
    entities = [_file(name, content, described.get(name, "")) for name, content in files.items()]
    runs = [_action(action, programs[0]["@id"]) for action in actions]
    others = [{"@id": license_text, "@type": "CreativeWork", "name": license_text}] if "://" in license_text else []
    graph = [_DESCRIPTOR, root, _PROFILE_ENTITY, *others, *programs, *runs, *datasets, *entities]
    return {"@context": list(_CONTEXT), "@graph": graph}


def _programs(versions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the entities of programs. The first one requires the others."""
    programs: list[dict[str, Any]] = [
        {
            "@id": f"#{name}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
            "version": version,
        }
        for name, version in versions.items()
    ]
    programs[0]["softwareRequirements"] = [{"@id": program["@id"]} for program in programs[1:]]
    return programs


def _datasets(files: Collection[str], described: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the entities of the folders of a crate.

    :param files: paths of its files
    :param described: description of folders by their path
    """
    folders = sorted({name.partition("/")[0] for name in files if "/" in name})
    return [
        {
            "@id": _identifier(f"{folder}/"),
            "@type": "Dataset",
            "name": folder,
            "description": described.get(f"{folder}/", folder),
            "hasPart": _references([name for name in files if name.startswith(f"{folder}/")]),
        }
        for folder in folders
    ]


def _identifier(path: str) -> str:
    """Return the identifier of a file or folder: a URI that is relative to the crate."""
    return quote(os.fsencode(path))


def _references(paths: Sequence[str]) -> Any:
    """Return references to files and folders: one of them is not a list."""
    found = [{"@id": _identifier(path)} for path in paths]
    return found[0] if len(found) == 1 else found


def _file(name: str, content: bytes, description: str) -> dict[str, Any]:
    """Return the entity of a file."""
    path = PurePosixPath(name)
    return {
        "@id": _identifier(name),
        "@type": "File",
        "name": path.name,
        **({"description": description} if description else {}),
        "encodingFormat": _FORMATS.get(path.suffix, "text/plain"),
        "contentSize": str(len(content)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _action(action: Action, instrument: str) -> dict[str, Any]:
    """Return the entity of an action."""
    status = "FailedActionStatus" if action.failed else "CompletedActionStatus"
    return {
        "@id": f"#{action.name}",
        "@type": "CreateAction",
        "name": action.command,
        "instrument": {"@id": instrument},
        "object": _references(action.objects),
        "result": _references(action.results),
        **({"startTime": action.start} if action.start else {}),
        **({"endTime": action.end} if action.end else {}),
        "actionStatus": f"http://schema.org/{status}",
    }


def text(data: Mapping[str, Any]) -> bytes:
    """Return data as JSON for a file."""
    return (json.dumps(data, indent=2, sort_keys=False) + "\n").encode()
