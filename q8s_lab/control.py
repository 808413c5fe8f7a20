"""Start and stop the lab, and report its status."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from q8s_lab import environment, firewall, image, locks, network, package_proxy, processes, seed, servers, services
from q8s_lab.configuration import Secrets
from q8s_lab.errors import LabError
from q8s_lab.hollow import Hollow
from q8s_lab.machine import read
from q8s_lab.private_file import open_private
from q8s_lab.settings import CLOUD_NAME, REGION, Settings
from q8s_lab.vm import VirtualMachine

_PROGRAMS = {
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
    "systemd-nspawn": "systemd-container",
    "iptables-restore": "iptables",
    "mmdebstrap": "mmdebstrap",
    "apt-cacher-ng": "apt-cacher-ng",
    "genisoimage": "genisoimage",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
}
_MEGABYTES_NEEDED = 3072


def up(settings: Settings) -> None:
    """Start the lab, unless it runs.

    :raises LabError: a prerequisite is missing, or a service did not start; everything is stopped again
    """
    _check_machine(settings)
    with _alone(settings):
        state = status(settings)
        if state["since"] and state["services"] and state["ended"]:
            raise LabError(
                f"Failed to start the lab: it is up since {state['since']}, but {', '.join(state['ended'])} exited",
                hint="`q8s-run lab reset` removes it together with its servers; then start it again",
            )
        if state["since"] and state["services"]:
            say(f"the lab is up already, since {state['since']} ({settings.folder})")
            return
        if any(settings.folder.iterdir()):
            say("cleaning up after a lab that did not stop cleanly")
            _down(settings)
    # _down removed the folder and with it the lock
    with _alone(settings):
        _up(settings)


def _up(settings: Settings) -> None:
    """Start the lab. On a failure, stop everything again. The caller holds the lock."""
    begin = time.monotonic()
    try:
        with step("OpenStack's programs"):
            programs, _ = environment.ensure()
        with step("host image"):
            picture, _ = image.ensure()
        settings.folder.chmod(0o700)
        passwords = Secrets.new()
        lab = services.Services(settings, programs, passwords)
        network.hold_kernel_settings(settings.folder)
        lab.check_ports()
        lab.configure()
        with step("network"):
            network.bridge_up(settings)
            network.floating_up(settings)
            package_proxy.start(settings)
        with step("database"):
            lab.start_database()
            lab.first_user()
        with step("keystone, glance, placement, neutron"):
            lab.start(["keystone", "glance", "placement", "neutron"])
        with step("users, network, image"):
            projects = seed.identity(settings, passwords)
            with ThreadPoolExecutor(2) as pool:
                nova = pool.submit(lab.start, ["nova"])
                seed.resources(settings, passwords, picture)
                nova.result()
        with step("nova's flavors"):
            seed.flavors(settings, passwords, projects)
            _write_firewall_auth(settings, passwords)
            lab.start_helper("firewall", [sys.executable, "-m", "q8s_lab.firewall"])
    except BaseException:
        # Ignore a second Ctrl-C, which would interrupt the cleanup.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        say("failed: stopping what was started")
        _down(settings)
        raise
    (settings.folder / "since").write_text(time.strftime("%Y-%m-%d %H:%M:%S"))
    say(f"ready in {time.monotonic() - begin:.1f} s")


def down(settings: Settings) -> None:
    """Stop the lab and restore the machine: remove servers, services, bridge, firewall rules, kernel settings, files.

    This also cleans up after a lab that crashed: no step needs a service that answers.

    :raises LabError: another process starts or stops the lab
    """
    with _alone(settings):
        _down(settings)


def _down(settings: Settings) -> None:
    """Stop the lab. The caller holds the lock."""
    for folder in sorted(settings.machines.glob("*")):
        servers.remove(folder)
    services.stop_all(settings)
    firewall.remove(settings.bridge)
    network.bridge_down(settings)
    network.release_kernel_settings(settings.folder)
    shutil.rmtree(settings.folder, ignore_errors=True)


def status(settings: Settings) -> dict[str, Any]:
    """Return the state of the lab: running services with their process ids, services that exited, and servers."""
    since = settings.folder / "since"
    machines = [
        {
            "host": server.spec.hostname,
            "kind": servers.VM if isinstance(server, VirtualMachine) else servers.CONTAINER,
            "address": server.spec.address,
            "memory": server.spec.memory,
            "running": server.running(),
        }
        for server in servers.with_machines(settings.machines)
    ]
    return {
        "folder": str(settings.folder),
        "since": read(since) or None,
        "services": processes.running(settings),
        "ended": processes.ended(settings),
        "machines": machines,
        "hollow": sum(Hollow(folder).exists for folder in settings.machines.glob("*")),
        "clouds_yaml": str(settings.clouds_yaml),
        "cloud": CLOUD_NAME,
    }


def say(text: str) -> None:
    """Print a line of progress to stderr."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print the duration of the context."""
    begin = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begin:.1f} s")


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the lab's lock within the context.

    :raises LabError: another process starts or stops the lab
    """
    try:
        with locks.locked(settings.folder, wait=False):
            yield
    except BlockingIOError:
        raise LabError(
            f"Failed to work on the lab in {settings.folder}: another `q8s-run lab` is starting or stopping it",
            hint="wait until it has finished",
        ) from None


def _check_machine(settings: Settings) -> None:
    """Check that the lab can run on this machine.

    :raises LabError: the user is not root, or a device, disk space or a package is missing
    """
    if os.geteuid() != 0:
        raise LabError(
            "Failed to start the lab: it creates machines and a bridge, which needs root", hint="run it as root"
        )
    if not Path("/dev/net/tun").exists():
        raise LabError("Failed to start the lab: /dev/net/tun is missing, and emulated guests need it")
    place = next(path for path in (settings.folder, *settings.folder.parents) if path.exists())
    free = shutil.disk_usage(place).free // 2**20
    if free < _MEGABYTES_NEEDED:
        raise LabError(
            f"Failed to start the lab: {place} has {free} MB free, and it needs {_MEGABYTES_NEEDED} MB for services,"
            " image and the first servers",
            hint="make room, or choose another place with Q8S_LAB_DIR",
        )
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        raise LabError(
            f"Failed to start the lab: Debian packages are missing: {', '.join(missing)}", hint="run `make setup`"
        )


def _write_firewall_auth(settings: Settings, passwords: Secrets) -> None:
    """Write the credentials with which ``q8s_lab.firewall`` reads Neutron."""
    path = settings.folder / "etc" / "firewall.yaml"
    auth = {
        "auth_url": settings.url("keystone") + "/v3",
        "username": "neutron",
        "password": passwords.service,
        "project_name": "service",
        "user_domain_id": "default",
        "project_domain_id": "default",
    }
    with open_private(path) as stream:
        yaml.safe_dump({"auth": auth, "region_name": REGION}, stream)
