"""The command line of ``q8s-run lab``."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from q8s_bundle import search_path
from q8s_bundle.parser import NAME, Parser
from q8s_lab import cloud_image, control, hosts, images, servers
from q8s_lab.errors import LabError, WrongArgumentsError
from q8s_lab.machine import MachineError
from q8s_lab.settings import CLOUD_NAME, Settings, load

_IMAGES: Final = cloud_image.STOCK_NAMES
_LEAST_MEMORY: Final = 256  # MB: systemd and sshd
_VERBS: Final = {
    "up": "start",
    "down": "stop",
    "status": "show the status of",
    "reset": "clean up after",
    "host": "use",
    "image": "use",
}


def main(argv: Sequence[str], program: str = NAME) -> int:
    """Run ``lab ...`` and return the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted.

    :param program: the name of q8s-run as the user typed it
    """
    search_path.complete_own()
    arguments = _parser(program).parse_args(argv)
    try:
        settings = load()
        return int(arguments.run(settings, arguments))
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.code
    except (MachineError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: Failed to {_VERBS[arguments.command]} the lab: {_why(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the processes that it started were stopped", file=sys.stderr)
        return 130


def _why(error: Exception) -> str:
    """Format an error. For a failed program, use its error output instead of its command line."""
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
        return f"{error.cmd[0]}: {said.strip()[-800:]}"
    return str(error)


def _parser(program: str = NAME) -> argparse.ArgumentParser:
    parser = Parser(program=program, prog=f"{NAME} lab", description="A real OpenStack on this machine (root).")
    commands = parser.add_commands(required=True, metavar="up|down|status|reset|image|host", dest="command")
    commands.add_parser("up", help="start it").set_defaults(run=_up)
    commands.add_parser("down", help="stop it, and restore the machine to its previous state").set_defaults(run=_down)
    status = commands.add_parser("status", help="show what is running")
    status.add_argument("--json", action="store_true", help="JSON on stdout [Q8S_JSON]")
    status.set_defaults(run=_status)
    commands.add_parser("reset", help="clean up after a lab that crashed").set_defaults(run=_down)
    _add_image(commands)
    host = commands.add_parser("host", help="start or stop one host without OpenStack, to develop roles on")
    host.add_argument("action", choices=("up", "down"))
    host.add_argument("name", type=_host_name)
    host.add_argument("--ip", type=ipaddress.IPv4Address, help="its address (default: a free one) [Q8S_IP]")
    host.add_argument("--key", type=_public_key, help="file with the public key that may log in [Q8S_KEY]")
    host.add_argument(
        "--user", type=_user, default=hosts.USER, help=f"who may log in to a virtual machine (default {hosts.USER})"
    )
    host.add_argument(
        "--memory",
        type=_megabytes,
        default=4096,
        metavar="MB",
        help=f"its memory limit, at least {_LEAST_MEMORY} (default 4096) [Q8S_MEMORY]",
    )
    host.add_argument(
        "--machine",
        choices=(servers.CONTAINER, servers.VM),
        default=servers.CONTAINER,
        help="the kind of host: a container, or a virtual machine with its own kernel [Q8S_MACHINE]",
    )
    host.add_argument(
        "--image",
        default=_IMAGES[0],
        help="a virtual machine's image: a name that Q8S builds "
        f"({', '.join(_IMAGES)}; default {_IMAGES[0]}), or a file",
    )
    host.set_defaults(run=_host)
    return parser


def _host_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(
            f"is {text!r}; allowed are lower-case letters, digits and, inside, hyphens, at most 63 characters"
        )
    return text


def _user(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise argparse.ArgumentTypeError(
            f"is {text!r}; allowed are at most 32 lower-case letters, digits, _ and -, the first a letter or _"
        )
    return text


def _megabytes(text: str) -> int:
    if not text.isdecimal() or int(text) < _LEAST_MEMORY:
        raise argparse.ArgumentTypeError(f"is {text}; allowed is a whole number of at least {_LEAST_MEMORY} (MB)")
    return int(text)


def _public_key(text: str) -> Path:
    try:
        words = Path(text).read_text(errors="replace").split()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"is {text}: {error.strerror}") from None
    if len(words) < 2 or not words[0].startswith(("ssh-", "ecdsa-", "sk-")):
        raise argparse.ArgumentTypeError(f"is {text}, which has no public key as ssh-keygen writes it to KEY.pub")
    return Path(text)


def _add_image(commands: Any) -> None:
    image = commands.add_parser("image", help="disk images for virtual machines in the lab's cloud")
    actions = image.add_commands(required=True, metavar="add|list|remove", dest="action")
    add = actions.add_parser(
        "add",
        help="add an image, for servers of the flavors v1.*",
        description=f"Without FILE, NAME is one that Q8S builds: {', '.join(_IMAGES)}. With FILE, it is a cloud image "
        "with cloud-init, such as Ubuntu's, in the format qcow2 or raw.",
    )
    add.add_argument("name")
    add.add_argument("file", type=Path, nargs="?", metavar="FILE")
    add.add_argument("--uefi", action="store_true", help="boot FILE by UEFI (default: BIOS)")
    actions.add_parser("list", help="list the cloud's images")
    actions.add_parser("remove", help="remove an image").add_argument("name")
    image.set_defaults(run=_image)


def _up(settings: Settings, arguments: argparse.Namespace) -> int:
    # Handle a closed terminal (SIGHUP) and a supervisor (SIGTERM) like Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    control.up(settings)
    print(f"export OS_CLIENT_CONFIG_FILE={settings.clouds_yaml} OS_CLOUD={CLOUD_NAME}")
    return 0


def _down(settings: Settings, arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError("Failed to stop the lab: it needs root", hint="run it as root")
    control.down(settings)
    control.say("stopped; everything that it created was removed")
    return 0


def _status(settings: Settings, arguments: argparse.Namespace) -> int:
    state = control.status(settings)
    if arguments.json:
        print(json.dumps(state, indent=2))
        return 0
    if not state["since"]:
        print("the lab is down" if not state["services"] else "the lab is not ready: it is being started or stopped")
        return 0
    print(f"up since {state['since']}: {', '.join(state['services'])}")
    if state["ended"]:
        print(f"exited unexpectedly: {', '.join(state['ended'])} (`q8s-run lab reset` cleans up)")
    for machine in state["machines"]:
        print(f"{machine['host']:<32} {machine['address']:<16} {'running' if machine['running'] else 'stopped'}")
    if state["hollow"]:
        print(f"and {state['hollow']} hollow servers, with no machine behind them")
    return 0


def _image(settings: Settings, arguments: argparse.Namespace) -> int:
    cloud = images.Images(settings)
    if arguments.action == "add":
        added = cloud.add(arguments.name, images.find_disk(arguments.name, arguments.file, uefi=arguments.uefi))
        control.say(f"image {arguments.name} is {'added' if added else 'already there'}")
    elif arguments.action == "remove":
        cloud.remove(arguments.name)
    else:
        for image in cloud.list():
            print(f"{image.name:<24} {image.kind:<10} {image.megabytes:>6} MB  {image.firmware}".rstrip())
    return 0


def _host(settings: Settings, arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError(f"Failed to run lab host {arguments.action}: it needs root", hint="run it as root")
    if arguments.action == "down":
        if not hosts.down(settings, arguments.name):
            control.say(f"there is no host {arguments.name}")
        return 0
    if arguments.key is None:
        raise WrongArgumentsError(
            "Failed to start a host: --key is needed", hint="ssh-keygen -t ed25519 -f KEY writes KEY.pub"
        )
    if arguments.machine == servers.CONTAINER and arguments.user != hosts.USER:
        raise WrongArgumentsError(
            f"Failed to start a host: a container has the user {hosts.USER}, and --user is {arguments.user}",
            hint="--machine vm starts a host with any user",
        )
    order = hosts.Order(
        arguments.name,
        arguments.key,
        arguments.ip,
        arguments.memory,
        arguments.machine,
        arguments.image,
        arguments.user,
    )
    host = hosts.up(settings, order)
    print(json.dumps(asdict(host)))
    return 0
