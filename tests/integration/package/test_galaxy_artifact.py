"""The collection's Galaxy artifact in an empty path, without a checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from q8s_bundle.cache import cache_root
from q8s_wrapper.config import COLLECTIONS

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def collections(user: Any) -> dict[str, str]:
    """The variable that names a path with nothing but the collection."""
    folder: Path = user.home.parent / "galaxy"
    folder.mkdir()
    source = COLLECTIONS / "ansible_collections" / "q8s" / "emu"
    # Offline: what the collection depends on is installed with Ansible.
    for arguments in (["build", source], ["install", "--offline", "-p", folder, folder / "q8s-emu-0.2.0.tar.gz"]):
        # Not in the checkout, whose ansible.cfg names its own collections.
        subprocess.run([user.programs / "ansible-galaxy", "collection", *arguments], check=True, cwd=folder)
    shutil.copyfile(Path(__file__).parents[3] / "inventory" / "cluster.q8s.yml", user.folder / "cluster.q8s.yml")
    # The home folder that the system has for this user does not exist.
    return {"ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_REMOTE_TMP": "/var/tmp"}


def test_the_inventory_has_the_cluster(
    user: Any, collections: dict[str, str], cluster_file: str, cloud: dict[str, str]
) -> None:
    arguments = ["-i", "cluster.q8s.yml", "-e", f"@{cluster_file}"]
    done = user.run("ansible-inventory", *arguments, "--list", "--export", **collections, **cloud)
    assert done.returncode == 0, done.stderr
    variables = json.loads(done.stdout)["all"]["vars"]
    assert "demo" in str(variables["q8s_cluster"]["cluster_name"])  # marked as not to be templated
    assert "q8s_cloud_problem" not in variables


def test_the_plan_is_shown(user: Any, collections: dict[str, str], cluster_file: str, cloud: dict[str, str]) -> None:
    arguments = ["q8s.emu.plan", "-i", "cluster.q8s.yml", "-e", f"@{cluster_file}"]
    done = user.run("ansible-playbook", *arguments, **collections, **cloud)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo-control-plane" in done.stdout


def test_a_missing_program_is_reported_with_its_cure(
    user: Any, collections: dict[str, str], cluster_file: str, cloud: dict[str, str]
) -> None:
    program = user.programs / "q8s-run"
    away = program.rename(program.with_name("away"))
    try:
        arguments = ["q8s.emu.site", "--check", "-i", "cluster.q8s.yml", "-e", f"@{cluster_file}"]
        done = user.run("ansible-playbook", *arguments, **collections, **cloud)
    finally:
        away.rename(program)
    assert done.returncode != 0
    assert "Failed to find the program q8s-run" in done.stdout + done.stderr
    assert "uv tool install q8s" in done.stdout + done.stderr


@pytest.fixture
def built(user: Any) -> Iterator[str]:
    """A cache of the user's own with what this machine has built: another test is about building."""
    cache = user.home / "cache"
    for kind in ("bundles", "images"):
        shutil.copytree(cache_root() / kind, cache / kind)
    subprocess.run(["chown", "-R", str(user.folder.stat().st_uid), cache], check=True)
    yield str(cache)
    shutil.rmtree(cache)


@pytest.mark.long("a whole deploy")
def test_a_deploy_with_ansible_playbook_alone(
    user: Any, collections: dict[str, str], cluster_file: str, cloud: dict[str, str], built: str
) -> None:
    arguments = ["-i", "cluster.q8s.yml", "-e", f"@{cluster_file}"]
    environment = {**collections, **cloud, "Q8S_CACHE": built}
    try:
        done = user.run("ansible-playbook", "q8s.emu.site", *arguments, seconds=1800, **environment)
        print(done.stdout, done.stderr, sep="\n")
        assert done.returncode == 0
        again = user.run("ansible-playbook", "q8s.emu.site", *arguments, seconds=900, **environment)
        assert again.returncode == 0, again.stdout + again.stderr
        recap = again.stdout.partition("PLAY RECAP")[2]
        assert "changed=0" in recap and "changed=1" not in recap
        verified = user.run("q8s-run", "verify", cluster_file, seconds=900, **cloud)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        destroyed = user.run("ansible-playbook", "q8s.emu.destroy", *arguments, seconds=900, **environment)
        assert destroyed.returncode == 0, destroyed.stdout + destroyed.stderr
