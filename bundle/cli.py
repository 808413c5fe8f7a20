"""The command line: make sure that artifacts are in the cache, and say where, as JSON."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from bundle import image, node
from bundle.cache import Artifact
from bundle.errors import BundleError
from bundle.image import cloud
from bundle.image.cloud import CloudImage
from bundle.node import versions
from bundle.progress import say

_DONE: Final = 0
_FAILED: Final = 1
_INTERRUPTED: Final = 130


def main(argv: Sequence[str]) -> int:
    """Run ``bundle ...``; gives the exit code (0 done, 1 failed, 2 wrong arguments, 130 interrupted)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    images = dict(arguments.image)
    if unused := sorted(set(images) - set(arguments.arch)):
        parser.error(f"--image is of {', '.join(unused)}, and no --arch is")
    # Ended politely, we clean up as after Ctrl-C: a containerd may be running for us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        answer = ensure(_unique(arguments.arch), _unique(arguments.control_plane), arguments.source, images)
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
    supply = node.Supply(source)
    artifacts: dict[str, Artifact] = {}
    cmdlines: dict[str, str] = {}
    sources: dict[str, object] = {}
    changed = False
    for name in control_planes:
        made = node.ensure_control_plane(versions.ARCHITECTURES[name], supply)
        artifacts[f"control-plane-{name}"] = made.bundle
        sources[f"control-plane-{name}"] = made.origins
        changed |= made.changed
    for name in workers:
        made = node.ensure_worker(versions.ARCHITECTURES[name], supply)
        artifacts[f"bundle-{name}"] = made.bundle
        sources[f"bundle-{name}"] = made.origins
        changed |= made.changed
        cloud_image = images.get(name)
        guest = image.ensure(name, cloud_image)
        artifacts |= {f"root-{name}": guest.root, f"kernel-{name}": guest.kernel, f"initrd-{name}": guest.initrd}
        cmdlines[name] = guest.cmdline
        sources[f"image-{name}"] = cloud_image.url if cloud_image else "source"
        changed |= guest.changed
    return {
        "changed": changed,
        "kubernetes_version": f"v{versions.KUBERNETES}",
        "source": sources,
        "cmdlines": cmdlines,
        "pod_images": node.POD_IMAGES,
        "artifacts": {
            name: {"path": str(artifact.path), "sha256": artifact.sha256, "size": artifact.size}
            for name, artifact in artifacts.items()
        },
    }
