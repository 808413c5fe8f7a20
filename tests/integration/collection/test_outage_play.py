"""A cloud that does not answer for a while never lets a run end as done that deployed nothing.

Ansible runs the real stages, with modules in the place of those that ask a cloud.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import copy_collections, play, said

INITIAL, WORKER, OTHER = "demo-control-plane", "demo-x86-small-1", "demo-arm-mid-1"
OUTAGE = "Failed to list the servers: the cloud cannot be reached"
# The inventory is replaced while the module runs: it is read again afterwards.
ON_A_CLUSTER = ("verify", "kubeconfig", "bench", "conformance", "link", "record", "renew", "upgrade", "replace")
MODULE = """\
import os
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({{name: {{"type": "raw"}} for name in {options}}}, supports_check_mode=True)
if os.path.exists("{folder}/next.yml"):
    os.replace("{folder}/next.yml", "{folder}/inventory.yml")
module.exit_json(changed=True, failed_servers={failed})
"""
OPTIONS = (
    "cluster",
    "public_key",
    "remove_surplus",
    "keep_surplus",
    "limit",
    "replace_control_plane",
    "survivors",
    "timeout",
    "partial",
    "state",
    "nodes",
)


class Deploy:
    """Stages of a deploy of three servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collections = copy_collections(folder)
        self.failed: dict[str, str] = {}

    def inventory(self, servers: tuple[str, ...] = (), **more: Any) -> str:
        """Return an inventory with these servers, all of which are this machine."""
        cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
        variables = {
            **_inventory.cluster_variables(cluster, None),
            **_inventory.presence_variables(cluster, []),
            "q8s_missing_servers": [spec.name for spec in cluster.servers() if spec.name not in servers],
            "q8s_state_dir": str(self.folder),
            "q8s_state_record": "{}",
            "q8s_private_key": str(self.folder / "id_ed25519"),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            **more,
        }
        groups = {"control_plane_initial": {"hosts": {name: {} for name in servers if name == INITIAL}}}
        return json.dumps({"all": {"hosts": dict.fromkeys(servers), "vars": variables, "children": groups}})

    def __call__(self, *stages: str, tags: tuple[str, ...] = ()) -> tuple[int, str]:
        """Run stages with a cloud in the place of which modules answer. Return the exit code and the output."""
        for name in ("servers", "security_group", "keypair"):
            failed = self.failed if name == "servers" else {}
            text = MODULE.format(options=OPTIONS, folder=self.folder, failed=failed)
            (self.collections / f"q8s/emu/plugins/modules/{name}.py").write_text(text)
        facts = {
            "q8s_servers": [INITIAL, WORKER, OTHER],
            "q8s_public_key": "ssh-ed25519 AAAA",
            "q8s_surplus_goes": False,
            "q8s_preflight": {"settled": False, "initial_created": False},
        }
        playbooks = self.collections / "q8s/emu/playbooks"
        plays = [
            {
                "hosts": "localhost",
                "gather_facts": False,
                "tags": ["always"],
                "tasks": [{"ansible.builtin.set_fact": facts}],
            },
            *({"import_playbook": f"{playbooks}/{stage}.yml"} for stage in stages),
        ]
        (self.folder / "play.yml").write_text(json.dumps(plays))
        done = play(self.folder, self.folder / "play.yml", *tags)
        return done.returncode, said(done)


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    return Deploy(tmp_path)


def test_an_outage_after_the_servers_were_created_fails_the_run(deploy: Deploy) -> None:
    (deploy.folder / "inventory.yml").write_text(deploy.inventory())
    (deploy.folder / "next.yml").write_text(deploy.inventory(q8s_cloud_problem=OUTAGE))
    code, output = deploy("stages/cloud", "stages/failures")
    assert code == 2 and OUTAGE in output.partition("Stop when the cloud does not answer")[2], output


def test_an_outage_at_the_first_read_is_not_taken_for_a_cluster_without_servers(deploy: Deploy) -> None:
    (deploy.folder / "inventory.yml").write_text(deploy.inventory(q8s_cloud_problem=OUTAGE))
    for playbook in ("stages/preflight", "plan"):
        code, output = deploy(playbook)
        assert code == 2 and OUTAGE in output and "TASK [Compare the cluster" not in output, output


@pytest.mark.parametrize("playbook", ON_A_CLUSTER)
def test_what_works_on_a_cluster_fails_without_one(deploy: Deploy, playbook: str) -> None:
    for variables, reason in (
        ({}, "The cloud has no control plane of the cluster demo: it is not deployed"),
        ({"q8s_cloud_problem": OUTAGE}, OUTAGE),
    ):
        (deploy.folder / "inventory.yml").write_text(deploy.inventory(q8s_replace="x86-small-1", **variables))
        code, output = deploy(playbook)
        assert code == 2 and reason in output, output


def test_a_server_that_the_cloud_no_longer_lists_fails_the_run(deploy: Deploy) -> None:
    deploy.failed = {OTHER: f"server {OTHER} is in ERROR: no host"}
    (deploy.folder / "inventory.yml").write_text(deploy.inventory())
    (deploy.folder / "next.yml").write_text(deploy.inventory((INITIAL,)))
    code, output = deploy("stages/cloud", "stages/failures")
    assert code == 2 and f"the cloud does not list {WORKER}, so nothing was deployed there" in output, output
    assert f"server {OTHER} is in ERROR: no host" in output


def test_servers_that_are_all_listed_are_a_success(deploy: Deploy) -> None:
    (deploy.folder / "inventory.yml").write_text(deploy.inventory())
    (deploy.folder / "next.yml").write_text(deploy.inventory((INITIAL, WORKER, OTHER)))
    code, output = deploy("stages/cloud", "stages/failures")
    assert code == 0, output


@pytest.mark.parametrize(
    ("tags", "servers", "more", "named"),
    [
        ((), (INITIAL, WORKER), {}, OTHER),
        (("--tags", "nodes"), (INITIAL, WORKER), {}, OTHER),
        (("--tags", "nodes", "--check"), (INITIAL, WORKER), {}, OTHER),
        (("--tags", "nodes"), (INITIAL, WORKER, OTHER), {}, ""),
        (("--tags", "cloud"), (INITIAL, WORKER, OTHER), {}, ""),
        # A build needs no server, or the one that builds.
        (("--tags", "build"), (), {}, ""),
        (("--tags", "build"), (INITIAL,), {"q8s_built": {"on_cluster": True}}, ""),
        (("--tags", "build"), (WORKER, OTHER), {"q8s_built": {"on_cluster": True}}, INITIAL),
    ],
)
def test_a_run_without_the_stage_that_creates_servers_fails_for_those_that_are_missing(
    deploy: Deploy, tags: tuple[str, ...], servers: tuple[str, ...], more: dict[str, Any], named: str
) -> None:
    (deploy.folder / "inventory.yml").write_text(deploy.inventory(servers, **more))
    code, output = deploy("stages/failures", tags=tags)
    assert code == (2 if named else 0), output
    left_out = f"{named} is missing, and the tags leave out the stage cloud, which creates and starts servers"
    assert (left_out in output and "hint: deploy without tags: `q8s-run deploy FILE`" in output) == bool(named), output


def test_a_deploy_does_not_touch_a_cluster_of_another_user(deploy: Deploy) -> None:
    (deploy.folder / "inventory.yml").write_text(deploy.inventory((INITIAL,), q8s_other_users=["u2"]))
    for playbook in ("stages/preflight", "plan"):
        code, output = deploy(playbook)
        assert code == 2 and "was created by another user (u2)" in output and "Choose another cluster_name" in output
        assert "destroy" not in output.partition("Stop when the cluster is another user")[2]
