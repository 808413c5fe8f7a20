"""The tags of the playbook that deploys: read from the playbook itself, without starting Ansible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import invocation
from q8s_wrapper.config import PLAYBOOKS
from q8s_wrapper.errors import ExitCode, WrapperError

# Ansible's own words, which select by whether a task has tags.
_SPECIAL: Final = frozenset({"all", "always", "never", "tagged", "untagged"})


def known() -> list[str]:
    """Return the tags of site.yml, in the order in which they occur."""
    return [tag for tag in dict.fromkeys(_tags(plays(PLAYBOOKS / "site.yml"))) if tag not in _SPECIAL]


def plays(playbook: Path) -> list[dict[str, Any]]:
    """Return the plays of a playbook, and of those that it imports by a relative path, in their order."""
    import yaml

    found: list[dict[str, Any]] = []
    for play in yaml.safe_load(playbook.read_text()):
        imported = play.get("ansible.builtin.import_playbook")
        found += plays(playbook.parent / imported) if imported else [play]
    return found


def check(text: str) -> None:
    """Refuse a list of tags with commas if one of them selects nothing.

    :raises WrapperError: a tag does not exist
    """
    allowed = known()
    wrong = [tag for tag in (word.strip() for word in text.split(",")) if tag not in {*allowed, *_SPECIAL}]
    if wrong:
        raise WrapperError(
            f"--tags: no task has the tag {', '.join(map(repr, wrong))}; allowed are {', '.join(allowed)}",
            f"{invocation.program()} deploy --list-tags lists them",
            ExitCode.WRONG_INPUT,
        )


def _tags(value: Any) -> Iterator[str]:
    """Yield all tags in a part of a playbook, those that an include applies too."""
    if isinstance(value, list):
        for item in value:
            yield from _tags(item)
    elif isinstance(value, dict):
        tags = value.get("tags", [])
        yield from tags.split(",") if isinstance(tags, str) else tags
        for key, item in value.items():
            if key != "tags":
                yield from _tags(item)
