"""The command ``init``, which writes a cluster file."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from q8s_wrapper import invocation, messages
from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.errors import ExitCode, WrapperError

if TYPE_CHECKING:
    from q8s_wrapper.init import Offer


def init(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write a cluster file from the networks, images and flavors of the cloud.

    :raises WrapperError: the file exists or cannot be written, or the cloud lacks what a cluster needs
    """
    from q8s_wrapper import init as files

    printed = arguments.file == "-"
    path = Path(arguments.file)
    if not printed and path.exists():
        raise WrapperError(
            f"Failed to write {path}: it exists already, and is left as it is",
            f"choose another name, or print the new one: {invocation.program()} init -",
            ExitCode.WRONG_INPUT,
        )
    name = arguments.name or re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "cluster"
    text = files.cluster_file(_query_offer(), name)
    if printed:
        print(text, end="")
        return ExitCode.DONE
    try:
        stream = path.open("x")
        try:
            with stream:
                stream.write(text)
        except BaseException:  # such as a full disk: the next init would refuse what is left
            path.unlink()
            raise
    except OSError as error:
        raise WrapperError(f"Failed to write {path}: {error.strerror}", code=ExitCode.WRONG_INPUT) from None
    messages.info(f"written: {path}")
    messages.info(f"next: {arguments.invocation.command('plan')}")
    return ExitCode.DONE


def _query_offer() -> Offer:
    """List the networks, images and flavors of the cloud.

    :raises WrapperError: the cloud does not answer
    """
    from q8s_wrapper import init as files

    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _cloud

    try:
        offer = _cloud.connect(os.environ.get("OS_CLOUD")).list_offer()
    except _cloud.CloudError as error:
        raise WrapperError(str(error)) from None
    networks = [
        files.Network(**{**network, "subnets": tuple(files.Subnet(**subnet) for subnet in network["subnets"])})
        for network in offer["networks"]
    ]
    images = [files.Image(**image) for image in offer["images"]]
    flavors = [files.Flavor(**flavor) for flavor in offer["flavors"]]
    return files.Offer(tuple(networks), tuple(images), tuple(flavors))
