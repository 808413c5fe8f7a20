"""Start and stop the OpenStack services and their database."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_lab import processes
from q8s_lab.configuration import Secrets, configuration
from q8s_lab.configuration import database_url as _database  # the text of _make_tables is a key of the cache
from q8s_lab.environment import LOCK
from q8s_lab.errors import LabError
from q8s_lab.machine import read, wait
from q8s_lab.processes import running
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
_UP: Final = (200, 300, 401)


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
        processes.record(self._settings, name, process.pid)

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
            **processes.mark(self._settings),
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


def stop_all(settings: Settings) -> None:
    """Stop the services and all other processes of the lab, the database last."""
    # SIGQUIT is gunicorn's quick shutdown.
    processes.stop_all(settings, signals=dict.fromkeys(_APPLICATIONS, signal.SIGQUIT), last="mariadb")


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
