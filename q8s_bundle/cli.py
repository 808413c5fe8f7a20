"""The command line: make sure that artifacts are in the cache, and say where, as JSON."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, Final

from q8s_bundle import cache, image, node
from q8s_bundle.errors import BundleError
from q8s_bundle.image import cloud
from q8s_bundle.image.cloud import CloudImage
from q8s_bundle.node import versions
from q8s_bundle.progress import end_running, say

_DONE: Final = 0
_FAILED: Final = 1
_INTERRUPTED: Final = 130

_SUFFIXES: Final = {"root": ".qcow2", "bundle": ".qcow2"}  # by the first word of an artifact's name


def main(argv: Sequence[str]) -> int:
    """Run ``bundle ...``; gives the exit code (0 done, 1 failed, 2 wrong arguments, 130 interrupted)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    images = dict(arguments.image)
    if unused := sorted(set(images) - set(arguments.arch)):
        parser.error(f"--image is of {', '.join(unused)}, and no --arch is")
    # Ended politely, or with its terminal, we clean up as after Ctrl-C: a containerd may be running for us.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    do = look_up if arguments.check else ensure
    try:
        answer = do(_unique(arguments.arch), _unique(arguments.control_plane), arguments.source, images)
    except BundleError as error:
        print(error, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return _FAILED
    except OSError as error:
        print(f"Failed to build the bundles: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        say("interrupted: what was finished is kept in the cache")
        return _INTERRUPTED
    print(json.dumps(answer, indent=2, sort_keys=True))
    return _DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="q8s-run bundle", description="Build what Q8S's nodes run, and keep it in a cache."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("ensure", help="build what is not in the cache; print where everything is, as JSON")
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
        "--source",
        choices=node.CHOICES,
        default="auto",
        help="of programs. auto (the default): what is cached, else upstream's release if upstream can be reached, "
        "else built from Go modules. upstream: the release of every program whose checksum is pinned, or a failure. "
        "source: all built [Q8S_SOURCE]",
    )
    command.add_argument(
        "--image",
        action="append",
        default=[],
        type=_cloud_image,
        metavar="ARCH,URL,CHECKSUM",
        help="make the guest image of an architecture from this cloud image of Debian or Ubuntu instead of Debian's "
        "packages. URL is https, or the path of a file; CHECKSUM is sha256:HEX or sha512:HEX [Q8S_IMAGE]",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="build and download nothing: list what is missing, and print where the rest is",
    )
    return parser


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


def ensure(
    workers: Sequence[str], control_planes: Sequence[str], source: node.Choice, images: Mapping[str, CloudImage]
) -> dict[str, object]:
    """Every artifact of these architectures, made where it is missing, in the form that the command prints."""
    # A bootstrap keeps one core busy, and builds not always all of them: side by side, both take less time.
    programs, guests = _side_by_side(
        lambda: _nodes(workers, control_planes, node.Supply(source)),
        lambda: [image.ensure(name, images.get(name)) for name in workers],
    )
    return _answer(workers, images, programs, dict(zip(workers, guests, strict=True)))


def look_up(
    workers: Sequence[str], control_planes: Sequence[str], source: node.Choice, images: Mapping[str, CloudImage]
) -> dict[str, object]:
    """The same of what is in the cache; for the rest, ``missing`` has names, and ``sha256`` is ``missing``."""
    supply = node.Supply(source)
    programs: dict[str, node.NodeArtifacts] = {}
    guests: dict[str, image.ImageArtifacts] = {}
    nowhere = cache.Artifact(Path(), "missing", 0)
    missing = []
    with cache.looking_only():
        for kind, names in (("control-plane", control_planes), ("bundle", workers), ("image", workers)):
            for name in names:
                try:
                    if kind == "image":
                        guests[name] = image.ensure(name, images.get(name))
                    else:
                        pair = ([name], []) if kind == "bundle" else ([], [name])
                        programs |= _nodes(*pair, supply)
                except cache.NotCachedError:
                    missing.append(f"{kind}-{name}")
                    if kind == "image":
                        guests[name] = image.ImageArtifacts(nowhere, nowhere, nowhere, "", True)
                    else:
                        programs[f"{kind}-{name}"] = node.NodeArtifacts(nowhere, True, {})
    return {**_answer(workers, images, programs, guests), "missing": missing}


def _answer(
    workers: Sequence[str],
    images: Mapping[str, CloudImage],
    programs: Mapping[str, node.NodeArtifacts],
    guests: Mapping[str, image.ImageArtifacts],
) -> dict[str, object]:
    artifacts = {name: made.bundle for name, made in programs.items()}
    sources: dict[str, object] = {name: made.origins for name, made in programs.items()}
    for name, guest in guests.items():
        artifacts |= {f"root-{name}": guest.root, f"kernel-{name}": guest.kernel, f"initrd-{name}": guest.initrd}
        sources[f"image-{name}"] = images[name].url if name in images else "source"
    return {
        "changed": any(made.changed for made in programs.values()) or any(guest.changed for guest in guests.values()),
        "kubernetes_version": f"v{versions.KUBERNETES}",
        "source": sources,
        "cmdlines": {name: guest.cmdline for name, guest in guests.items()},
        "pod_images": node.POD_IMAGES,
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
    """Return the file name of an artifact on the cluster's server and on hosts. It changes with the content.

    Disks need the suffix: where AppArmor confines libvirt, virt-aa-helper may read no backing file without one.
    """
    kind = name.partition("-")[0]
    return f"{name}-{sha256[:12]}{_SUFFIXES.get(kind, '')}"


def _nodes(workers: Sequence[str], control_planes: Sequence[str], supply: node.Supply) -> dict[str, node.NodeArtifacts]:
    """What nodes run, under the names that the command prints."""
    made = {}
    for name in control_planes:
        made[f"control-plane-{name}"] = node.ensure_control_plane(versions.ARCHITECTURES[name], supply)
    for name in workers:
        made[f"bundle-{name}"] = node.ensure_worker(versions.ARCHITECTURES[name], supply)
    return made


def _side_by_side[A, B](one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """What both give. A failure of one, or Ctrl-C, ends the other's tools, and is raised when these have ended."""
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
