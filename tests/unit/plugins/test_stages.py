"""The deploy playbook: its stages are short, and group_vars defines the roles' variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.filter.awaited_nodes import awaited_nodes
from ansible_collections.q8s.emu.plugins.filter.changed_networks import changed_networks
from ansible_collections.q8s.emu.plugins.filter.inactive_servers import inactive_servers
from ansible_collections.q8s.emu.plugins.filter.unreached_servers import unreached_servers

from q8s_wrapper import tags
from q8s_wrapper.config import PLAYBOOKS

VARIABLES = PLAYBOOKS / "stages" / "group_vars"
ROLES = PLAYBOOKS.parent / "roles"


def test_playbooks_read_like_tables_of_contents() -> None:
    lengths = {str(file): len(file.read_text().splitlines()) for file in PLAYBOOKS.rglob("*.yml")}
    assert {name: lines for name, lines in lengths.items() if lines > 120} == {}


def test_site_imports_every_stage_once_under_its_name() -> None:
    imports = yaml.safe_load((PLAYBOOKS / "site.yml").read_text())
    files = [PLAYBOOKS / entry["ansible.builtin.import_playbook"] for entry in imports]
    upgrade = [PLAYBOOKS / "stages" / name for name in ("upgrade.yml", "upgraded.yml")]
    assert sorted([*files, *upgrade]) == sorted((PLAYBOOKS / "stages").glob("*.yml"))
    assert [entry["name"] for entry in imports] == [play["name"] for play in tags.plays(PLAYBOOKS / "site.yml")]


@pytest.mark.parametrize(
    ("role", "entry", "groups"),
    [
        ("artifact_server", "main", ["control_plane_initial"]),
        ("k8s_common", "main", ["control_plane"]),
        ("control_plane", "main", ["control_plane", "control_plane_initial"]),
        ("control_plane", "join", ["control_plane"]),
        ("control_plane", "upgrade", ["control_plane"]),
        ("control_plane", "kubeadm_addons_held", ["control_plane"]),
        ("k8s_common", "stage", ["control_plane"]),
        ("k8s_common", "switch", ["control_plane"]),
        ("qemu_host", "main", ["worker_hosts"]),
        ("emulated_worker", "main", ["worker_hosts"]),
        ("emulated_worker", "answer", ["worker_hosts"]),
    ],
)
def test_group_vars_have_the_required_arguments_of_a_role(role: str, entry: str, groups: list[str]) -> None:
    options: dict[str, Any] = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())
    options = options["argument_specs"][entry]["options"]
    given = {name for group in groups for name in yaml.safe_load((VARIABLES / f"{group}.yml").read_text())}
    assert {name for name, option in options.items() if option.get("required")} <= given


def test_group_vars_have_no_argument_that_a_role_lacks() -> None:
    known = {
        option
        for file in ROLES.glob("*/meta/argument_specs.yml")
        for entry in yaml.safe_load(file.read_text())["argument_specs"].values()
        for option in entry.get("options", {})
    }
    given = {name for file in VARIABLES.glob("*.yml") for name in yaml.safe_load(file.read_text())}
    assert {name for name in given if not name.startswith("q8s_")} <= known


def imported(name: str) -> list[str]:
    """The files that a playbook imports, in their order; an empty name for a play of its own."""
    plays = yaml.safe_load((PLAYBOOKS / f"{name}.yml").read_text())
    return [play.get("ansible.builtin.import_playbook", "") for play in plays]


def test_a_deploy_and_an_upgrade_go_on_with_the_control_planes_that_survived() -> None:
    """Before anything else asks for the first one."""
    for name in ("site", "upgrade"):
        assert "stages/survivors.yml" in imported(name)[:2], name


def test_of_several_network_interfaces_the_one_in_the_clusters_network_is_used() -> None:
    """A role alone takes the address of the default route."""
    given: dict[str, str] = {}
    for file in VARIABLES.glob("*.yml"):
        given |= yaml.safe_load(file.read_text())
    defaults = {
        name: value
        for file in ROLES.glob("*/defaults/main.yml")
        for name, value in (yaml.safe_load(file.read_text()) or {}).items()
        if "default_ipv4" in str(value)
    }
    assert defaults
    assert {name: given.get(name) for name in defaults} == dict.fromkeys(defaults, "{{ q8s_private_ip }}")


def test_a_stage_has_every_tag_of_the_role_that_it_includes() -> None:
    """Else the tag selects nothing, and the run ends as done."""
    (play,) = yaml.safe_load((PLAYBOOKS / "stages" / "nodes.yml").read_text())
    includes = {
        task["ansible.builtin.include_role"]["name"]: task
        for task in play["tasks"]
        if "ansible.builtin.include_role" in task
    }
    for role, task in includes.items():
        steps = yaml.safe_load((ROLES / role.rpartition(".")[2] / "tasks" / "main.yml").read_text())
        assert set(task["tags"]) - {"nodes", "addons"} == {tag for step in steps for tag in step["tags"]}, role
    guests = set(includes["q8s.emu.emulated_worker"]["tags"])
    for name in ("inspect", "node_plan"):
        for play in yaml.safe_load((PLAYBOOKS / "stages" / f"{name}.yml").read_text()):
            assert guests <= set(play["tags"]), name


def all_tasks(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield tasks, and those in blocks."""
    for item in items:
        yield item
        for part in ("block", "rescue", "always"):
            yield from all_tasks(item.get(part, []))


def test_a_tag_selects_what_a_stage_includes() -> None:
    """Ansible gives an include's tags to what is included only where it says ``apply``. Else the tag does nothing."""
    without = []
    for file in (PLAYBOOKS / stage for stage in imported("site")):
        for play in yaml.safe_load(file.read_text()):
            for part in ("pre_tasks", "tasks", "post_tasks"):
                for task in all_tasks(play.get(part) or []):
                    for module in ("ansible.builtin.include_role", "ansible.builtin.include_tasks"):
                        arguments = task.get(module)
                        if arguments is None or arguments == "../tasks/remember_failure.yml":
                            continue
                        if not (isinstance(arguments, dict) and arguments.get("apply", {}).get("tags")):
                            without.append(f"{file.name}: {task.get('name', arguments)}")
    assert without == []
    (remember,) = yaml.safe_load((PLAYBOOKS / "tasks" / "remember_failure.yml").read_text())
    assert remember["tags"] == ["always"]


def test_control_planes_join_while_guests_boot() -> None:
    """Neither waits for the slowest of the others: the hosts' stage starts the guests, and does not wait for them."""
    stages = imported("site")
    order = [stages.index(f"stages/{name}.yml") for name in ("nodes", "join", "guests", "ready")]
    assert order == sorted(order)
    assert yaml.safe_load((VARIABLES / "worker_hosts.yml").read_text())["emulated_worker_waits"] is False
    steps = yaml.safe_load((ROLES / "emulated_worker" / "tasks" / "run.yml").read_text())
    waits = [step for step in steps if step.get("ansible.builtin.import_tasks", "").startswith("answer")]
    assert [step["when"] for step in waits] == ["emulated_worker_change == '' and emulated_worker_waits"]


def test_networks_that_the_file_asks_to_change() -> None:
    cluster = {"pod_cidr": "10.244.0.0/16", "service_cidr": "10.97.0.0/16"}
    kubeadm = '  podSubnet: 10.244.0.0/16\n  serviceSubnet: "10.96.0.0/16"\n'
    assert changed_networks(kubeadm, cluster) == [
        {"field": "service_cidr", "wanted": "10.97.0.0/16", "existing": "10.96.0.0/16"}
    ]
    assert changed_networks("", cluster) == [], "there is no cluster yet"


def test_awaited_nodes() -> None:
    hosts = {
        "cp": {"q8s_node_name": "demo-control-plane"},
        "w-1": {"q8s_node_name": "arm-1", "emulated_worker_started_at": "2026-11-27T01:02:03Z"},
        "w-2": {"q8s_node_name": "arm-2", "emulated_worker_started_at": ""},
        "failed": {},
    }
    assert awaited_nodes(hosts, ["cp", "w-1", "w-2"]) == [
        {"name": "demo-control-plane", "started_at": ""},
        {"name": "arm-1", "started_at": "2026-11-27T01:02:03Z"},
        {"name": "arm-2", "started_at": ""},
    ]


def test_unreached_servers_keep_their_order() -> None:
    servers = ["cp", "z-1", "a-1"]
    assert unreached_servers(servers, ["cp"]) == ["z-1", "a-1"]
    assert unreached_servers(servers, [], "localhost,cp,a-1") == ["cp", "a-1"]


def test_inactive_servers_are_those_that_a_run_has_to_create_or_start() -> None:
    variables = {
        "cp": {"q8s_status": "ACTIVE"},
        "w-1": {"q8s_status": "SHUTOFF"},
        "w-3": {"q8s_status": "ERROR"},
        "x": {},
    }
    assert inactive_servers(variables, ["w-2", "w-1", "cp", "x"]) == {"w-2": "missing", "w-1": "SHUTOFF"}
    assert inactive_servers(variables, ["cp"]) == {}
