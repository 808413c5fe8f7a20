"""The command line of ``q8s-run bundle``: build artifacts, and list, prune and verify the cache."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from q8s_bundle import (
    addons,
    artifacts,
    cache,
    contents,
    namespace,
    node,
    pack,
    search_path,
)
from q8s_bundle.errors import BundleError
from q8s_bundle.image import cloud
from q8s_bundle.image.cloud import CloudImage
from q8s_bundle.node import minors, versions
from q8s_bundle.parser import NAME, Parser
from q8s_bundle.progress import json_lines, muted, say

_DONE: Final = 0
_FAILED: Final = 1
_INTERRUPTED: Final = 130
# Options with an architecture, which may be repeated.
_ARCHITECTURE_OPTIONS: Final = {
    "arch": "an architecture of emulated workers [Q8S_ARCH]",
    "control-plane": "an architecture of control planes [Q8S_CONTROL_PLANE]",
    "bench": "an architecture of the container image with the tools of q8s-run bench",
    "conformance": "an architecture of the container images of Kubernetes' conformance tests [Q8S_CONFORMANCE]",
    "tests": "an architecture of the program that runs Kubernetes' conformance tests [Q8S_TESTS]",
}
_PURPOSES: Final = {
    "build": "build the bundles",
    "refresh": "refresh the bundles",
    "ensure": "build the bundles",
    "list": "list the cache",
    "prune": "prune the cache",
    "pack": "pack the sources",
    "verify": "verify the cache",
}


def main(argv: Sequence[str], program: str = NAME) -> int:
    """Run ``bundle ...`` and return the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted.

    :param program: the name of q8s-run as the user typed it
    """
    search_path.complete_own()
    parser = _parser(program)
    arguments = parser.parse_args(argv)
    namespace.end_with_parent()
    # Handle SIGTERM and SIGHUP like Ctrl-C, to clean up: a containerd may be running.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with json_lines(enabled=getattr(arguments, "progress", "text") == "json"):
        return _run_safely(parser, arguments, argv)


def _run_safely(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run the command, report its errors, and return the exit code."""
    try:
        return int(arguments.run(parser, arguments, argv))
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        if "no space left on device" in str(error).lower():  # the last lines of a tool's log; Go writes it small
            print(f"hint: {_space_hint()}", file=sys.stderr)
        return _FAILED
    except OSError as error:
        print(f"error: Failed to {_PURPOSES[arguments.command]}: {error}", file=sys.stderr)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"hint: {_space_hint()}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        say("interrupted: finished artifacts are kept in the cache")
        return _INTERRUPTED


def _space_hint() -> str:
    """Return the free space of the folders that builds write to, and how to have more."""
    folders = dict.fromkeys((cache.cache_root(), Path(tempfile.gettempdir())))
    free = ", ".join(f"{size(_free_space(folder))} in {folder}" for folder in folders)
    return (
        f"free are {free}. `q8s-run bundle prune` removes what is not used; Q8S_CACHE and TMPDIR select other folders"
    )


def _free_space(folder: Path) -> int:
    """Return the free space in bytes of a folder's file system. The folder may be missing."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return shutil.disk_usage(existing).free


def _parser(program: str = NAME) -> argparse.ArgumentParser:
    about = "Build node bundles and guest images, and keep them in a cache."
    parser = Parser(program=program, prog=f"{NAME} bundle", description=about)
    commands = parser.add_commands(required=True, metavar="command", dest="command")
    build = commands.add_parser(
        "build", help="build the artifacts that are not in the cache, and list the paths of all"
    )
    build.set_defaults(run=_build, check=False, if_able=False, if_cached=False)
    refresh = commands.add_parser(
        "refresh", help="as build, with the versions that Debian's packages have today, security updates among them"
    )
    refresh.set_defaults(run=_refresh, check=False, if_able=False, if_cached=False)
    command = commands.add_parser("ensure", help="as build, for programs: print the paths as JSON")
    command.set_defaults(run=_ensure)
    for one in (build, refresh, command):
        _add_choice(one)
        one.add_argument(
            "--progress",
            choices=("text", "json"),
            default="text",
            help="format of the progress on stderr; json: one object per line [Q8S_PROGRESS]",
        )
    command.add_argument(
        "--check",
        action="store_true",
        help="build and download nothing: list the missing artifacts, and print the paths of the others",
    )
    command.add_argument(
        "--if-able",
        action="store_true",
        help="if this machine cannot build what is missing, list it as --check does, and do not fail [Q8S_IF_ABLE]",
    )
    command.add_argument(
        "--if-cached",
        action="store_true",
        help="if something is missing, list it as --check does, and build nothing [Q8S_IF_CACHED]",
    )
    shown = commands.add_parser("list", help="list what is in the cache: size, age, and whether current recipes use it")
    shown.set_defaults(run=_list)
    shown.add_argument("--json", action="store_true", help="JSON on stdout [Q8S_JSON]")
    pruned = commands.add_parser(
        "prune", help="remove from the cache what current recipes do not use, and what killed builds left"
    )
    pruned.set_defaults(run=_prune)
    pruned.add_argument(
        "--keep-days",
        type=float,
        default=14.0,
        metavar="DAYS",
        help="keep what was used within this number of days (default 14) [Q8S_KEEP_DAYS]",
    )
    pruned.add_argument("--check", action="store_true", help="show what would be removed, and remove nothing")
    packed = commands.add_parser("pack", help="write this program to an archive, for a build on another machine")
    packed.set_defaults(run=_pack)
    packed.add_argument("file", type=Path, help="the archive to write (tar, compressed with gzip)")
    verified = commands.add_parser("verify", help="compare every cached artifact with its recorded checksum")
    verified.set_defaults(run=_verify)
    return parser


def _add_choice(command: argparse.ArgumentParser) -> None:
    """Add the options that select the artifacts and their sources."""
    for name, help_text in _ARCHITECTURE_OPTIONS.items():
        command.add_argument(
            f"--{name}", action="append", default=[], choices=sorted(versions.ARCHITECTURES), help=help_text
        )
    command.add_argument(
        "--kubernetes",
        choices=list(minors.MINORS),
        default=versions.KUBERNETES,
        help=f"version of Kubernetes (default {versions.KUBERNETES}) [Q8S_KUBERNETES]",
    )
    command.add_argument(
        "--addon",
        action="append",
        default=[],
        choices=sorted(addons.ADDONS),
        help="an add-on, whose container image is built for the architectures of control planes [Q8S_ADDON]",
    )
    command.add_argument(
        "--source",
        choices=node.CHOICES,
        default="auto",
        help="origin of the programs. auto (the default): what is cached, else upstream's release if upstream can be "
        "reached, else a build from Go modules. upstream: the release of every program whose checksum is pinned, or "
        "a failure. source: a build of all [Q8S_SOURCE]",
    )
    command.add_argument(
        "--image",
        action="append",
        default=[],
        type=_cloud_image,
        metavar="ARCH,URL,CHECKSUM",
        help="build the guest image of an architecture from this cloud image of Debian or Ubuntu instead of Debian's "
        "packages. URL is an https URL or the path of a file; CHECKSUM is sha256:HEX or sha512:HEX [Q8S_IMAGE]",
    )


def _choice(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> artifacts.Choice:
    """Return the artifacts that the arguments select."""
    images = dict(arguments.image)
    if unused := sorted(set(images) - set(arguments.arch)):
        parser.error(f"--image is for {', '.join(unused)}, which no --arch names")
    if arguments.addon and not arguments.control_plane:
        parser.error("--addon needs a --control-plane, which runs it")
    return artifacts.Choice(
        _unique(arguments.arch),
        _unique(arguments.control_plane),
        arguments.source,
        images,
        benches=_unique(arguments.bench),
        kubernetes=arguments.kubernetes,
        addons=_unique(arguments.addon),
        conformances=_unique(arguments.conformance),
        tests=_unique(arguments.tests),
    )


def _ensure(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Build the missing artifacts (not with --check), and print the paths of all as JSON."""
    return _obtain(parser, arguments, argv, lambda answer: print(json.dumps(answer, indent=2, sort_keys=True)))


def _build(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Build the missing artifacts, and print all as a table. The default architectures are those of the demo."""
    chosen = ("arch", "control_plane", "bench", "conformance", "tests")
    if not any(getattr(arguments, name) for name in chosen):
        arguments.arch, arguments.control_plane = sorted(versions.ARCHITECTURES), ["x86_64"]
    return _obtain(parser, arguments, argv, _show_artifacts)


def _refresh(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Build everything that contains Debian's packages again. If that fails, the earlier artifacts remain in use."""
    generation, code = datetime.now(UTC).isoformat(), _FAILED
    try:
        # The generation is in the environment until everything is built: a process that is killed changes nothing.
        # In a user namespace, the command that runs again is therefore `build`.
        with cache.building_generation(generation):
            code = _build(parser, arguments, ["build", *argv[1:]])
        if code == _DONE:
            cache.set_generation(generation)
    finally:
        if code != _DONE:
            say("nothing was refreshed: deploys use what was built before")
    return code


def _show_artifacts(answer: Mapping[str, Any]) -> None:
    rows = [(name, size(made["size"]), made["path"]) for name, made in sorted(answer["artifacts"].items())]
    print("\n".join(table(["ARTIFACT", "SIZE", "FILE"], rows)))


def _obtain(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    argv: Sequence[str],
    show: Callable[[Mapping[str, Any]], None],
) -> int:
    """Look the artifacts up in the cache, build the missing ones unless this is a check, and show the result."""
    choice = _choice(parser, arguments)
    with minors.selected(choice.kubernetes), cache.recording() as used:
        answer = artifacts.look_up(choice)
        looks_only = (
            arguments.check
            or (arguments.if_able and answer["obstacles"])
            or (arguments.if_cached and answer["missing"])
        )
        if not looks_only:
            if answer["missing"]:
                if namespace.needed():  # run the command again in a user namespace, where it has the rights for a build
                    artifacts.require_ability(choice, answer["missing"])
                    return namespace.run(argv)
                answer = artifacts.ensure(choice, answer["missing"])
            cache.mark_used(used)
    show(answer)
    return _DONE


def _list(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """List the entries of the cache."""
    with muted():
        found = contents.entries()
    if arguments.json:
        print(json.dumps([_data(entry) for entry in found], indent=2))
        return _DONE
    rows = [(entry.kind, entry.name, size(entry.size), age(entry.unused_seconds), _use(entry)) for entry in found]
    print("\n".join(table(["KIND", "ENTRY", "SIZE", "LAST USED", "CURRENT"], rows)))
    unused = sum(entry.size for entry in found if entry.current is False)
    whole = sum(entry.size for entry in found)
    print(f"{cache.cache_root()}: {size(whole)}, of which current recipes do not use {size(unused)}")
    return _DONE


def _prune(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Remove unused entries and what killed builds left from the cache, and list them."""
    if not arguments.check and namespace.needed() and contents.needs_namespace() and namespace.refusal() is None:
        return namespace.run(argv)
    with muted():
        removed = contents.prune(arguments.keep_days, check=arguments.check)
    rows = [(entry.kind, entry.name, size(entry.size), age(entry.unused_seconds)) for entry in removed]
    if rows:
        print("\n".join(table(["KIND", "ENTRY", "SIZE", "LAST USED"], rows)))
    done = "would be removed" if arguments.check else "removed"
    print(f"{len(removed)} entries {done}, {size(sum(entry.size for entry in removed))}")
    return _DONE


def _verify(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Verify every artifact. Return 1 if one is damaged."""
    good = bad = 0
    for checked in contents.verify():
        if checked.problem:
            bad += 1
            print(f"error: {checked.path}: {checked.problem}", file=sys.stderr)
        else:
            good += 1
    print(f"{good} artifacts are intact, {bad} are damaged")
    if bad:
        print("hint: remove the folder of each damaged file; the next build creates it again", file=sys.stderr)
    return _FAILED if bad else _DONE


def _pack(parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write the archive of this package, and print its path and checksum as JSON."""
    print(json.dumps({"path": str(arguments.file), "sha256": pack.write_sources(arguments.file)}))
    return _DONE


def _data(entry: contents.Entry) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "path": str(entry.path),
        "size": entry.size,
        "unused_seconds": round(entry.unused_seconds),
        "current": entry.current,
    }


def _use(entry: contents.Entry) -> str:
    return {True: "yes", False: "no", None: "-"}[entry.current]


def size(number: float) -> str:
    """Format a number of bytes: ``171 MB``, ``1.2 GB``."""
    if number >= 1e9:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.0f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def age(seconds: float) -> str:
    """Format a time in the past: ``5 min ago``, ``3 h ago``, ``12 days ago``."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min ago"
    return f"{seconds / 3600:.0f} h ago" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days ago"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns are as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (heads, *rows)]


def _cloud_image(text: str) -> tuple[str, CloudImage]:
    try:
        return cloud.parse(text)
    except ValueError:
        known = ", ".join(sorted(versions.ARCHITECTURES))
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ARCH,URL,CHECKSUM: one of {known}; https://… or /…; sha256:HEX or sha512:HEX"
        ) from None


def _unique(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))
