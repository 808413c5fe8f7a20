"""Tags of the deploy playbook (site.yml), read from its files without starting Ansible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import invocation
from q8s_wrapper.config import PLAYBOOKS
from q8s_wrapper.errors import ExitCode, WrapperError

# Ansible's special tags.
_SPECIAL: Final = frozenset({"all", "always", "never", "tagged", "untagged"})


def known() -> list[str]:
    """Return the tags of site.yml in the order of their first use."""
    return [tag for tag in dict.fromkeys(_tags(plays(PLAYBOOKS / "site.yml"))) if tag not in _SPECIAL]


def plays(playbook: Path) -> list[dict[str, Any]]:
    """Return the plays of a playbook in order, including the plays of playbooks that it imports by a relative path.

    An imported play has the tags of its import, too.
    """
    import yaml

    found: list[dict[str, Any]] = []
    for play in yaml.safe_load(playbook.read_text()):
        imported = play.get("ansible.builtin.import_playbook")
        if imported:
            inherited = _names(play.get("tags", []))
            found += [
                one | {"tags": [*inherited, *_names(one.get("tags", []))]} for one in plays(playbook.parent / imported)
            ]
        else:
            found.append(play)
    return found


def check(text: str) -> None:
    """Check that every tag exists.

    :param text: tags separated by commas
    :raises WrapperError: no task has one of the tags
    """
    allowed = known()
    unknown = [tag for tag in (name.strip() for name in text.split(",")) if tag not in {*allowed, *_SPECIAL}]
    if unknown:
        raise WrapperError(
            f"--tags: no task has the tag {', '.join(map(repr, unknown))}; allowed are {', '.join(allowed)}",
            f"{invocation.program()} deploy --list-tags lists them",
            ExitCode.WRONG_INPUT,
        )


def _names(tags: list[str] | str) -> list[str]:
    """Return tags as a list; Ansible also accepts text with commas."""
    return tags.split(",") if isinstance(tags, str) else tags


def _tags(value: Any) -> Iterator[str]:
    """Yield all tags in a part of a playbook, including those that an include applies to its tasks."""
    if isinstance(value, list):
        for item in value:
            yield from _tags(item)
    elif isinstance(value, dict):
        yield from _names(value.get("tags", []))
        for key, item in value.items():
            if key != "tags":
                yield from _tags(item)
