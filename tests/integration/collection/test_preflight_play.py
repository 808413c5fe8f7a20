"""The stage before all others: what it refuses while nothing is built or changed, and what the run's tags leave out.

Ansible runs the real stage on this machine, with a module in the place of the one that asks the cloud.
tests/integration/cloud/test_check.py asks a real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import copy_collections, play, said

INITIAL, WORKER = "demo-control-plane", "demo-arm-mid-1"
# The cloud has one more server of the worker's name, or has the worker's in ERROR.
MODULE = """\
from ansible.module_utils.basic import AnsibleModule
names = "cluster public_key remove_surplus replace_control_plane survivors limit timeout upgrade".split()
module = AnsibleModule({{name: {{"type": "raw"}} for name in names}}, supports_check_mode=True)
removed = {removed}
changes = [{{"action": "replace", "kind": "server", "name": name}} for name in removed]
plan = {{"changes": changes, "notes": [], "quota": {{}}}}
module.exit_json(changed=False, plan=plan, removed_servers=removed, initial_created=False, settled=not removed)
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the stage, or all of site.yml; return Ansible's exit code, and what it said in one line."""
    copy = copy_collections(tmp_path, {"'q8s.emu.program', 'q8s-run'": "'q8s.emu.program', 'a-build'"})
    cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
    for name in ("key", "key.pub"):
        (tmp_path / name).write_text("ssh-ed25519 AAAA")
    variables = {
        **_inventory.cluster_variables(cluster, None),
        "q8s_cluster": {**cluster.to_mapping(), "ssh_private_key": str(tmp_path / "key")},
        "q8s_private_key": str(tmp_path / "key"),
        "q8s_state_dir": str(tmp_path),
        "q8s_state_record": "{}",
        "q8s_created_servers": [],
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
    }

    def go(
        *arguments: str, states: Mapping[str, str] | None = None, removed: tuple[str, ...] = (), whole: bool = False
    ) -> tuple[int, str]:
        module = copy / "q8s/emu/plugins/modules/cloud_preflight.py"
        module.write_text(MODULE.format(removed=list(removed)))
        names = [spec.name for spec in cluster.servers()]
        states = dict.fromkeys(names, "ACTIVE") if states is None else states
        hosts: dict[str, Any] = {name: {"q8s_status": state} for name, state in states.items()}
        groups = {
            "control_plane": [name for name in hosts if name == INITIAL],
            "control_plane_initial": [name for name in hosts if name == INITIAL],
            "worker_hosts": [name for name in hosts if name != INITIAL],
        }
        children = {name: {"hosts": dict.fromkeys(members)} for name, members in groups.items()}
        inventory = {"all": {"hosts": hosts, "vars": variables, "children": children}}
        (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
        playbooks = copy / "q8s/emu/playbooks"
        went_on = {"ansible.builtin.debug": {"msg": "it went on"}, "tags": ["always"]}
        plays = [
            {"import_playbook": str(playbooks / "stages" / "preflight.yml")},
            {"hosts": "localhost", "gather_facts": False, "tasks": [went_on]},
        ]
        (tmp_path / "play.yml").write_text(json.dumps(plays))
        done: subprocess.CompletedProcess[str] = play(
            tmp_path, playbooks / "site.yml" if whole else tmp_path / "play.yml", *arguments
        )
        return done.returncode, said(done)

    return go


UNCONFIRMED = ("-e", '{"q8s_confirmed": false}')


def test_a_check_needs_no_consent(run: Run) -> None:
    """It shows what would be replaced, and goes on to the hosts."""
    code, output = run("--check", *UNCONFIRMED, removed=(WORKER,))
    assert code == 0 and "it went on" in output, output
    assert '"action": "replace"' in output and f'"name": "{WORKER}"' in output


@pytest.mark.parametrize("arguments", [UNCONFIRMED, ("-e", '{"q8s_confirmed": true}')])
def test_no_server_is_replaced_without_consent(run: Run, arguments: tuple[str, ...]) -> None:
    code, output = run(*arguments, removed=(WORKER,))
    refuses = arguments == UNCONFIRMED
    assert (code, "it went on" in output) == ((2, False) if refuses else (0, True)), output
    # q8s-run takes the exit code from the task's name, and the hint from the message.
    assert ("FAILED" in output.partition("TASK [Refuse to remove or replace servers")[2]) == refuses
    assert (f"{WORKER}: would be removed or replaced; this needs --yes" in output) == refuses


WORKERS = {"demo-x86-small-1": "ACTIVE", WORKER: "ACTIVE"}
NONE = f"{INITIAL} is missing, demo-x86-small-1 is missing, {WORKER} is missing"


@pytest.mark.parametrize(
    ("arguments", "states", "named"),
    [
        (["--tags", "qemu_host"], {}, NONE),
        (["--skip-tags", "cloud"], {}, NONE),
        (["--tags", "nodes", "--check"], {}, NONE),
        (["--tags", "build,links"], WORKERS, f"{INITIAL} is missing"),
        (["--tags", "ready"], {INITIAL: "SHUTOFF", **WORKERS}, f"{INITIAL} is SHUTOFF"),
        (["--tags", "nodes", "-e", "q8s_limit=arm-mid-1"], {}, f"{INITIAL} is missing, {WORKER} is missing"),
    ],
)
def test_tags_that_need_a_control_plane_are_refused_before_anything_is_built(
    run: Run, tmp_path: Path, arguments: list[str], states: Mapping[str, str], named: str
) -> None:
    (tmp_path / "key").unlink()
    code, output = run(*arguments, states=states, whole=True)
    assert code == 2 and "FAILED" in output.partition("TASK [Refuse tags that leave out")[2], output
    assert f"{named}, and the tags leave out the stage cloud, which creates and starts servers" in output
    assert "Nothing was changed. hint: deploy without tags: `q8s-run deploy FILE`" in output
    assert "TASK [Create the state folder]" not in output and "PLAY [Build" not in output


@pytest.mark.parametrize(
    ("arguments", "states"),
    [
        ([], {}),
        (["--tags", "cloud"], {}),
        (["--tags", "tagged"], {}),
        (["--tags", "cloud,nodes"], {}),
        (["--tags", "build"], {}),
        (["--tags", "build", "--check"], {}),
        (["--skip-tags", "links"], {}),
        (["--tags", "nodes"], None),
        (["--tags", "nodes"], {INITIAL: "ACTIVE"}),
        (["--skip-tags", "cloud"], {INITIAL: "ACTIVE", WORKER: "ERROR"}),
    ],
)
def test_other_tags_go_on(run: Run, arguments: list[str], states: Mapping[str, str] | None) -> None:
    """Without a worker, the others are deployed: the last stage names it."""
    code, output = run(*arguments, states=states)
    assert code == 0 and "it went on" in output, output
    shown = "TASK [Show which servers do not run]" in output and "q8s_inactive_servers" in output
    assert shown == (bool(arguments) and states is not None), "q8s-run says that the deploy is still to come"
