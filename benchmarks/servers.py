"""How fast Q8S makes many servers, over the fastest way that the cloud itself has: both in one run, on one lab.

``python -m benchmarks.servers`` needs a lab that runs (``q8s-run lab up``), and makes hollow servers only, in the lab's
project without quota. The reference asks for servers like Q8S's (with the cluster's key, in its security group, with
user-data and metadata) with nothing but the API: one call for all of them (``min_count``), and calls side by side, 4, 8
and 16 at a time; the fastest of these counts. ``--bare`` leaves out what Q8S's servers need and a server need not have.
Q8S's time is that of its ``servers`` module and then its inventory, as a deploy runs them: a task of a playbook, and
``refresh_inventory``. Key pair and group are there before, in all cases.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import openstack
import yaml

from q8s_lab import settings
from q8s_wrapper.config import INVENTORY, REPOSITORY

_FLAVOR: Final = "hollow.small"
_REFERENCE: Final = (0, 4, 8, 16)
_SECONDS: Final = 1200
_NAME: Final = "bench"
_GROUP: Final = "q8s-cluster"
# Of a worker's host, as module_utils/_hostkeys.py makes them.
_USER_DATA_BYTES: Final = 1500
_METADATA: Final = 4


def main() -> int:
    """Run it; the table goes to stdout, what happens meanwhile to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=52, help="how many (default: 52)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each way is measured (default: 1)")
    parser.add_argument(
        "--reference",
        nargs="*",
        type=int,
        default=_REFERENCE,
        metavar="N",
        help="ways of the cloud's own: N calls side by side, or 0 for one call (default: 0 4 8 16; none: only Q8S)",
    )
    parser.add_argument("--bare", action="store_true", help="the cloud's own servers have an image and a network only")
    arguments = parser.parse_args()
    place = settings.load()
    os.environ |= {"OS_CLIENT_CONFIG_FILE": str(place.clouds_yaml), "OS_CLOUD": settings.SCALE_CLOUD_NAME}
    ways: dict[str, Callable[[Any, Cluster], float]] = {}
    for workers in arguments.reference:
        name = f"{workers} calls side by side" if workers else "one call, min_count"
        ways[name] = partial(_reference, workers, arguments.bare)
    ways["q8s"] = _q8s
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with openstack.connect() as cloud:
        order = deque(ways.items())
        for _ in range(arguments.rounds):
            for name, way in order:
                with _clean(cloud), _cluster(arguments.servers) as cluster:
                    _wait_until_idle()
                    load = os.getloadavg()[0]
                    seconds = way(cloud, cluster)
                    taken[name].append(seconds)
                    print(f"{name}: {seconds:.1f} s (load {load:.1f} before it)", file=sys.stderr, flush=True)
            order.rotate(-1)  # no way is always the last one, on a lab that the others have used
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(
        f"{arguments.servers} servers, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, median of {arguments.rounds}"
    )
    for name, seconds in medians.items():
        print(f"{name:<24} {seconds:7.1f} s")
    if arguments.reference:
        best = min(seconds for name, seconds in medians.items() if name != "q8s")
        print(f"{'q8s over the fastest':<24} {medians['q8s'] / best:7.2f}")
    return 0


@dataclass(frozen=True)
class Cluster:
    """A cluster of so many servers, whose file and playbook are in a folder."""

    servers: int
    folder: Path

    def play(self, tag: str) -> str:
        """Run the tasks with this tag; gives what Ansible says of them, as JSON."""
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("ansible-playbook"), "-i", INVENTORY, "--tags", tag),
                *("-e", f"q8s_cluster_file={self.folder / 'cluster.yaml'}", self.folder / "play.json"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                "Q8S_STATE": str(self.folder),
            },
        )
        if done.returncode != 0:
            raise SystemExit(f"ansible-playbook failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout


@contextmanager
def _cluster(count: int) -> Iterator[Cluster]:
    """Create a cluster's key pair and security group, without servers."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(count, Path(folder))
        fields = cluster_fields(_NAME, _FLAVOR, count - 1)
        (cluster.folder / "cluster.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
        (cluster.folder / "play.json").write_text(json.dumps(_playbook(cluster.folder)))
        cluster.play("before")
        yield cluster


def _wait_until_idle() -> None:
    """Wait, for at most a minute, until the machine has finished the work that the way before left."""
    for _ in range(20):
        before = cpu_seconds()
        time.sleep(3)
        if cpu_seconds() - before < 3 * 0.25 * (os.cpu_count() or 1):
            return


def cpu_seconds() -> float:
    """Return the CPU seconds of the whole machine: the first line of proc_stat(5), without idle and iowait."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _clean(cloud: Any) -> Iterator[None]:
    """Remove all servers, groups and key pairs when the context ends."""
    try:
        yield
    finally:
        servers = list(cloud.compute.servers())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda server: cloud.compute.delete_server(server, ignore_missing=True), servers))
        _until(lambda: not list(cloud.compute.servers(details=False)), "servers to go")
        for group in cloud.network.security_groups():
            if group.name != "default":
                cloud.network.delete_security_group(group)
        for pair in cloud.compute.keypairs():
            cloud.compute.delete_keypair(pair)


def _body(cloud: Any, bare: bool) -> dict[str, Any]:
    """Return the attributes of a new server."""
    body = {
        "image_id": cloud.image.find_image(settings.IMAGE_NAME, ignore_missing=False).id,
        "flavor_id": cloud.compute.find_flavor(_FLAVOR, ignore_missing=False).id,
        "networks": [{"uuid": cloud.network.find_network("private", ignore_missing=False).id}],
    }
    if bare:
        return body
    return {
        **body,
        "key_name": next(cloud.compute.keypairs()).name,
        "security_groups": [{"name": cloud.network.find_security_group(_GROUP, ignore_missing=False).id}],
        "user_data": base64.b64encode(b"#cloud-config\n".ljust(_USER_DATA_BYTES, b"#")).decode(),
        "metadata": {f"{_NAME}-{number}": _NAME for number in range(_METADATA)},
    }


def _reference(workers: int, bare: bool, cloud: Any, cluster: Cluster) -> float:
    """Create servers with so many concurrent calls, or with one call if that is 0. Return the seconds."""
    count = cluster.servers
    create = partial(cloud.compute.create_server, **_body(cloud, bare))
    begin = time.monotonic()
    if workers:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda number: create(name=f"{_NAME}-{number}"), range(count)))
    else:
        create(name=_NAME, min_count=count, max_count=count)
    _active(cloud, count)
    return time.monotonic() - begin


def _active(cloud: Any, count: int) -> None:
    def ready() -> bool:
        # without details: what Nova would ask Neutron for them is a good part of all the work
        if list(cloud.compute.servers(details=False, status="ERROR")):
            raise SystemExit("a server of the reference is in ERROR")
        return len(list(cloud.compute.servers(details=False, status="ACTIVE"))) == count

    _until(ready, "servers to be ACTIVE")


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {_SECONDS} s in vain for {what}")
        time.sleep(1)


def _q8s(cloud: Any, cluster: Cluster) -> float:
    """Create the servers of a cluster file with the module, and list them with the inventory. Return the seconds."""
    count = cluster.servers
    answer = json.loads(cluster.play("servers"))
    tasks = {task["task"]["name"]: task for task in answer["plays"][0]["tasks"]}
    begin, end = (datetime.fromisoformat(tasks[name]["task"]["duration"]["start"]) for name in ("servers", "listed"))
    active = [server for server in cloud.compute.servers() if server.status == "ACTIVE"]
    if len(active) != count:
        raise SystemExit(f"{len(active)} of {count} servers are ACTIVE")
    listed = [name for name in tasks["listed"]["hosts"]["localhost"]["msg"] if name.startswith(_NAME)]
    if len(listed) < count:
        raise SystemExit(f"{len(listed)} of {count} servers are in the inventory")
    return (end - begin).total_seconds()


def cluster_fields(name: str, flavor: str, workers: int) -> dict[str, Any]:
    """Return the fields of a cluster file for the lab: one control plane and workers, all of one flavor."""
    return {
        "cluster_name": name,
        "private_network_id": "private",
        "remote_ip_prefix": str(settings.load().subnet),
        "default_image_name": settings.IMAGE_NAME,
        "name_of_initial_instance": f"{name}-control-plane",
        "guest_ip_prefix": "172.29.0.0/16",
        "security_groups": [_GROUP],
        "required_tcp_ports": [22, 6443],
        "required_udp_ports": [8472],
        "worker_port_range_min": 30000,
        "worker_port_range_max": 32767,
        "cluster_definition": {
            "master_node_flavor": flavor,
            "number_additional_master_nodes": 0,
            "worker": {"tiny": workers},
        },
        "vm_types": {
            "types": {
                "tiny": {
                    "architecture": "arm_64",
                    "num_cpus": 1,
                    "cpu_model": "cortex-a57",
                    "machine_model": "virt",
                    "ram": 1024,
                    "storage": 5,
                    "openstack_flavor": flavor,
                }
            }
        },
    }


def _playbook(folder: Path) -> list[dict[str, Any]]:
    """Return the playbook: key pair and security group first, then, with another tag, the servers."""
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    cluster = "{{ q8s_cluster }}"
    tasks = [
        {"q8s.emu.keypair": {"cluster": cluster, "public_key": public}, "tags": "before"},
        {"q8s.emu.security_group": {"cluster": cluster}, "tags": "before"},
        {
            "name": "servers",
            "q8s.emu.servers": {"cluster": cluster, "public_key": public, "timeout": _SECONDS},
            "tags": "servers",
        },
        {"ansible.builtin.meta": "refresh_inventory", "tags": "servers"},
        {"name": "listed", "ansible.builtin.debug": {"msg": "{{ groups.all }}"}, "tags": "servers"},
    ]
    return [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]


if __name__ == "__main__":
    sys.exit(main())
