"""``q8s-run lab``: the command line."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from lab import control, hosts
from lab.errors import LabError
from lab.machine import MachineError
from lab.settings import CLOUD_NAME, Settings, load

_VERBS: Final = {"up": "start", "down": "end", "status": "look at", "reset": "clean up after", "host": "use"}


def main(argv: Sequence[str]) -> int:
    """Run ``lab ...``; gives the exit code (0 done, 1 failed, 2 wrong arguments, 130 interrupted)."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load()
        return int(arguments.run(settings, arguments))
    except LabError as error:
        print(error, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.code
    except (MachineError, OSError, subprocess.CalledProcessError) as error:
        print(f"Failed to {_VERBS[arguments.command]} the lab: {_why(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was started is ended", file=sys.stderr)
        return 130


def _why(error: Exception) -> str:
    """What a program said, and not only how it was called."""
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
        return f"{error.cmd[0]}: {said.strip()[-800:]}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="q8s-run lab", description="A real OpenStack on this machine (root).")
    commands = parser.add_subparsers(required=True, metavar="up|down|status|reset|host", dest="command")
    commands.add_parser("up", help="start it").set_defaults(run=_up)
    commands.add_parser("down", help="end it, and leave the machine as it was").set_defaults(run=_down)
    status = commands.add_parser("status", help="what runs")
    status.add_argument("--json", action="store_true", help="JSON on stdout [Q8S_JSON]")
    status.set_defaults(run=_status)
    commands.add_parser("reset", help="clean up after a lab that crashed").set_defaults(run=_down)
    host = commands.add_parser("host", help="one host without OpenStack, for a role's developer")
    host.add_argument("action", choices=("up", "down"))
    host.add_argument("name")
    host.add_argument("--ip", type=ipaddress.IPv4Address, help="its address; without it, a free one [Q8S_IP]")
    host.add_argument("--key", type=Path, help="file with the public key that may log in as debian [Q8S_KEY]")
    host.add_argument("--memory", type=int, default=4096, metavar="MB", help="its limit [Q8S_MEMORY]")
    host.set_defaults(run=_host)
    return parser


def _up(settings: Settings, arguments: argparse.Namespace) -> int:
    # a terminal that is closed, or a supervisor: the same way out as Ctrl-C
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    control.up(settings)
    print(f"export OS_CLIENT_CONFIG_FILE={settings.clouds_yaml} OS_CLOUD={CLOUD_NAME}")
    return 0


def _down(settings: Settings, arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError("Failed to end the lab: only root may", hint="run it as root")
    control.down(settings)
    control.say("down; nothing of it is left")
    return 0


def _status(settings: Settings, arguments: argparse.Namespace) -> int:
    state = control.status(settings)
    if arguments.json:
        print(json.dumps(state, indent=2))
        return 0
    if not state["since"]:
        print("the lab is down" if not state["services"] else "the lab is not ready: it is being started or ended")
        return 0
    print(f"up since {state['since']}: {', '.join(state['services'])}")
    if state["ended"]:
        print(f"ended by itself: {', '.join(state['ended'])} (`q8s-run lab reset` cleans up)")
    for machine in state["machines"]:
        print(f"{machine['host']:<32} {machine['address']:<16} {'running' if machine['running'] else 'stopped'}")
    if state["hollow"]:
        print(f"and {state['hollow']} hollow servers, with no machine behind them")
    return 0


def _host(settings: Settings, arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError(f"Failed to take the host {arguments.action}: only root may", hint="run it as root")
    if arguments.action == "down":
        hosts.down(settings, arguments.name)
        return 0
    if arguments.key is None:
        raise LabError("Failed to start a host: --key is needed")
    host = hosts.up(settings, arguments.name, arguments.ip, arguments.key, arguments.memory)
    print(json.dumps(asdict(host)))
    return 0
