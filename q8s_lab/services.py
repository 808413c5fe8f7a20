"""Configure, start and stop the OpenStack services and their database. Processes are stopped by recorded process id."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_lab.environment import LOCK
from q8s_lab.errors import LabError
from q8s_lab.machine import read, start_time, wait
from q8s_lab.settings import REGION, Settings

DATABASES: Final = ("keystone", "glance", "placement", "neutron", "nova_api", "nova_cell0", "nova_cell1")
_OPENSTACK: Final = Path(__file__).parent / "openstack"
_PACKAGES: Final = Path(__file__).resolve().parent.parent
_APPLICATIONS: Final = {
    "keystone": "keystone.wsgi.api",
    "glance": "glance.wsgi.api",
    "placement": "placement.wsgi.api",
    "neutron": "neutron.wsgi.api",
    "nova": "nova_all",
}
_THREADS: Final = {"nova": 16}
_SECONDS_TO_END: Final = 10
_UP: Final = (200, 300, 401)
_VENDOR_DATA: Final = "vendor-data.json"
_MARK: Final = "Q8S_LAB_PROCESS"


@dataclass(frozen=True)
class Secrets:
    """The passwords of a lab, generated at each start."""

    admin: str
    service: str
    database: str

    @classmethod
    def new(cls) -> Secrets:
        """Generate new passwords."""
        return cls(secrets.token_hex(16), secrets.token_hex(16), secrets.token_hex(16))


class Services:
    """The processes of a lab."""

    def __init__(self, settings: Settings, environment: Path, passwords: Secrets) -> None:
        self._settings = settings
        self._environment = environment
        self._passwords = passwords
        self._etc = settings.folder / "etc"
        self._python = settings.folder / "python"
        self._state = settings.folder / "state"

    # -- configuration ------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Write the configuration files of all services with mode 0600: they contain passwords."""
        for name in ("etc", "state", "state/lock", "log", "glance", "pids"):
            (self._settings.folder / name).mkdir(parents=True, exist_ok=True)
        for name, text in configuration(self._settings, self._environment, self._passwords).items():
            path = self._etc / name
            path.write_text(text)
            path.chmod(0o600)
        self._link_packages()

    def _link_packages(self) -> None:
        """Make our packages importable by the services, but not the other packages of our environment."""
        self._python.mkdir(exist_ok=True)
        for package in ("q8s_lab", "q8s_bundle"):
            link = self._python / package
            link.unlink(missing_ok=True)
            link.symlink_to(_PACKAGES / package)

    def check_ports(self) -> None:
        """Check that every service's port is free.

        :raises LabError: a port is in use
        """
        for name, port in self._settings.ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise LabError(
                        f"Failed to start {name}: port {port} of 127.0.0.1 is in use",
                        hint=f"stop what listens there (ss -ltnp 'sport = {port}'), "
                        "or set Q8S_LAB_PORT to another base",
                    ) from None

    # -- database -----------------------------------------------------------------------------------------------------

    def start_database(self) -> None:
        """Start MariaDB with the empty tables of all services.

        The tables are created once and kept in the cache: creating them takes most of the time of a lab's start.
        MariaDB runs without durability, because no data outlives the lab.
        """
        version = subprocess.run(["mariadbd", "--version"], capture_output=True, text=True, check=False).stdout
        key = cache.content_key(inspect.getsource(Services._make_tables), repr(DATABASES), LOCK, sys.version, version)
        template, _ = cache.entry("lab-database", "mariadb", key, self._make_tables)
        data = self._settings.folder / "mysql"
        subprocess.run(["cp", "-a", "--reflink=auto", template / "mysql", data], check=True)
        self._start_mariadb(data)
        password = self._passwords.database
        cells = {
            name: _database(self._settings, self._passwords, f"nova_{name}").replace("'", "''")
            for name in ("cell0", "cell1")
        }
        self._sql(
            f"alter user os@'127.0.0.1' identified by '{password}';\n"
            + "".join(
                f"update nova_api.cell_mappings set database_connection = '{url}' where name = '{name}';\n"
                for name, url in cells.items()
            )
        )

    def first_user(self) -> None:
        """Create Keystone's keys and its administrator."""
        url = self._settings.url("keystone") + "/v3"
        owner = ["--keystone-user", "root", "--keystone-group", "root"]

        def run(job: str, *options: str) -> None:
            self._run(f"run keystone's {job}", [*self._keystone_manage, job, *options])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: run(job, *owner), ("fernet_setup", "credential_setup")))
        # `bootstrap` needs the keys.
        run(
            "bootstrap",
            *("--bootstrap-region-id", REGION, "--bootstrap-admin-url", url),
            *("--bootstrap-internal-url", url, "--bootstrap-public-url", url),
        )

    @property
    def _keystone_manage(self) -> list[str | Path]:
        return [self._environment / "bin" / "keystone-manage", "--config-file", self._etc / "keystone.conf"]

    def _make_tables(self, folder: Path) -> None:
        """Fill a new database in a folder, with every service's tables made side by side, and end it again."""
        data = folder / "mysql"
        self._run(
            "prepare the database",
            [
                "mariadb-install-db",
                "--no-defaults",
                "--user=root",
                f"--datadir={data}",
                "--skip-test-db",
                "--auth-root-authentication-method=socket",
            ],
        )
        self._start_mariadb(data)
        self._sql(
            "".join(
                f"create database {name};\n"
                f"grant all on {name}.* to os@'127.0.0.1' identified by '{self._passwords.database}';\n"
                for name in DATABASES
            )
        )
        etc, tools = self._etc, self._environment / "bin"
        nova: list[str | Path] = [tools / "nova-manage", "--config-file", etc / "nova.conf"]
        cell0 = _database(self._settings, self._passwords, "nova_cell0")
        jobs: dict[str, list[list[str | Path]]] = {
            "keystone": [[*self._keystone_manage, "db_sync"]],
            "glance": [[tools / "glance-manage", "--config-file", etc / "glance-api.conf", "db_sync"]],
            "placement": [
                [tools / "placement-manage", "--config-dir", etc, "--config-file", etc / "placement.conf", "db", "sync"]
            ],
            "neutron": [[tools / "neutron-db-manage", "--config-file", etc / "neutron.conf", "upgrade", "heads"]],
            "nova": [
                [*nova, "api_db", "sync"],
                [*nova, "cell_v2", "map_cell0", "--database_connection", cell0],
                [*nova, "cell_v2", "create_cell", "--name", "cell1"],
                [*nova, "db", "sync"],
            ],
        }

        def work(name: str) -> None:
            for command in jobs[name]:
                self._run(f"fill the database of {name}", command)

        with ThreadPoolExecutor(len(jobs)) as pool:
            list(pool.map(work, jobs))
        self._sql("shutdown;\n")
        if not wait(lambda: "mariadb" not in running(self._settings), 60):
            raise LabError(f"Failed to stop the database: {self._tail('mariadb')}")

    def _start_mariadb(self, data: Path) -> None:
        self._spawn(
            "mariadb",
            [
                *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}"),
                *(f"--socket={self._settings.folder}/mysql.sock", "--bind-address=127.0.0.1"),
                *(f"--port={self._settings.ports['mariadb']}", "--skip-log-bin"),
                *("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync"),
                *("--innodb-buffer-pool-size=128M", "--innodb-log-file-size=48M", "--max-connections=500"),
                *("--character-set-server=utf8mb3", "--collation-server=utf8mb3_general_ci"),
                *("--transaction-isolation=READ-COMMITTED", "--performance-schema=OFF", "--skip-name-resolve"),
            ],
        )

        def answers() -> bool:
            return subprocess.run([*self._client, "-e", "select 1"], capture_output=True, check=False).returncode == 0

        if not wait(answers, 60):
            raise LabError(f"Failed to start the database: {self._tail('mariadb')}")

    @property
    def _client(self) -> list[str]:
        return ["mariadb", "--no-defaults", f"--socket={self._settings.folder}/mysql.sock", "-uroot"]

    def _sql(self, statements: str) -> None:
        """Run SQL statements. They contain passwords, so they are passed on stdin."""
        subprocess.run(self._client, input=statements, text=True, check=True, capture_output=True)

    # -- services -----------------------------------------------------------------------------------------------------

    def start(self, names: Sequence[str]) -> None:
        """Start services and wait until each answers.

        :raises LabError: a service did not answer within 90 s; the message has the end of its log
        """
        for name in names:
            self._spawn(
                name,
                [
                    *(self._environment / "bin" / "gunicorn", "--no-control-socket", "--workers", "1"),
                    *("--worker-class", "gthread", "--threads", str(_THREADS.get(name, 8)), "--timeout", "300"),
                    *("--graceful-timeout", "2", "--keep-alive", "75"),
                    # no limit: Nova requests the ports of many servers from Neutron with a URL of 8 KB
                    *("--limit-request-line", "0"),
                    *("--bind", f"127.0.0.1:{self._settings.ports[name]}", "wsgi:application"),
                ],
                {"Q8S_APPLICATION": _APPLICATIONS[name]},
            )
        for name in names:
            if not wait(partial(_answers, self._settings.url(name)), 90):
                raise LabError(
                    f"Failed to start {name}: {self._tail(name)}", hint=f"its log is {self._settings.log / name}.log"
                )

    def start_helper(self, name: str, command: Sequence[str | Path]) -> None:
        """Start a process of the lab that is not an OpenStack service."""
        self._spawn(name, command)

    def _spawn(self, name: str, command: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> None:
        """Start a process in a new session and record its process id.

        :param extra: additional environment variables
        """
        with (self._settings.log / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=_OPENSTACK,
                env={**self._variables(), **(extra or {})},
            )
        _record(self._settings, name, process.pid)

    def _run(self, what: str, command: Sequence[str | Path]) -> None:
        """Run a program and wait for it.

        :raises LabError: it failed: "Failed to <what>: ..."
        """
        done = subprocess.run(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**self._variables(), "OS_BOOTSTRAP_PASSWORD": self._passwords.admin},
        )
        if done.returncode != 0:
            raise LabError(f"Failed to {what}: {(done.stderr or done.stdout).strip()[-800:]}")

    def _variables(self) -> dict[str, str]:
        """Return the environment of the services."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        lab = {name: value for name, value in os.environ.items() if name.startswith("Q8S_")}
        return {
            **kept,
            **lab,
            **_marked(self._settings),
            "ASGI_WORKERS": "1",
            "OS_GLANCE_CONFIG_DIR": str(self._etc),
            "OS_GLANCE_CONFIG_FILES": "glance-api.conf",
            "OS_KEYSTONE_CONFIG_DIR": str(self._etc),
            "OS_KEYSTONE_CONFIG_FILES": "keystone.conf",
            "OS_NEUTRON_CONFIG_DIR": str(self._etc),
            "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
            "OS_NOVA_CONFIG_DIR": str(self._etc),
            "OS_NOVA_CONFIG_FILES": f"{self._environment}/etc/nova/api-paste.ini;nova.conf",
            "OS_NOVA_DISABLE_EVENTLET_PATCHING": "1",
            "OS_PLACEMENT_CONFIG_DIR": str(self._etc),
            "PYTHONPATH": os.pathsep.join(map(str, (_OPENSTACK, _OPENSTACK / "network_driver", self._python))),
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _tail(self, name: str) -> str:
        """Return the last lines of a process's output and log."""
        lines: list[str] = []
        for path in (self._settings.log / f"{name}.out", self._settings.log / f"{name}.log"):
            lines += read(path).splitlines()[-6:]
        return "\n".join(lines)[-1200:]


def start_package_proxy(settings: Settings) -> None:
    """Start apt-cacher-ng as the hosts' package proxy. It keeps packages in the cache.

    The configuration is written here: the distribution's default would replace the mirrors in the hosts' apt sources.
    """
    etc = settings.folder / "etc" / "package-proxy"
    etc.mkdir(parents=True, exist_ok=True)
    settings.log.mkdir(parents=True, exist_ok=True)
    store, lock = _package_store()
    (etc / "acng.conf").write_text(
        f"""\
CacheDir: {store}
LogDir: {settings.log}
SupportDir: /usr/lib/apt-cacher-ng
Port: {settings.proxy_port}
BindAddress: {settings.gateway}
ForeGround: 1
ConnectProto: v4
ExThreshold: 4000
"""
    )
    with (settings.log / "package-proxy.out").open("ab") as output:
        process = subprocess.Popen(
            ["apt-cacher-ng", "-c", str(etc)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **_marked(settings)},
            pass_fds=[lock],
        )
    # the proxy has inherited the descriptor, and holds the lock until it exits
    os.close(lock)
    _record(settings, "package-proxy", process.pid)


def _package_store() -> tuple[Path, int]:
    """Lock a package folder that no other proxy uses. Return the folder and the descriptor of its lock.

    The first lab on a machine always gets the first folder, a concurrent second one always the second.
    """
    for number in itertools.count(1):
        store = cache.cache_root() / f"lab-packages{'' if number == 1 else f'-{number}'}"
        store.mkdir(parents=True, exist_ok=True)
        lock = os.open(store.with_name(f".{store.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return store, lock
    raise AssertionError("never reached")


def _marked(settings: Settings) -> dict[str, str]:
    """Return the environment variables that mark processes of the lab and their child processes."""
    # gunicorn sets the titles of its workers. By default, setproctitle would overwrite the environment in /proc.
    return {_MARK: str(settings.folder), "SPT_NOENV": "1"}


def _record(settings: Settings, name: str, pid: int) -> None:
    """Record a process by its id and start time."""
    folder = settings.folder / "pids"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{pid} {start_time(pid)}")


def running(settings: Settings) -> dict[str, int]:
    """Return the process ids of the lab's running processes, by name."""
    return {name: pid for name, pid in _recorded(settings).items() if pid}


def ended(settings: Settings) -> list[str]:
    """Return the names of the lab's processes that have exited."""
    return [name for name, pid in _recorded(settings).items() if not pid]


def _recorded(settings: Settings) -> dict[str, int | None]:
    """Return the process ids of all recorded processes, by name; None for a process that has exited."""
    found: dict[str, int | None] = {}
    for path in sorted((settings.folder / "pids").glob("*")):
        words = read(path).split()
        alive = len(words) == 2 and start_time(int(words[0])) == words[1]
        found[path.name] = int(words[0]) if alive else None
    return found


def stop_all(settings: Settings) -> None:
    """Stop all recorded processes, the database last. Then kill the remaining processes that have the lab's mark."""
    alive = running(settings)
    database = {name: pid for name, pid in alive.items() if name == "mariadb"}
    for group in ({name: pid for name, pid in alive.items() if name not in database}, database):
        for name, pid in group.items():
            # Each process leads its own session and process group. SIGQUIT is gunicorn's quick shutdown.
            _signal_group(pid, signal.SIGQUIT if name in _APPLICATIONS else signal.SIGTERM)
        end = time.monotonic() + _SECONDS_TO_END
        for pid in group.values():
            if not wait(partial(_ended, pid), max(0, end - time.monotonic())):
                _signal_group(pid, signal.SIGKILL)
                wait(partial(_ended, pid), 5)

    def none_left() -> bool:
        left = _marked_processes(settings)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait(none_left, 10)


def _marked_processes(settings: Settings) -> list[int]:
    """Return the ids of all processes with the lab's mark in their environment, recorded or not."""
    mark = f"{_MARK}={settings.folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has exited, or has no environment
            continue
    return [pid for pid in found if start_time(pid)]


def _ended(pid: int) -> bool:
    return start_time(pid) is None


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _answers(url: str) -> bool:
    """Return whether a service answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status in _UP
    except urllib.error.HTTPError as error:
        return error.code in _UP
    except OSError:
        time.sleep(0.1)
        return False


def _database(settings: Settings, passwords: Secrets, name: str) -> str:
    """Return the SQLAlchemy URL of a database."""
    return f"mysql+pymysql://os:{passwords.database}@127.0.0.1:{settings.ports['mariadb']}/{name}?charset=utf8"


def _use_package_proxy(settings: Settings) -> str:
    """Return the vendor data that sets the package proxy. It is a boothook, which user data does not override."""
    return f"""\
#cloud-boothook
#!/bin/sh
[ ! -d /etc/apt/apt.conf.d ] ||
    echo 'Acquire::http::Proxy "http://{settings.gateway}:{settings.proxy_port}";' > /etc/apt/apt.conf.d/01lab-proxy
"""


def configuration(settings: Settings, environment: Path, passwords: Secrets) -> dict[str, str]:
    """Return the text of all configuration files, by file name."""
    folder = settings.folder
    keystone = settings.url("keystone")

    def user(name: str) -> str:
        return f"""\
auth_type = password
auth_url = {keystone}/v3
username = {name}
password = {passwords.service}
project_name = service
user_domain_id = default
project_domain_id = default
"""

    def token(name: str) -> str:
        return (
            f"[keystone_authtoken]\n{user(name)}www_authenticate_uri = {keystone}/v3\ninterface = internal\n"
            "service_token_roles_required = true\n"
        )

    def database(name: str) -> str:
        return f"connection = {_database(settings, passwords, name)}\n"

    return {
        "keystone.conf": f"""\
[DEFAULT]
log_file = {folder}/log/keystone.log
[database]
{database("keystone")}
[token]
provider = fernet
[fernet_tokens]
key_repository = {folder}/state/fernet
[credential]
key_repository = {folder}/state/credential
[identity]
password_hash_rounds = 4
""",
        "glance-api.conf": f"""\
[DEFAULT]
log_file = {folder}/log/glance.log
enabled_backends = fs:file
enabled_import_methods = [glance-direct]
workers = 1
node_staging_uri = file://{folder}/state/staging
[os_glance_staging_store]
filesystem_store_datadir = {folder}/state/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/state/tasks
[database]
{database("glance")}
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {folder}/glance
[paste_deploy]
flavor = keystone
config_file = {environment}/etc/glance/glance-api-paste.ini
{token("glance")}""",
        "placement.conf": f"""\
[DEFAULT]
log_file = {folder}/log/placement.log
[api]
auth_strategy = keystone
[placement_database]
{database("placement")}
{token("placement")}""",
        "neutron.conf": f"""\
[DEFAULT]
log_file = {folder}/log/neutron.log
state_path = {folder}/state
core_plugin = ml2
service_plugins = router
transport_url = fake://
auth_strategy = keystone
api_paste_config = {environment}/etc/neutron/api-paste.ini
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
rpc_workers = 0
dhcp_agent_notification = false
[oslo_concurrency]
lock_path = {folder}/state/lock
[database]
{database("neutron")}
[ml2]
type_drivers = local,flat
tenant_network_types = local
mechanism_drivers = q8s
extension_drivers = port_security
[ml2_type_flat]
flat_networks = *
{token("neutron")}""",
        "nova.conf": f"""\
[DEFAULT]
log_file = {folder}/log/nova.log
state_path = {folder}/state
my_ip = 127.0.0.1
host = lab
transport_url = fake://
compute_driver = q8s_lab.LabDriver
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
rpc_response_timeout = 60
service_down_time = 86400
sync_power_state_interval = 10
cpu_allocation_ratio = 1.0
[oslo_concurrency]
lock_path = {folder}/state/lock
[database]
{database("nova_cell1")}
[api_database]
{database("nova_api")}
[wsgi]
api_paste_config = {environment}/etc/nova/api-paste.ini
[glance]
endpoint_override = {settings.url("glance")}
[neutron]
{user("neutron")}
endpoint_override = {settings.url("neutron")}
[placement]
{user("placement")}
region_name = {REGION}
[service_user]
{user("nova")}
send_service_user_token = true
[conductor]
workers = 1
[scheduler]
workers = 1
max_attempts = 1
[filter_scheduler]
track_instance_changes = true
[vnc]
enabled = false
[api]
vendordata_jsonfile_path = {folder}/etc/{_VENDOR_DATA}
{token("nova")}""",
        _VENDOR_DATA: json.dumps({"cloud-init": _use_package_proxy(settings)}),
    }
