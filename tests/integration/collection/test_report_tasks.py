"""Tasks that plays include, run by Ansible here: the certificates for `status`, and a part of conformance tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from q8s_wrapper.config import PLAYBOOKS, REPOSITORY


def play(folder: Path, tasks: list[dict[str, Any]], **variables: str) -> str:
    """Run tasks on this machine. Return the output."""
    book = folder / "play.yml"
    book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "strategy": "free", "tasks": tasks}]))
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "collections"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local", book],
        env={**os.environ, **settings, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_report_reads_certificates_and_names_silent_kubelets(tmp_path: Path) -> None:
    pki = tmp_path / "etc/kubernetes/pki"
    pki.mkdir(parents=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "3", "-subj", "/CN=a", "-keyout",
         pki / "key", "-out", pki / "apiserver.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    facts = tmp_path / "facts.json"
    include = {
        "ansible.builtin.include_role": {"name": "q8s.emu.control_plane", "tasks_from": "report"},
        "vars": {"control_plane_node_name": "cp", "control_plane_kubelets_of": {"worker": "127.0.0.1"}},
    }
    read = "{{ {'own': control_plane_certificates, 'kubelets': control_plane_kubelets} | to_json }}"
    play(tmp_path, [include, {"ansible.builtin.copy": {"content": read, "dest": str(facts)}}], ROOT=str(tmp_path))
    found = json.loads(facts.read_text())
    assert "apiserver" in str(found["own"]["soon"]), found
    assert "worker" in str(found["kubelets"]["unheard"]), found


def test_a_part_has_a_file_for_each_expression(tmp_path: Path) -> None:
    """What a shell or Ansible could take for something else is written as it is."""
    focuses = [r"(?:^| )(?:\[sig-node\] it's \"so\" \$HOME)$", "second"]
    batch = yaml.safe_load((PLAYBOOKS / "tasks/conformance_batch.yml").read_text())
    (tmp_path / "part").mkdir()
    (tmp_path / "part/old.focus").touch()
    variables = {"q8s_conformance_home": str(tmp_path), "q8s_conformance_batch": {"focuses": focuses}}
    play(tmp_path, [{**batch[0], "vars": {**variables, **batch[0]["vars"]}}])
    part = tmp_path / "part"
    assert sorted(file.name for file in part.iterdir()) == ["1.focus", "2.focus", "asked"]
    assert [(part / f"{number}.focus").read_text() for number in (1, 2)] == focuses
