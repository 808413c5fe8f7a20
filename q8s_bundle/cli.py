"""The command line of ``q8s-run bundle``: build artifacts, and list, prune and verify the cache."""

from __future__ import annotations

import argparse
import fcntl
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from q8s_bundle import (
    addons,
    bench,
    cache,
    conformance,
    contents,
    image,
    namespace,
    node,
    pack,
    pod_image,
    requirements,
)
from q8s_bundle.errors import BundleError
from q8s_bundle.image import cloud
from q8s_bundle.image.cloud import CloudImage
from q8s_bundle.node import images as node_images
from q8s_bundle.node import minors, versions
from q8s_bundle.progress import Part, building, end_running, muted, say, use_json

_DONE: Final = 0
_FAILED: Final = 1
_INTERRUPTED: Final = 130

_SUFFIXES: Final = {
    "root": ".qcow2",
    "bundle": ".qcow2",
    "bench": ".tar.gz",
    "addon": ".tar.gz",
    "conformance": ".tar.gz",
}  # by the part of an artifact's name before the first hyphen


@dataclass(frozen=True)
class Choice:
    """The artifacts to build.

    :param workers: architectures of workers
    :param control_planes: architectures of control planes
    :param source: where programs are from: auto, upstream or source
    :param images: cloud images from which guest images are built, by architecture; Debian's packages for all others
    :param benches: architectures of the container image with measuring tools
    :param kubernetes: version of Kubernetes
    :param addons: names of add-ons, whose container images are built for the architectures of control planes
    :param conformances: architectures of the images of Kubernetes' conformance tests
    :param tests: architectures of the program that runs these tests
    """

    workers: Sequence[str]
    control_planes: Sequence[str]
    source: node.Choice
    images: Mapping[str, CloudImage]
    benches: Sequence[str] = ()
    kubernetes: str = versions.KUBERNETES
    addons: Sequence[str] = ()
    conformances: Sequence[str] = ()
    tests: Sequence[str] = ()

    @property
    def node_names(self) -> list[str]:
        """Return the names of the bundles."""
        return [f"control-plane-{name}" for name in self.control_planes] + [f"bundle-{name}" for name in self.workers]

    @property
    def archives(self) -> dict[str, pod_image.Recipe | conformance.Tests]:
        """Return how each archive is made that is an artifact of its own: container images, and tests. By its name.

        :raises BundleError: the tests of this version of Kubernetes are not known
        """
        known = versions.ARCHITECTURES
        recipes: list[pod_image.Recipe | conformance.Tests] = [bench.recipe(known[name]) for name in self.benches]
        recipes += [
            addons.recipe(addons.ADDONS[name], known[architecture])
            for name in self.addons
            for architecture in self.control_planes
        ]
        if self.tests:
            conformance.require(self.kubernetes)
        recipes += [conformance.Tests(known[name]) for name in self.tests]
        for name in self.conformances:
            recipes += conformance.recipes(known[name], self.kubernetes)
        return {recipe.artifact: recipe for recipe in recipes}

    def supply(self) -> node.Supply:
        """Return where the bundles' programs are from."""
        return node.Supply(self.source, replaced=minors.MINORS[self.kubernetes].programs)


def main(argv: Sequence[str]) -> int:
    """Run ``bundle ...`` and return the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    namespace.end_with_parent()
    # Handle SIGTERM and SIGHUP like Ctrl-C, to clean up: a containerd may be running.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return int(arguments.run(parser, arguments, argv))
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return _FAILED
    except OSError as error:
        print(f"error: Failed to build the bundles: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        say("interrupted: finished artifacts are kept in the cache")
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="q8s-run bundle", description="Build node bundles and guest images, and keep them in a cache."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    build = commands.add_parser(
        "build", help="build the artifacts that are not in the cache, and list the paths of all"
    )
    build.set_defaults(run=_build, check=False, if_able=False)
    refresh = commands.add_parser(
        "refresh", help="as build, with the versions that Debian's packages have today, security updates among them"
    )
    refresh.set_defaults(run=_refresh, check=False, if_able=False)
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
    shown = commands.add_parser("list", help="list what is in the cache: size, age, and whether current recipes use it")
    shown.set_defaults(run=_list)
    shown.add_argument("--json", action="store_true", help="JSON on stdout [Q8S_JSON]")
    pruned = commands.add_parser("prune", help="remove from the cache what current recipes do not use")
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
    known = sorted(versions.ARCHITECTURES)
    command.add_argument(
        "--arch", action="append", default=[], choices=known, help="an architecture of emulated workers [Q8S_ARCH]"
    )
    command.add_argument(
        "--control-plane",
        action="append",
        default=[],
        choices=known,
        help="an architecture of control planes [Q8S_CONTROL_PLANE]",
    )
    command.add_argument(
        "--bench",
        action="append",
        default=[],
        choices=known,
        help="an architecture of the container image with the tools of q8s-run bench [Q8S_BENCH]",
    )
    command.add_argument(
        "--conformance",
        action="append",
        default=[],
        choices=known,
        help="an architecture of the container images of Kubernetes' conformance tests [Q8S_CONFORMANCE]",
    )
    command.add_argument(
        "--tests",
        action="append",
        default=[],
        choices=known,
        help="an architecture of the program that runs Kubernetes' conformance tests [Q8S_TESTS]",
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


def _choice(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Choice:
    """Return the artifacts that the arguments select."""
    images = dict(arguments.image)
    if unused := sorted(set(images) - set(arguments.arch)):
        parser.error(f"--image is for {', '.join(unused)}, which no --arch names")
    if arguments.addon and not arguments.control_plane:
        parser.error("--addon needs a --control-plane, which runs it")
    return Choice(
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
    before, code = cache.generation(), _FAILED
    cache.set_generation(datetime.now(UTC).isoformat())
    try:
        # In a user namespace, the command that runs again is `build`: the generation has begun.
        code = _build(parser, arguments, ["build", *argv[1:]])
    finally:
        if code != _DONE:
            cache.set_generation(before)
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
    if arguments.progress == "json":
        use_json()
    with minors.selected(choice.kubernetes):
        answer = look_up(choice)
        if not (arguments.check or (arguments.if_able and answer["obstacles"])):
            if answer["missing"]:
                if namespace.needed():  # run the command again in a user namespace, where it has the rights for a build
                    _require_ability(choice, answer["missing"])
                    return namespace.run(argv)
                answer = ensure(choice, answer["missing"])
            cache.mark_used()
    show(answer)
    return _DONE


def _require_ability(choice: Choice, missing: Sequence[str]) -> None:
    """Check that this machine can build the missing artifacts, before a build that would fail after minutes.

    :raises BundleError: this machine cannot build; the message lists everything that is missing
    """
    if found := requirements.obstacles(missing, choice.images):
        raise requirements.explain(found, missing)


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
    """Remove unused entries from the cache, and list them."""
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


def ensure(choice: Choice, missing: Sequence[str]) -> dict[str, Any]:
    """Build the missing artifacts.

    :param missing: names of the missing artifacts
    :returns: all artifacts, in the form that ``bundle ensure`` prints
    :raises BundleError: this machine cannot build, or a build failed
    """
    _require_ability(choice, missing)
    parts = {name: Part(name, number, len(missing)) for number, name in enumerate(missing, 1)}
    # Run both concurrently: mmdebstrap uses one core, and Go builds do not use all cores all the time.
    with cache.locked(cache.builds_lock(), fcntl.LOCK_SH):
        programs, guests = _side_by_side(lambda: _nodes(choice, parts), lambda: _guests(choice, parts))
        pods = _archives(choice, parts)
    return _answer(choice, programs, guests, pods)


def look_up(choice: Choice) -> dict[str, Any]:
    """Look the artifacts up in the cache, without building any.

    :returns: as ``ensure``. For artifacts that are not cached, ``missing`` has the names, and ``sha256`` is
        ``missing``. ``obstacles`` has the reasons why this machine cannot build them
    """
    supply = choice.supply()
    programs: dict[str, node.NodeArtifacts] = {}
    guests: dict[str, image.ImageArtifacts] = {}
    pods: dict[str, pod_image.PodImage] = {}
    nowhere = cache.Artifact(Path(), "missing", 0)
    missing = []
    with cache.looking_only():
        for name in choice.node_names:
            try:
                programs[name] = _node(name, supply)
            except cache.NotCachedError:
                missing.append(name)
                programs[name] = node.NodeArtifacts(nowhere, True, {})
        for name in choice.workers:
            try:
                guests[name] = image.ensure(name, choice.images.get(name))
            except cache.NotCachedError:
                missing.append(f"image-{name}")
                guests[name] = image.ImageArtifacts(nowhere, nowhere, nowhere, "", True)
        for name, recipe in choice.archives.items():
            try:
                pods[name] = conformance.ensure(recipe)
            except cache.NotCachedError:
                missing.append(name)
                pods[name] = pod_image.PodImage(nowhere, recipe.name, True)
    found = requirements.obstacles(missing, choice.images)
    obstacles = [{"reason": obstacle.reason, "hint": obstacle.hint} for obstacle in found]
    return {**_answer(choice, programs, guests, pods), "missing": missing, "obstacles": obstacles}


def _answer(
    choice: Choice,
    programs: Mapping[str, node.NodeArtifacts],
    guests: Mapping[str, image.ImageArtifacts],
    pods: Mapping[str, pod_image.PodImage],
) -> dict[str, Any]:
    """Return the artifacts in the form that ``bundle ensure`` prints."""
    artifacts = {name: made.bundle for name, made in programs.items()}
    sources: dict[str, object] = {name: made.origins for name, made in programs.items()}
    for name, guest in guests.items():
        artifacts |= {f"root-{name}": guest.root, f"kernel-{name}": guest.kernel, f"initrd-{name}": guest.initrd}
        sources[f"image-{name}"] = choice.images[name].url if name in choice.images else "source"
    artifacts |= {name: made.archive for name, made in pods.items()}
    changed = [made.changed for made in programs.values()]
    changed += [made.changed for made in guests.values()] + [made.changed for made in pods.values()]
    return {
        "changed": any(changed),
        "kubernetes_version": f"v{versions.KUBERNETES}",
        "source": sources,
        "cmdlines": {name: guest.cmdline for name, guest in guests.items()},
        "pod_images": node_images.BY_PURPOSE,
        "bench_images": {name: pods[f"bench-{name}"].name for name in choice.benches},
        "conformance_images": {
            architecture: [
                {"name": recipe.name, "artifact": recipe.artifact}
                for recipe in conformance.recipes(versions.ARCHITECTURES[architecture], choice.kubernetes)
            ]
            for architecture in choice.conformances
        },
        "addon_images": {name: addons.ADDONS[name].image for name in choice.addons},
        "artifacts": {
            name: {
                "path": str(artifact.path),
                "name": served_name(name, artifact.sha256),
                "sha256": artifact.sha256,
                "size": artifact.size,
            }
            for name, artifact in artifacts.items()
        },
        "missing": [],
    }


def served_name(name: str, sha256: str) -> str:
    """Return the file name of an artifact on the initial control plane and on hosts. It changes with the content.

    Disks need a suffix: where AppArmor confines libvirt, virt-aa-helper may not read a backing file without one.
    """
    kind = name.partition("-")[0]
    return f"{name}-{sha256[:12]}{_SUFFIXES.get(kind, '')}"


def _nodes(choice: Choice, parts: Mapping[str, Part]) -> dict[str, node.NodeArtifacts]:
    """Build the bundles, and return them by name."""
    supply = choice.supply()
    made = {}
    for name in choice.node_names:
        with building(parts[name]) if name in parts else nullcontext():
            made[name] = _node(name, supply)
    return made


def _node(name: str, supply: node.Supply) -> node.NodeArtifacts:
    """Build a bundle by its name, ``control-plane-ARCH`` or ``bundle-ARCH``, if it is not cached."""
    kind, _, architecture = name.rpartition("-")
    build = node.ensure_control_plane if kind == "control-plane" else node.ensure_worker
    return build(versions.ARCHITECTURES[architecture], supply)


def _guests(choice: Choice, parts: Mapping[str, Part]) -> dict[str, image.ImageArtifacts]:
    """Build the guest images, and return them by architecture."""
    made = {}
    for name in choice.workers:
        with building(parts[f"image-{name}"]) if f"image-{name}" in parts else nullcontext():
            made[name] = image.ensure(name, choice.images.get(name))
    return made


def _archives(choice: Choice, parts: Mapping[str, Part]) -> dict[str, pod_image.PodImage]:
    """Build the archives that are artifacts of their own, and return them by the artifacts' names."""
    made = {}
    for name, recipe in choice.archives.items():
        with building(parts[name]) if name in parts else nullcontext():
            made[name] = conformance.ensure(recipe)
    return made


def _side_by_side[A, B](one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """Run two functions concurrently and return both results.

    If one fails, or on Ctrl-C, stop the tools of the other, and raise the error after they have exited.
    """
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(one), pool.submit(other)
        both: list[Future[Any]] = [first, second]
        try:
            for future in as_completed(both):
                future.result()
        except BaseException:
            while wait(both, timeout=1).not_done:
                end_running()
            raise
        return first.result(), second.result()
