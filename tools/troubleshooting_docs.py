"""Write docs/troubleshooting.md: the messages of Q8S and what to do about each, taken from the code that prints them.

Messages of commands are read from the calls that raise them, those of playbooks and roles from their ``fail_msg``; those of
nodes and of the cloud come from the functions that choose them. ``make docs`` runs it; a test fails while the committed
page differs from what this would write.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _cloud_errors, _spec, _status

import q8s_bundle
import q8s_lab
import q8s_wrapper

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PAGE: Final = REPOSITORY / "docs" / "troubleshooting.md"
_COLLECTION: Final = REPOSITORY / "collections" / "ansible_collections" / "q8s" / "emu"
_ERRORS: Final = frozenset({"WrapperError", "BundleError", "LabError", "WrongArgumentsError"})

_INTRODUCTION: Final = """\
<!-- Written by tools/troubleshooting_docs.py (make docs) from the code that prints the messages. Do not edit. -->
# Troubleshooting

Start with the command that knows most:

| symptom | command |
|---|---|
| the cluster file is refused | `q8s-run validate cluster.yaml` lists every error with line and column |
| nothing was created | `q8s-run plan cluster.yaml` lists everything that does not fit into the cloud |
| a deploy failed | read the end of its output: what failed, why, and the next command. Then run the same `deploy` again: it continues where it stopped |
| the deploy stops at `Wait for SSH` | `openstack console log show SERVER`; [cloud requirements](reference/cloud-requirements.md): cloud-init with a metadata service or a config drive, and [a way to port 22](guides/remote-access.md) |
| servers cannot install packages, or pods' images cannot be pulled | `proxy` in the cluster file, or a mirror: [Offline](guides/offline.md) |
| a node is not Ready, or pods do not start on it | `q8s-run status cluster.yaml` names the problem of each node and the command that fixes it |
| a guest does not boot or join | `q8s-run logs cluster.yaml NODE` shows its console and its kubelet's journal |
| a run ended, and the reason has scrolled away | `q8s-run logs cluster.yaml` shows the end of the log of the last deploy, replace, upgrade, renew or destroy |
| pods cannot reach one another | `q8s-run verify cluster.yaml` puts a pod on every node and lets all of them request all others |
| kubectl is refused, or `status` names certificates that have ended | `q8s-run renew cluster.yaml`, then `q8s-run kubeconfig cluster.yaml --merge` |
| `Failed to read FILE:LINE: …` names a file that Q8S has written | somebody edited it, a full disk cut it, or another version of Q8S wrote it. The message says what is there and what must be, the hint what to do; nothing was changed |
| something must start from scratch | `q8s-run replace cluster.yaml NODE` for one worker; `destroy`, then `deploy`, for the cluster |

In the messages below, capital letters and `…` stand for names and values.
"""


def page() -> str:
    """Return the page."""
    parts = [
        _INTRODUCTION,
        "## Nodes\n\n`q8s-run status` and the end of `q8s-run deploy` report these.\n",
        _table(_node_messages(), "what to do"),
        "## The cloud\n\nThe plan, the deploy and the inventory report these after `Failed to …:`.\n",
        _table(_cloud_messages(), "hint"),
        "## Stages of a deploy\n\nPlaybooks and roles stop with these.\n",
        _table(_playbook_messages(), ""),
        "## Commands\n",
        _table(_raised(q8s_wrapper), "hint"),
        "## Building bundles and guest images\n",
        _table(_raised(q8s_bundle), "hint"),
        "## The lab\n",
        _table(_raised(q8s_lab), "hint"),
    ]
    return "\n".join(parts)


_FILE: Final = """\
cluster_name: demo
private_network_id: private
remote_ip_prefix: 10.254.1.0/24
default_image_name: debian-13
name_of_initial_instance: initial
guest_ip_prefix: 172.29.0.0/16
security_groups: [q8s-cluster]
required_tcp_ports: [22]
required_udp_ports: [8472]
worker_port_range_min: 30000
worker_port_range_max: 32767
cluster_definition: {master_node_flavor: f, number_additional_master_nodes: 0, worker: {arm: 1}}
vm_types:
  types:
    arm: {architecture: arm_64, num_cpus: 2, cpu_model: cortex-a57, machine_model: virt, ram: 2048, storage: 10, openstack_flavor: f}
"""
_HOST: Final = "demo-arm-1"
_REFUSED: Final = {"unreachable": True, "msg": "Permission denied (publickey)."}
_OTHER_KEY: Final = {"unreachable": True, "msg": "Host key verification failed."}
_SILENT: Final = {"unreachable": True, "msg": "Connection timed out"}
_JUMP_FAILURES: Final = (
    "USER@BASTION: Permission denied (publickey).",
    "No ED25519 host key is known for BASTION and you have requested strict checking. | Host key verification failed.",
    "Host key for BASTION has changed and you have requested strict checking. | Host key verification failed.",
    "ssh: connect to host BASTION port 22: Connection timed out",
)
_RUNNING: Final = {"rc": 0, "stdout": "running (booted)\nstarted 1000\nnow 2000"}


def _node(**status: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True", "message": "…"}]
    for kind, value in status.pop("conditions", {}).items():
        conditions = [c for c in conditions if c["type"] != kind] + [{"type": kind, "status": value, "message": "…"}]
    info = {"architecture": "arm64", "kubeletVersion": "v1"}
    return {
        "kind": "Node",
        "metadata": {"name": "arm-1"},
        "spec": status,
        "status": {"nodeInfo": info, "conditions": conditions},
    }


def _kubectl(*nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {"rc": 0, "stdout": json.dumps({"items": list(nodes)})}


def _node_messages() -> Iterator[tuple[str, str]]:
    """Yield the message and the hint of every way in which a node can be unwell."""
    ready = _kubectl(_node())
    worker: list[tuple[dict[str, Any] | None, dict[str, Any]]] = [
        (None, ready),
        ({"q8s_status": "ERROR", "q8s_fault": "…"}, ready),
        ({"q8s_status": "SHUTOFF"}, ready),
        ({"q8s_status": "PAUSED"}, ready),
        ({"q8s_status": "BUILD"}, ready),
        ({"q8s_domain": _REFUSED}, ready),
        ({"q8s_domain": _OTHER_KEY}, ready),
        ({"q8s_domain": _SILENT}, ready),
        *(({"q8s_domain": _behind(reason)}, ready) for reason in _JUMP_FAILURES),
        ({"q8s_domain": {"rc": 1, "stderr": "sudo: a password is required"}}, ready),
        ({"q8s_domain": {"rc": 127}}, ready),
        ({"q8s_domain": {"rc": 1, "stderr": "failed to connect"}}, ready),
        ({"q8s_domain": {"rc": 1, "stderr": "failed to connect", "stdout": "qemu"}}, ready),
        ({"q8s_domain": {"rc": 1, "stderr": "failed to get domain"}}, ready),
        ({"q8s_domain": {"rc": 0, "stdout": "shut off (crashed)"}}, ready),
        ({"q8s_domain": {"rc": 0, "stdout": "paused (user)"}}, ready),
        ({"q8s_domain": {"rc": 0, "stdout": "paused (I/O error)"}}, ready),
        (_with("rules …"), ready),
        (_with("unit UNIT inactive disabled"), ready),
        (_with("definition is missing"), ready),
        (_with("autostart is off"), ready),
        (_with("network is cut"), ready),
        (_with("kubelet refuses"), ready),
        ({"q8s_domain": _RUNNING}, _kubectl()),
        ({"q8s_domain": {"rc": 0, "stdout": "running (booted)"}}, _kubectl()),
        ({"q8s_domain": _RUNNING}, _kubectl(_node(conditions={"Ready": "False"}))),
        ({"q8s_domain": _RUNNING}, _kubectl(_node(conditions={"Ready": "Unknown"}))),
        ({"q8s_domain": _RUNNING}, _kubectl(_node(conditions={"DiskPressure": "True"}))),
        ({"q8s_domain": _RUNNING}, _kubectl(_node(conditions={"MemoryPressure": "True"}))),
        ({"q8s_domain": _RUNNING}, _kubectl(_node(unschedulable=True))),
        ({"q8s_domain": _RUNNING}, {"unreachable": True}),
    ]
    for variables, answer in worker:
        yield _unwell("arm-1", variables, answer)
    yield _behind_a_control_plane()
    for answer in ({"rc": 127}, {"rc": 1, "stderr": "connection refused"}):
        yield _unwell("initial", {"q8s_domain": _RUNNING}, answer)
    yield _unwell("arm-2", {"q8s_domain": _RUNNING}, ready, {"demo-arm-2": _server(q8s_surplus={"name": "arm-2"})})
    stray = _node()
    stray["metadata"] = {"name": "STRAY"}
    yield _unwell("STRAY", {"q8s_domain": _RUNNING}, _kubectl(_node(), stray))


def _behind(reason: str) -> dict[str, Any]:
    """Return the answer of a host whose jump host fails."""
    return {"unreachable": True, "msg": f"q8s jump host USER@BASTION: {reason}"}


def _with(finding: str) -> dict[str, Any]:
    """Return the variables of a host whose guest runs, and which has one finding."""
    return {"q8s_domain": {**_RUNNING, "stdout": f"{_RUNNING['stdout']}\n{finding}"}}


def _server(**variables: Any) -> dict[str, Any]:
    return {
        "q8s_server_id": "1",
        "q8s_status": "ACTIVE",
        "q8s_private_ip": "ADDRESS",
        "ansible_user": "USER",
        **variables,
    }


def _unwell(
    node: str, variables: Mapping[str, Any] | None, answer: Mapping[str, Any], others: Mapping[str, Any] | None = None
) -> tuple[str, str]:
    hosts = {"initial": _server(q8s_kubernetes=answer), **(others or {})}
    if variables is not None:
        hosts[_HOST] = _server(**variables)
    rows = _status.node_rows(_spec.load_text(_FILE, "FILE"), hosts)
    row = next(row for row in rows if row["node"] == node)
    return _named(row["problem"]), _named(row["hint"])


def _behind_a_control_plane() -> tuple[str, str]:
    """Return the message and the hint of a node that is reached through a control plane that is off."""
    hosts = {
        "initial": _server(q8s_status="SHUTOFF"),
        _HOST: _server(q8s_domain=_behind("ssh: connect to host BASTION port 22: Connection timed out")),
    }
    cluster = _spec.load_text(_FILE + "access: {type: floating_ip, floating_network: public}\n", "FILE")
    row = _status.node_rows(cluster, hosts)[1]
    return _named(row["problem"]).replace("BASTION", "FLOATING-IP"), _named(row["hint"])


def _named(text: str) -> str:
    """Replace the names of the example by what they stand for."""
    words = {"demo-arm-[12]": "HOST", "arm-[12]": "NODE", "initial": "CONTROL-PLANE"}
    for name, word in words.items():
        text = re.sub(rf"\b{name}\b", word, text)
    return text.replace("1000 s ago", "… s ago")


class _CloudAnswer(Exception):
    """An answer of the cloud, with its HTTP status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.message, self.status_code = message, status


def _cloud_messages() -> Iterator[tuple[str, str]]:
    """Yield the reason and the hint for every kind of failure that a cloud can cause."""
    quota = "Quota exceeded for instances: Requested 3, but already used 3 of 5 instances"
    refused = "https://cloud:5000/: [Errno 111] Connection refused"
    failures: list[tuple[str, _CloudAnswer]] = [
        ("ConfigException", _CloudAnswer("Cloud NAME was not found.")),
        ("MissingRequiredOptions", _CloudAnswer("Auth plugin requires parameters which were not given: auth_url")),
        ("HttpException", _CloudAnswer("…", 401)),
        ("ForbiddenException", _CloudAnswer(quota, 403)),
        ("ForbiddenException", _CloudAnswer("Policy doesn't allow … to be performed.", 403)),
        ("SSLFailure", _CloudAnswer("https://cloud:5000/: certificate verify failed")),
        ("HttpException", _CloudAnswer("ProxyError")),
        ("ConnectFailure", _CloudAnswer(refused)),
        ("ConnectTimeout", _CloudAnswer("https://cloud:5000/: Read timed out")),
        ("EndpointNotFound", _CloudAnswer("… endpoint for compute service not found")),
        ("HttpException", _CloudAnswer("Too Many Requests", 429)),
    ]
    for name, answer in failures:
        error: Exception = type(name, (_CloudAnswer,), {})(answer.message, answer.status_code)
        yield from dict.fromkeys(_cloud_errors.explain(error, logged_in, {}) for logged_in in (False, True))


def _playbook_messages() -> Iterator[tuple[str, str]]:
    """Yield every message with which a playbook or a role stops."""
    seen = set()
    places = [REPOSITORY / "playbooks", _COLLECTION / "playbooks", _COLLECTION / "roles"]
    for path in sorted(file for place in places for file in place.rglob("*.yml")):
        for message in _fail_messages(yaml.safe_load(path.read_text())):
            text = _without_expressions(message)
            if text not in seen and re.search(r"[A-Za-z]{4}.*[A-Za-z]{4}", text):
                seen.add(text)
                yield text, ""


def _fail_messages(data: Any) -> Iterator[str]:
    if isinstance(data, list):
        for item in data:
            yield from _fail_messages(item)
    elif isinstance(data, dict):
        for key, value in data.items():
            if key == "fail_msg" and isinstance(value, str):
                yield value
            elif key in ("ansible.builtin.fail", "fail") and isinstance(value, dict) and "msg" in value:
                yield value["msg"]
            else:
                yield from _fail_messages(value)


def _without_expressions(text: str) -> str:
    """Replace each Jinja expression: by its name in capital letters where it is one name, else by an ellipsis."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1].strip()
        return re.sub(r"^(q8s_|_.*_)", "", name).upper() if re.fullmatch(r"[a-z_0-9]+", name) else "…"

    return " ".join(re.sub(r"(?s)\{\{(.*?)\}\}", replaced, text).split()).replace("INVENTORY_HOSTNAME", "HOST")


def _raised(package: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield message and hint of every error that a package raises for its user, in the order of the files."""
    seen = set()
    root = Path(package.__path__[0])
    for path in sorted(root.rglob("*.py")):
        constants: Mapping[str, Any] | None = None
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _ERRORS):
                continue
            if constants is None:
                constants = _constants(path.relative_to(root.parent))
            hints = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "hint")]
            row = (
                _literal(call.args[0], constants) if call.args else "",
                _literal(hints[0], constants) if hints else "",
            )
            if row not in seen and re.search(r"[A-Za-z]{4}", row[0]):
                seen.add(row)
                yield row


def _constants(path: Path) -> dict[str, Any]:
    """Return the texts and numbers that a module has as constants.

    :param path: of the module, from the folder that its package is in
    """
    parts = path.with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, str | int)}


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> str:
    """Return the text of a string or f-string. What is inserted is a constant's value, a name in capital letters, or an ellipsis."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp):
        return _literal(node.left, constants) + _literal(node.right, constants)
    if not isinstance(node, ast.JoinedStr):
        return "…" if isinstance(node, ast.Call) else ""
    text = ""
    for value in node.values:
        inserted = value.value if isinstance(value, ast.FormattedValue) else None
        if inserted is None:
            text += _literal(value, constants)
        elif isinstance(inserted, ast.Name) and inserted.id in constants:
            text += str(constants[inserted.id])
        elif isinstance(inserted, ast.Name) and not text[-1:].isalnum():
            text += inserted.id.upper()
        else:  # a name directly after a word would be read as a part of it
            text += "…"
    return text


def _table(rows: Iterator[tuple[str, str]], second: str) -> str:
    """Return a table of messages; without a second heading, of one column."""
    lines = ["| message | " + (f"{second} |" if second else ""), "|---|" + ("---|" if second else "")]
    lines += [f"| {_code(message)} | " + (f"{_code(hint)} |" if second else "") for message, hint in rows]
    if len(lines) == 2:
        raise ValueError("a table without messages: what is read here was renamed")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _code(text: str) -> str:
    """Return text as code in a cell of a table."""
    if not text:
        return ""
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}".replace("|", "\\|")
