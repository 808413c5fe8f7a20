"""What the tests of the cloud's steps know of a cluster: what a user would run, and what the cloud has of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.servers import cluster_fields
from q8s_wrapper.config import INVENTORY, REPOSITORY

_BIN = Path(sys.executable).parent


@dataclass
class Cluster:
    """One cluster: its files, its local state, and what a user would run."""

    name: str
    folder: Path
    environment: Mapping[str, str]
    state: Path  # its local state, in the lab's cloud
    public_key: str = ""
    flavor: str = "hollow.small"  # of all its servers: no machine behind them, unless a test logs in
    files: dict[int, Path] = field(default_factory=dict)

    @property
    def initial(self) -> str:
        return f"{self.name}-control-plane"

    @property
    def worker(self) -> str:
        return f"{self.name}-tiny-1"

    def mapping(self, workers: int = 1, **changes: Any) -> dict[str, Any]:
        """The fields of a cluster file with one control plane and so many workers."""
        return {**cluster_fields(self.name, self.flavor, workers), **changes}

    def file(self, workers: int = 1) -> Path:
        """A cluster file with one control plane and so many workers."""
        if workers not in self.files:
            path = self.folder / f"{self.name}-{workers}.yaml"
            path.write_text(yaml.safe_dump(self.mapping(workers), sort_keys=False))
            self.files[workers] = path
        return self.files[workers]

    def module(
        self,
        name: str,
        cluster: Mapping[str, Any] | None = None,
        check: bool = False,
        environment: Mapping[str, str] | None = None,
        seconds: float = 300,
        **arguments: Any,
    ) -> dict[str, Any]:
        """What a module of the collection answers, run as Ansible runs it on localhost, without the rest of Ansible."""
        if name in ("keypair", "servers") and arguments.get("state") != "absent":
            arguments.setdefault("public_key", self.public_key)
        given = {"cluster": cluster or self.mapping(), "_ansible_check_mode": check, **arguments}
        done = subprocess.run(
            [sys.executable, "-m", f"ansible_collections.q8s.emu.plugins.modules.{name}"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": given}),
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env={
                **os.environ,
                **self.environment,
                **(environment or {}),
                "PYTHONPATH": str(REPOSITORY / "collections"),
            },
            timeout=seconds,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert bool(answer.get("failed")) == (done.returncode != 0)
        return answer

    def run(self, command: Sequence[str | Path], **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the checkout, as a user with these variables would."""
        program, *arguments = map(str, command)
        path = os.pathsep.join([str(_BIN), os.environ["PATH"]])
        own = {"PATH": path, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")}
        environment = {**os.environ, **self.environment, **more, **own}
        return subprocess.run(
            [str(_BIN / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env=environment,
            timeout=180,
        )

    def play(self, tasks: Mapping[str, Mapping[str, Any]], file: Path | None = None, **more: str) -> dict[str, Any]:
        """Run tasks on localhost; gives each one's result by its name, and what Ansible said on stderr.

        A task fails the test, unless it has ``ignore_errors``.
        """
        listed = [{"name": name, **task} for name, task in tasks.items()]
        playbook = self.folder / "play.yml"
        playbook.write_text(
            json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": listed}])
        )
        command: list[str | Path] = [
            "ansible-playbook",
            "-i",
            INVENTORY,
            playbook,
            "-e",
            f"q8s_cluster_file={file or self.file()}",
        ]
        done = self.run(command, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json", **more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        told = json.loads(done.stdout)["plays"][0]["tasks"]
        results = {task["task"]["name"]: task["hosts"]["localhost"] for task in told if task["hosts"]}
        return {**results, "stderr": done.stderr}

    def inventory(self, file: Path | None = None, source: Path = INVENTORY, **more: str) -> dict[str, Any]:
        """The inventory as ``q8s-run`` reads it, or that of another inventory file."""
        command: list[str | Path] = [
            "ansible-inventory",
            "-i",
            source,
            "--list",
            "-e",
            f"q8s_cluster_file={file or self.file()}",
        ]
        done = self.run(command, **more)
        assert done.returncode == 0, done.stderr
        data: dict[str, Any] = json.loads(
            done.stdout, object_hook=lambda value: value.get("__ansible_unsafe", value) if len(value) == 1 else value
        )
        return {**data, "stderr": done.stderr}


def rule_text(rule: Any, group_id: str) -> str:
    """A rule of Neutron's in words; what a plan calls it."""
    ports = "" if rule.port_range_min is None else f" {rule.port_range_min}"
    if rule.port_range_max != rule.port_range_min:
        ports += f"-{rule.port_range_max}"
    source = "the group itself" if rule.remote_group_id == group_id else rule.remote_ip_prefix or "0.0.0.0/0"
    return f"{rule.protocol or 'any protocol'}{ports} from {source}"


def snapshot(cloud: Any, cluster: Cluster) -> dict[str, dict[str, Any]]:
    """All that the cloud has of a cluster, or under its names: by kind, what is there and in which state."""
    mark = f"Q8S cluster {cluster.name}"
    key = cloud.compute.find_keypair(f"q8s-{cluster.name}", ignore_missing=True)
    servers = {s.id: (s.name, s.status) for s in cloud.compute.servers() if s.name.startswith(cluster.name)}
    ports = list(cloud.network.ports())
    groups = [group for group in cloud.network.security_groups() if group.description == mark]
    assert len(groups) < 2
    floating = [ip.fixed_ip_address for ip in cloud.network.ips() if ip.description == mark]
    assert len(floating) < 2
    rules, members = {}, {}
    for group in groups:
        listed = cloud.network.security_group_rules(security_group_id=group.id, direction="ingress")
        rules = {rule_text(rule, group.id): rule.id for rule in listed}
        for server_id, (name, _) in servers.items():
            theirs = [port for port in ports if port.device_id == server_id]
            if theirs and all(group.id in port.security_group_ids for port in theirs):
                members[name] = server_id
    return {
        "key pair": {key.name: key.public_key} if key else {},
        "security group": {group.name: group.id for group in groups},
        "rule": rules,
        "member": members,
        "port": {port.id: port.name for port in ports if port.description == mark},
        "server group": {g.name: g.id for g in cloud.compute.server_groups() if g.name == f"q8s-{cluster.name}"},
        "floating IP": dict.fromkeys([cluster.initial], floating[0]) if floating else {},
        "server": servers,
    }


def difference(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> set[str]:
    """What changed between two snapshots, in the words of a plan's changes."""
    found = set()
    for kind in ("key pair", "security group", "rule", "member", "server group", "floating IP"):
        old, new = before[kind], after[kind]
        found |= {f"create {kind} {name}" for name in set(new) - set(old)}
        found |= {f"delete {kind} {name}" for name in set(old) - set(new)}
    for name, fixed in before["floating IP"].items():
        if after["floating IP"].get(name, fixed) != fixed:
            found.add(f"attach floating IP {name}")
    new_ports, old_ports = (set(after["port"]) - set(before["port"])), (set(before["port"]) - set(after["port"]))
    found |= {f"create port {after['port'][port]}" for port in new_ports}
    found |= {f"delete port {before['port'][port]}" for port in old_ports}
    gone = [before["server"][number][0] for number in set(before["server"]) - set(after["server"])]
    come = [after["server"][number][0] for number in set(after["server"]) - set(before["server"])]
    found |= {f"replace server {name}" for name in gone if name in come}
    found |= {f"delete server {name}" for name in gone if name not in come}
    found |= {f"create server {name}" for name in come if name not in gone}
    for number in set(before["server"]) & set(after["server"]):
        if before["server"][number] != after["server"][number]:
            assert after["server"][number][1] == "ACTIVE"
            found.add(f"start server {after['server'][number][0]}")
    # a server comes with its membership, and takes it along
    return {c for c in found if not (c.split()[1] == "member" and c.split()[2] in (*gone, *come))}
