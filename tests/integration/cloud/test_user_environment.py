"""What the user's machine has must not matter: commands say and do the same under every setting of the table.

Each row is one setting. Its commands run against a small cluster without Kubernetes, whose worker is reached through
the floating IP of its control plane, and are compared with the same commands in a clean environment. The gate runs some
rows, with the commands that the setting is likeliest to affect. ``make test-long`` (Q8S_TEST_LONG=1) runs every row
with all four commands.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from q8s_lab.machine import wait
from q8s_wrapper import inventory

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab
FLAVOR = "c1.small"  # with a machine behind it, to log in to
Q8S_RUN = Path(sys.executable).with_name("q8s-run")
ALL = ("plan", "status", "ssh", "exec")
_AT_ONCE = 3
LONG = bool(os.environ.get("Q8S_TEST_LONG"))
# What was once seen to matter (an agent with many keys, clouds.yaml in the current folder, two variables of Ansible's,
# a state folder that cannot be written to), and a row of each other kind.
GATE = (
    "verbosity",
    "collections_path",
    "clouds_here",
    "state_unwritable",
    "agent_with_many_keys",
    "home_ansible",
    "turkish",
    "pythonpath",
    "deleted_folder",
    "relative_paths",
    "umask_000",
    "ssh_user_and_port",
)


@dataclass(frozen=True)
class Setting:
    """A setting of the user's. ``{name}`` in any text is replaced, see :class:`Place`.

    ``shell`` is run before the command, by a shell that then becomes the command. ``said`` is what the message has to
    name where the command may refuse; a command that does neither that nor its work fails the test.
    """

    variables: Mapping[str, str | None] = field(default_factory=dict)
    commands: tuple[str, ...] = ("exec",)
    here: Mapping[str, str] = field(default_factory=dict)  # files in the current folder
    home: Mapping[str, str] = field(default_factory=dict)  # files in the home folder
    shell: str = ":"
    file: str = "{file}"
    said: str = ""


def ansible(**variables: str) -> Setting:
    """Variables of Ansible's: they affect runs of playbooks most."""
    return Setting({f"ANSIBLE_{name}": value for name, value in variables.items()}, ("plan",))


def ssh_config(text: str) -> Setting:
    """Options for all hosts in ~/.ssh/config."""
    return Setting(
        home={".ssh/config": "Host *\n" + "".join(f"  {line}\n" for line in text.split("; "))}, commands=("exec",)
    )


# root, to whom no file is closed, without the capabilities that make it so
POWERLESS = 'exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"'
POISON = "raise SystemExit('a module of the current folder')\n"
NOWHERE = "http://127.0.0.1:9"
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
SETTINGS: dict[str, Setting] = {
    # Ansible
    "verbosity": Setting({"ANSIBLE_VERBOSITY": "4"}, ("exec", "plan")),
    "collections_path": Setting({"ANSIBLE_COLLECTIONS_PATH": "/nowhere"}, ("exec", "plan")),
    "callback": ansible(STDOUT_CALLBACK="minimal", CALLBACKS_ENABLED="ansible.posix.profile_tasks,nowhere"),
    "inventory": Setting({"ANSIBLE_INVENTORY": "/nowhere", "ANSIBLE_INVENTORY_ENABLED": "ini"}),
    "forks": ansible(FORKS="many"),
    "python_interpreter": ansible(PYTHON_INTERPRETER="/nowhere/python"),
    "remote_user": Setting({"ANSIBLE_REMOTE_USER": "nobody", "ANSIBLE_PRIVATE_KEY_FILE": "/nowhere"}, ("status",)),
    "become": Setting(
        {"ANSIBLE_BECOME": "1", "ANSIBLE_BECOME_USER": "nobody", "ANSIBLE_BECOME_ASK_PASS": "1"}, ("status",)
    ),
    "vault": Setting({"ANSIBLE_VAULT_PASSWORD_FILE": "/nowhere"}),
    "strategy": ansible(STRATEGY="ansible.builtin.debug"),
    "gathering_and_cache": ansible(GATHERING="implicit", CACHE_PLUGIN="nowhere", CACHE_PLUGIN_CONNECTION="/nowhere"),
    "ansible_ssh": Setting(
        {"ANSIBLE_SSH_ARGS": "-o ProxyCommand=false", "ANSIBLE_SSH_EXECUTABLE": "/bin/false"}, ("status",)
    ),
    "ansible_display": ansible(
        DISPLAY_ARGS_TO_STDOUT="1", CHECK_MODE_MARKERS="1", DIFF_ALWAYS="1", FORCE_COLOR="1", DEBUG="1"
    ),
    "log_path": Setting({"ANSIBLE_LOG_PATH": "/nowhere/ansible.log"}),
    "ansible_home": Setting({"ANSIBLE_HOME": "/proc/nowhere", "ANSIBLE_LOCAL_TEMP": "/proc/nowhere"}),
    "ansible_config": Setting({"ANSIBLE_CONFIG": "/etc/passwd"}),
    "ansible_plugins": ansible(LIBRARY="/nowhere", FILTER_PLUGINS="/nowhere", TRANSPORT="local", NOCOWS="0"),
    "runner": Setting({"AWX_LIB_DIRECTORY": "/nowhere", "RUNNER_OMIT_EVENTS": "1"}, ("plan",)),
    "home_ansible": Setting(
        home={
            ".ansible.cfg": "[defaults]\nforks = many\nstdout_callback = minimal\n",
            ".ansible/plugins/vars/poison.py": POISON,
            ".ansible/plugins/filter/poison.py": POISON,
        }
    ),
    # locales
    "lang_c": Setting({"LANG": "C", "LC_ALL": "C"}),
    "turkish": Setting({"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"}),
    "locale_that_is_missing": Setting({"LC_ALL": "xx_XX.nowhere", "LOCPATH": "/nowhere"}),
    "no_locale": Setting({"LANG": None, "LC_ALL": None}, ("plan",)),
    "ascii": Setting({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}),
    # Python
    "pythonpath": Setting(
        {"PYTHONPATH": "{here}"}, here={f"{name}.py": POISON for name in ("argparse", "yaml", "openstack", "ansible")}
    ),
    "python_variables": Setting(
        {"PYTHONSTARTUP": "/nowhere", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2"}
    ),
    "virtual_env": Setting({"VIRTUAL_ENV": "/nowhere", "PATH": "/nowhere/bin:/usr/bin:/bin"}),
    # terminals
    "no_term": Setting({"TERM": None}),
    "dumb": Setting({"TERM": "dumb", "NO_COLOR": "1"}),
    "colours": Setting({"TERM": "nonsense", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}, ("plan",)),
    "columns": Setting({"COLUMNS": "nonsense", "LINES": "-1"}, ("plan",)),
    "stdin_closed": Setting(shell="exec <&-", commands=("ssh", "plan")),
    # the current folder
    "clouds_here": Setting({"OS_CLIENT_CONFIG_FILE": None}, ("exec", "plan"), here={"clouds.yaml": "{clouds}"}),
    "clouds_relative": Setting(
        {"OS_CLIENT_CONFIG_FILE": "cloud/mine.yaml"}, ("exec", "plan"), here={"cloud/mine.yaml": "{clouds}"}
    ),
    "secure_here": Setting(
        {"OS_CLIENT_CONFIG_FILE": None}, here={"clouds.yml": "{clouds_without_secret}", "secure.yaml": "{secure}"}
    ),
    "ansible_files_here": Setting(
        here={
            "ansible.cfg": "[defaults]\nforks = many\n",
            "group_vars/all.yml": "ansible_host: 192.0.2.1\nansible_user: nobody\n",
            "library/cloud_preflight.py": POISON,
            **{f"{name}/__init__.py": POISON for name in ("ansible", "q8s_wrapper", "ansible_collections")},
            **{f"{name}.py": POISON for name in ("yaml", "openstack", "json", "socket", "fcntl")},
        },
        commands=("exec", "plan"),
    ),
    "world_writable": Setting(shell="chmod 1777 .", here={"ansible.cfg": "[defaults]\nforks = many\n"}),
    "deleted_folder": Setting(shell='rm -rf "$PWD"'),
    "closed_folder": Setting(shell=f"chmod 0 .; {POWERLESS}"),
    "folder_that_cannot_be_listed": Setting(
        {"OS_CLIENT_CONFIG_FILE": None}, here={"clouds.yaml": "{clouds}"}, shell=f"chmod 0100 .; {POWERLESS}"
    ),
    "relative_paths": Setting({"Q8S_STATE": "../../state"}, file="../../{file_name}", commands=("exec", "plan")),
    "cluster_file_variable": Setting({"Q8S_CLUSTER_FILE": "../../{file_name}"}, file="", commands=("plan",)),
    # folders of the user's
    "xdg": Setting({"XDG_RUNTIME_DIR": "/nowhere", "XDG_CONFIG_HOME": "nowhere", "XDG_STATE_HOME": "nowhere"}),
    "tmpdir_missing": Setting({"TMPDIR": "/nowhere"}),
    "tmpdir_noexec": Setting({"TMPDIR": "{here}/t"}, shell="mkdir t && mount -t tmpfs -o noexec none t"),
    "umask_077": Setting(shell="umask 077"),
    "umask_000": Setting(shell="umask 000"),
    "no_home": Setting({"HOME": None}),
    "home_read_only": Setting(shell=f'chmod 0500 "$HOME"; {POWERLESS}', commands=("exec", "plan")),
    "state_unwritable": Setting({"Q8S_STATE": "/proc/nowhere"}, ALL, said="(Q8S_STATE is '/proc/nowhere')"),
    "state_is_a_file": Setting({"Q8S_STATE": "/etc/passwd"}, said="(Q8S_STATE is '/etc/passwd'): Not a directory"),
    "state_is_long": Setting({"Q8S_STATE": "{long}"}),
    # proxies
    "proxy_and_no_proxy": Setting({**PROXIES, "no_proxy": "127.0.0.1", "ALL_PROXY": NOWHERE}, ("plan",)),
    "proxy_that_is_dead": Setting(PROXIES, said="through the proxy of http_proxy, "),
    "proxy_socks": Setting({"ALL_PROXY": "socks5://127.0.0.1:9"}, said="through the proxy of ALL_PROXY ("),
    # ssh
    "agent_broken": Setting({"SSH_AUTH_SOCK": "/nowhere"}, ("exec",)),
    "agent_with_many_keys": Setting({"SSH_AUTH_SOCK": "{agent}"}, ("status", "ssh")),
    "askpass": Setting({"SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":9"}, ("exec",)),
    "shell": Setting({"SHELL": "/bin/false", "BASH_ENV": "/nowhere", "CDPATH": "/"}),
    "kubeconfig": Setting({"KUBECONFIG": "/nowhere"}, ("plan",)),
    "ssh_user_and_port": ssh_config("User nobody; Port 9; HostName 192.0.2.1"),
    "ssh_proxy": ssh_config("ProxyCommand /bin/false"),
    "ssh_jump": ssh_config("ProxyJump 192.0.2.1"),
    "ssh_shared": ssh_config("ControlMaster auto; ControlPath /nowhere/socket; ControlPersist yes"),
    "ssh_keys": ssh_config(
        "IdentityFile /nowhere; IdentitiesOnly yes; CertificateFile /nowhere; PubkeyAuthentication no"
    ),
    "ssh_host_keys": ssh_config("StrictHostKeyChecking yes; UserKnownHostsFile /nowhere; HostKeyAlias nowhere"),
    "ssh_terminal": ssh_config("RequestTTY force; RemoteCommand /bin/false; LocalCommand /bin/false"),
    "ssh_environment": ssh_config("SendEnv LANG LC_* TERM; SetEnv LANG=tr_TR.UTF-8"),
    "ssh_names": ssh_config("CanonicalizeHostname always; CanonicalDomains example.com; AddressFamily inet6"),
    "ssh_algorithms": ssh_config(
        "HostKeyAlgorithms ssh-rsa; KexAlgorithms diffie-hellman-group1-sha1; Ciphers 3des-cbc"
    ),
    "ssh_forwards": ssh_config(
        "LocalForward 22 127.0.0.1:9; ExitOnForwardFailure yes; ForwardX11 yes; ForkAfterAuthentication yes"
    ),
    "ssh_not_understood": Setting(home={".ssh/config": "Nonsense yes\n"}),
}


@dataclass
class Place:
    """A cluster that runs, and what the settings' texts refer to."""

    cluster: Cluster
    folder: Path
    file: Path
    words: dict[str, str]

    def command(self, name: str, file: str) -> list[str]:
        """One of the commands, as a user types it."""
        given = [file] if file else []
        host = self.cluster.worker
        return {
            "plan": ["plan", *given],
            "status": ["status", *given],
            "ssh": ["ssh", *given, host, "--", "id -un; hostname; echo $LANG $LC_ALL $DISPLAY"],
            "exec": [
                "exec",
                *given,
                "control_plane:worker_hosts",
                "--",
                "id -un; echo $LANG $LC_ALL $DISPLAY; env | wc -l",
            ],
        }[name]

    def run(self, name: str, setting: Setting, place: str) -> subprocess.CompletedProcess[str]:
        """Run a command under a setting. Nobody else on this machine sees its home folder."""
        here, home = self.folder / place / "here", self.folder / place / "home"
        words = {**self.words, "here": str(here)}

        def filled(text: str) -> str:
            return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], text)

        for folder, files in ((here, setting.here), (home, setting.home)):
            folder.mkdir(parents=True)
            for path, text in files.items():
                (folder / path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                (folder / path).write_text(filled(text))
        # ssh looks for its files in the home folder that the system knows
        users = here.parent / "passwd"
        entries = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        users.write_text(
            "\n".join(":".join([*e[:5], str(home) if e[2] == "0" else e[5], *e[6:]]) for e in entries) + "\n"
        )
        clean = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(home),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
        }
        variables = {**clean, **self.cluster.environment, **setting.variables}
        script = [
            f"mount --bind {shlex.quote(str(users))} /etc/passwd",
            f"cd {shlex.quote(str(here))}",
            filled(setting.shell),
            'exec "$@"',
        ]
        command = self.command(name, filled(setting.file))
        return subprocess.run(
            ["unshare", "--mount", "/bin/sh", "-ec", "\n".join(script), "sh", Q8S_RUN, *command],
            env={key: filled(value) for key, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )  # fmt: skip


def said(place: Place, done: subprocess.CompletedProcess[str]) -> tuple[int, list[str], list[str]]:
    """What a command did, without times, the order of hosts and the ways to write a path."""

    def lines(text: str) -> list[str]:
        text = re.sub(r"\[? *(?<!\w)\d+(\.\d+)? ?s\b", "N s", re.sub(r"\d{8}-\d{6}-\d{6}", "RUN", text))
        text = re.sub(r"\S*/runs/RUN", "RUN", text).replace("../../", f"{place.folder}/")
        # a file that was found by default is said, and is no part of commands
        text = text.replace(str(Q8S_RUN), "q8s-run")
        text = re.sub(r"(?m)^cluster file: .*\n|(?<=q8s-run deploy) \S+$", "", text)
        return sorted(text.splitlines())

    return done.returncode, lines(done.stdout), lines(done.stderr)


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The cluster's servers, reached from outside through its control plane."""
    access = {"type": "floating_ip", "floating_network": "external", "allowed_prefixes": ["0.0.0.0/0"]}
    data = cluster.mapping(access=access)
    file = cluster.folder / "cluster.yaml"
    file.write_text(json.dumps(data))
    for name in ("keypair", "security_group", "servers"):
        assert not (answer := cluster.module(name, data)).get("failed"), answer
    state = Path(cluster.environment["Q8S_STATE"])
    clouds = Path(cluster.environment["OS_CLIENT_CONFIG_FILE"])
    words = {"file": str(file), "file_name": file.name, "state": str(state), **_clouds(clouds)}
    long = cluster.folder / ("a-long-folder-" * 8)
    shutil.copytree(state, long)
    words["long"] = str(long)
    agent = _agent(cluster.folder)
    words["agent"] = str(cluster.folder / "agent")
    found = Place(cluster, cluster.folder, file, words)
    end = time.monotonic() + 120
    while (done := found.run("exec", Setting(), f"wait-{time.monotonic()}")).returncode and time.monotonic() < end:
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    yield found
    agent.terminate()
    agent.wait()


def _clouds(path: Path) -> dict[str, str]:
    """The lab's clouds.yaml, whole and with its secrets in a file of their own."""
    data = yaml.safe_load(path.read_text())
    secrets = {}
    for name, one in data["clouds"].items():
        secrets[name] = {"auth": {"application_credential_secret": one["auth"].pop("application_credential_secret")}}
    return {
        "clouds": path.read_text(),
        "clouds_without_secret": yaml.safe_dump(data),
        "secure": yaml.safe_dump({"clouds": secrets}),
    }


def _agent(folder: Path) -> subprocess.Popen[bytes]:
    """An ssh agent with more keys than sshd lets a client try."""
    socket = folder / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    assert wait(socket.exists, 10)
    for number in range(8):
        key = folder / f"key-{number}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        subprocess.run(["ssh-add", "-q", key], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(socket)})
    return agent


Runs = Mapping[tuple[str, str], "concurrent.futures.Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def runs(place: Place, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """All commands of the rows that are asked for, a few at once, and of a clean environment."""
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and "runs" in getattr(item, "fixturenames", ())
    }
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = {("", command): pool.submit(place.run, command, Setting(), f"clean-{command}") for command in ALL}
        for name in (name for name in SETTINGS if name in wanted):
            setting = SETTINGS[name]
            for command in ALL if LONG else setting.commands:
                jobs[name, command] = pool.submit(place.run, command, setting, f"{name}-{command}")
        yield jobs
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", SETTINGS if LONG else GATE)
def test_a_setting_does_not_matter(name: str, runs: Runs, place: Place) -> None:
    setting = SETTINGS[name]
    for command in [command for row, command in runs if row == name]:
        done, clean = runs[name, command].result(), runs["", command].result()
        # Kubernetes is not there, which is a failure for status only
        assert clean.returncode == (command == "status") and clean.stdout, clean
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        if setting.said and done.returncode:
            assert setting.said in done.stderr, done.stderr
        else:
            assert said(place, done) == said(place, clean), f"{command}: {done.stderr}"


@pytest.mark.long("thirty connections through a floating IP")
def test_many_connections_share_one_login_on_the_way(place: Place) -> None:
    """More than the ten that sshd lets log in at once (MaxStartups), as Ansible's forks do."""
    many = 30
    found = place.cluster.inventory(place.file)["_meta"]["hostvars"]
    worker, control_plane = found[place.cluster.worker], found[place.cluster.initial]

    def login(variables: Mapping[str, Any], command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            inventory.ssh_command(variables, [command]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def logins() -> int:
        done = login(control_plane, "sudo journalctl --unit=ssh --grep='Accepted publickey' --output=cat | wc -l")
        return int(done.stdout)

    # here the same server stands for all hosts
    raised = login(worker, "sudo sed -i '1i MaxStartups 500' /etc/ssh/sshd_config && sudo systemctl reload ssh")
    assert raised.returncode == 0, raised.stderr
    before = logins()
    with concurrent.futures.ThreadPoolExecutor(many) as pool:
        ends = list(pool.map(lambda number: login(worker, f"echo {number}"), range(many)))
    assert [end.stdout for end in ends] == [f"{number}\n" for number in range(many)], {end.stderr for end in ends}
    assert logins() - before <= 2, "that which counts, and one for all the others"


def test_there_are_enough_settings() -> None:
    assert len(SETTINGS) >= 40
