"""Keep secrets out of what is published: remove credentials from URLs, and find secrets of cluster and user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import damage

_CREDENTIALS: Final = re.compile(r"(://)[^/\s@\"']+@")
_PATTERNS: Final = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a kubeconfig": re.compile(rb"client-key-data:"),
    "a URL with a password": re.compile(rb"://[^/\s@\"':]+:[^/\s@\"']+@"),
    "a bootstrap token": re.compile(rb"(?<![\w.-])[a-z0-9]{6}\.[a-z0-9]{16}(?![\w.-])"),
}
_NAMES: Final = re.compile(r"password|secret|token|key-data", re.IGNORECASE)
_SHORTEST: Final = 8  # characters; a shorter value may occur by chance
_CLOUD_FILES: Final = ("clouds.yaml", "clouds.yml", "secure.yaml", "secure.yml")


def without_credentials(text: str) -> str:
    """Remove user names, passwords and tokens from the URLs in a text."""
    return _CREDENTIALS.sub(r"\1", text)


def known(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets on this machine: what each is by its value.

    :param folder: the cluster's state folder
    :param environ: the environment variables
    """
    found = {
        value: f"the variable {name}"
        for name, value in environ.items()
        if name.startswith("OS_") and _NAMES.search(name)
    }
    for path in [*_files(folder), *_cloud_files(environ)]:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if "PRIVATE KEY-----" in text:
            found |= {line: str(path) for line in text.splitlines() if not line.startswith("-----")}
        else:
            found |= dict.fromkeys(_yaml_secrets(text, path), str(path))
    return {value: place for value, place in found.items() if len(value) >= _SHORTEST}


def _files(folder: Path) -> list[Path]:
    """Return the files of a state folder that may hold secrets: not the logs and the records of Q8S."""
    try:
        return [path for path in folder.iterdir() if path.is_file() and path.suffix not in (".json", ".jsonl", ".pub")]
    except OSError:
        return []


def _cloud_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Return the files where OpenStack's clients look for credentials."""
    if named := environ.get("OS_CLIENT_CONFIG_FILE"):
        yield Path(named)
    for folder in (Path.cwd(), Path(environ.get("HOME", "/")) / ".config/openstack", Path("/etc/openstack")):
        yield from (folder / name for name in _CLOUD_FILES)


def _yaml_secrets(text: str, path: Path) -> Iterator[str]:
    """Return the values in a YAML file whose names say that they are secret."""
    with suppress(damage.DamagedError), damage.explained() as read:
        yield from _values(read.yaml_data(text, read.Place(str(path))))


def _values(data: Any, secret: bool = False) -> Iterator[str]:
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from _values(value, bool(_NAMES.search(str(name))))
    elif isinstance(data, list):
        for value in data:
            yield from _values(value, secret)
    elif secret and data is not None:
        yield str(data)


def find(files: Mapping[str, bytes], secrets: Mapping[str, str]) -> list[str]:
    """Return which files hold a secret, and what it is. Does not return the secret.

    :param files: content of each file by its name
    :param secrets: what each secret is by its value
    """
    found = []
    for name, content in files.items():
        found += [f"{name} contains {what}" for what, pattern in _PATTERNS.items() if pattern.search(content)]
        places = {place for value, place in secrets.items() if value.encode() in content}
        found += [f"{name} contains a secret of {place}" for place in sorted(places)]
    return found
