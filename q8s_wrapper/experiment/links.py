"""Links that ``link set`` has changed: read from arguments, and recorded in the cluster's state folder."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypedDict

from q8s_wrapper import damage, messages, text_layout
from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.private_file import write_private

_RECORD: Final = "links.json"
_UNTIL: Final = "until"
_DURATION: Final = re.compile(r"([0-9]{1,6})(s|min|h)?")
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600}
# The fields of every link. "from" is no name of a class's field.
_Ends = TypedDict("_Ends", {"from": str, "to": str})
_HINT: Final = "`q8s-run link clear FILE` restores the cluster file's links and removes this record"


class _Link(_Ends, total=False):
    until: str


def read(folder: Path, cluster: Any = None) -> list[dict[str, Any]]:
    """Return the changed links in the cluster file's form, oldest first. A link that ends has the time as ``until``.

    :param cluster: the cluster, to check the links' settings
    :raises WrapperError: their record is damaged, or does not fit the cluster
    """
    path = folder / _RECORD
    found: list[dict[str, Any]] = []
    with suppress(FileNotFoundError), damage.explained(_HINT) as read:
        found = read.json_file(path, list[_Link])
        if cluster is not None:
            _check_settings(cluster, found, read.Place(str(path)))
    return found


def _check_settings(cluster: Any, changed: Sequence[Mapping[str, Any]], place: Any) -> None:
    """Check the settings of recorded links.

    :param place: the record, a ``_read.Place`` of the collection
    :raises ReadError: a setting has an error
    """
    from ansible_collections.q8s.emu.plugins.module_utils import _links_cluster, _spec

    try:
        _links_cluster.with_links(cluster.to_mapping(), overrides(changed), place.file)
    except _spec.SpecError as error:
        problem = error.problems[0]
        raise replace(place, path=problem.path.removeprefix("network.links")).error(problem.message) from None


def write(folder: Path, changed: Sequence[Mapping[str, Any]]) -> None:
    """Record the changed links."""
    path = folder / _RECORD
    if not changed:
        path.unlink(missing_ok=True)
        return
    write_private(path, json.dumps(list(changed), indent=2) + "\n")


def overrides(changed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the changed links without the times at which they end."""
    return [{key: value for key, value in link.items() if key != _UNTIL} for link in changed]


def parse(words: Sequence[str], cluster: Any) -> dict[str, Any]:
    """Return a link in the cluster file's form, and print the warnings about it.

    :param words: FROM, TO and settings such as ``delay=50ms``
    :raises WrapperError: the link has an error, or matches no two nodes
    """
    if len(words) < 3 or "=" in words[0] + words[1]:
        raise WrapperError(
            f"link set: is {' '.join(words)}; must be FROM TO and what happens to packets",
            "such as: node:arm-mid-1 control-planes delay=50ms loss=1%",
            ExitCode.WRONG_INPUT,
        )
    nodes = {spec.node for spec in cluster.servers()}
    ends = [f"node:{word}" if word in nodes else word for word in words[:2]]
    link: dict[str, Any] = {"from": ends[0], "to": ends[1]}
    for word in words[2:]:
        _add_setting(link, word)
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _links, _links_cluster, _spec

    known = f"nodes: {', '.join(sorted(nodes))}"
    try:
        read_back = _links_cluster.with_links(cluster.to_mapping(), [link], "link set")
    except _spec.SpecError as error:
        hints = [*(p.hint for p in error.problems), *(known for end in ends if not _is_selector(end))]
        raise WrapperError(
            f"link set: {'; '.join(_problem_text(p) for p in error.problems)}",
            "; ".join(dict.fromkeys(filter(None, hints))),
            ExitCode.WRONG_INPUT,
        ) from None
    unmatched = bool(_links.unmatched_rules(cluster.endpoints(), read_back.links.rules))
    for warning in read_back.warnings:
        if not warning.path.startswith("network"):
            continue
        if unmatched:
            raise WrapperError(f"link set: {_problem_text(warning)}", warning.hint, ExitCode.WRONG_INPUT)
        messages.warning(f"link set: {_problem_text(warning)}")
    return link


def _add_setting(link: dict[str, Any], word: str) -> None:
    """Add a setting such as ``delay=50ms``, or one field of a mapping such as ``rate.up=7mbit``, to a link.

    :raises WrapperError: the link has it already
    """
    name, _, text = word.partition("=")
    value = text == "true" if name == "symmetric" and text in ("true", "false") else text
    name, *inner = name.split(".", maxsplit=1)
    before: Any = link.get(name, {} if inner else None)
    if (inner and (not isinstance(before, dict) or inner[0] in before)) or (not inner and before is not None):
        raise WrapperError(f"link set: {name}: is given twice, the second time as {word}", code=ExitCode.WRONG_INPUT)
    link[name] = {**before, inner[0]: value} if inner else value


def rules(cluster: Any, changed: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    """Return changed links as rules that apply instead of the cluster file's.

    :raises SpecError: a link has an error
    """
    from ansible_collections.q8s.emu.plugins.module_utils import _links_cluster

    if not changed:
        return ()
    found: Sequence[Any] = _links_cluster.with_links(cluster.to_mapping(), overrides(changed), "link set").links.rules
    return found


def check_combined(cluster: Any, changed: Sequence[Mapping[str, Any]]) -> None:
    """Check changed links beside those of the cluster file.

    :raises WrapperError: the guests' kernels refuse a link
    """
    from ansible_collections.q8s.emu.plugins.module_utils import _links, _spec

    try:
        matrix = cluster.link_matrix(rules(cluster, changed))
        conflict = _links.duplicate_conflict(cluster.endpoints(), matrix)
        message = f"duplicate from {' to '.join(conflict)}: Linux allows no other link beside it" if conflict else ""
    except _spec.SpecError as error:  # they conflict with each other
        message = "; ".join(_problem_text(problem) for problem in error.problems)
    if message:
        hint = "leave duplicate out, or let it be the only link of the node; `q8s-run link show FILE` shows the links"
        raise WrapperError(f"link set: {message}", hint, ExitCode.WRONG_INPUT)


def _is_selector(word: str) -> bool:
    from ansible_collections.q8s.emu.plugins.module_utils import _links

    try:
        _links.check_selector(word)
    except ValueError:
        return False
    return True


def _problem_text(problem: Any) -> str:
    """Format a problem of the one link, such as ``delay: is '1'; must be ...``."""
    path = problem.path.removeprefix("network.links[0]").removeprefix("network").lstrip(".")
    return f"{path}: {problem.message}" if path else problem.message


def parse_duration(text: str) -> int:
    """Return a duration such as 60s in seconds.

    :raises WrapperError: it is not a duration
    """
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2] or "s"] if match else 0
    if not 1 <= seconds <= 86400:
        raise WrapperError(
            f"--for: is {text}; allowed is a duration such as 60s, 5min or 1h, at most 24h", code=ExitCode.WRONG_INPUT
        )
    return seconds


def ending(link: Mapping[str, Any], seconds: int) -> dict[str, Any]:
    """Return a link with the time at which it ends."""
    return {**link, _UNTIL: _stamp(math.ceil(time.time() + seconds))}


def end_of(changed: Sequence[Mapping[str, Any]]) -> float:
    """Return when the last link ends that has such a time, in seconds since the epoch; 0 if none has."""
    ends = [datetime.fromisoformat(link[_UNTIL]).timestamp() for link in changed if _UNTIL in link]
    return ends[-1] if ends else 0


def describe(changed: Sequence[Mapping[str, Any]], clear: str) -> list[str]:
    """Format the changed links.

    :param clear: the command that restores the cluster file's links
    """
    now = _stamp(time.time())
    lines = []
    for link in changed:
        settings = " ".join(_words({key: value for key, value in link.items() if key not in ("from", "to", _UNTIL)}))
        until = str(link.get(_UNTIL, ""))
        end = f" (was to end at {until}, but its command was killed)" if until and until < now else ""
        end = f" (until {until})" if until >= now else end
        lines.append(f"link changed by `link set`: {link['from']} -> {link['to']}: {settings}{end}")
    return [*lines, f"hint: `{clear}` restores the cluster file's links"] if lines else []


def describe_recorded(folder: Path, clear: str) -> list[str]:
    """Format the links that ``link set`` has changed. If their record is damaged, print a warning.

    :param clear: the command that restores the cluster file's links
    """
    changed: Sequence[Mapping[str, Any]] = []
    with damage.tolerated("links may differ from the cluster file"):
        changed = read(folder)
    return describe(changed, clear)


def _stamp(seconds: float) -> str:
    """Format a moment in UTC, so that text compares like time."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _words(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Format settings as they are given to ``link set``."""
    words = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            words += _words(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def matrix_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the links and whether they are in force."""
    if not rows:
        return ["no links"]
    return text_layout.table(
        [
            {
                "from": ", ".join(row["from"]),
                "to": ", ".join(row["to"]),
                "link": row["impairment"],
                "state": row["state"],
            }
            for row in rows
        ]
    ).splitlines()


def finding_lines(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format what was promised and measured."""
    results = {True: "kept", False: "BROKEN", None: "not judged"}
    return text_layout.table(
        [
            {
                "from": one["from"],
                "to": one["to"],
                "what": one["what"],
                "promised": f"{one['promised']:g} {one['unit']}",
                "measured": _figure(one, "measured"),
                "interval": f"{one['low']:.4g} to {one['high']:.4g}" if one["low"] is not None else "",
                "off by": f"{one['measured'] - one['promised']:+.3g}" if one["measured"] is not None else "",
                "result": results[one["kept"]],
                "note": one["note"],
            }
            for one in findings
        ]
    ).splitlines()


def _figure(finding: Mapping[str, Any], key: str) -> str:
    return f"{finding[key]:.4g} {finding['unit']}" if finding[key] is not None else "-"
