"""A deploy by an ordinary user with a wheel, an empty cache and no rights: the initial control plane builds.

Takes as long as a build of everything for one architecture, so it is part of ``make test-long``.
"""

from __future__ import annotations

import http.server
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from q8s_lab import settings

pytestmark = [
    pytest.mark.lab,
    pytest.mark.long("half an hour"),
]

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
SECONDS: Final = 5400


class Tunnel(http.server.BaseHTTPRequestHandler):
    """A proxy that only knows CONNECT: the lab's servers have no other way out."""

    def do_CONNECT(self) -> None:
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while True:
                readable, _, _ = select.select([*ends], [], [], 300)
                for end in readable:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    ends[end].sendall(data)
                if not readable:
                    return

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def tunnel() -> Iterator[str]:
    """The URL of the proxy, on the lab's gateway."""
    server = http.server.ThreadingHTTPServer((str(settings.load().gateway), 0), Tunnel)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{server.server_address[0]}:{server.server_port}"
    server.shutdown()


def test_the_initial_control_plane_builds(user: Any, cluster_file: str, cloud: dict[str, str], tunnel: str) -> None:
    lab = settings.load()
    data = yaml.safe_load((user.folder / cluster_file).read_text())
    data["cluster_definition"]["worker"] = {"x86-small": 1}
    data["cluster_definition"]["master_node_flavor"] = "c1.large"
    data["proxy"] = {"http_proxy": f"http://{lab.gateway}:{lab.proxy_port}", "https_proxy": tunnel}
    (user.folder / "remote.yaml").write_text(yaml.safe_dump(data))
    environment = {**cloud, "Q8S_BUILD": "cluster"}

    plan = user.run("q8s-run", "plan", "remote.yaml", **environment)
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert "build: control-plane-x86_64, bundle-x86_64, image-x86_64, on the initial control plane" in " ".join(
        plan.stdout.split()
    )
    try:
        # Whoever has a certificate authority of their own brings it to the servers.
        created = user.run("q8s-run", "deploy", "remote.yaml", "--tags", "cloud", "--yes", seconds=900, **environment)
        assert created.returncode == 0, created.stdout + created.stderr
        trust = user.run(
            "sh", "-c", f"{user.programs}/q8s-run ssh remote.yaml demo-control-plane -- "
            f"'sudo tee {CERTIFICATES} >/dev/null' <{CERTIFICATES}", **environment,
        )  # fmt: skip
        assert trust.returncode == 0, trust.stderr

        done = user.run("q8s-run", "deploy", "remote.yaml", "--yes", seconds=SECONDS, **environment)
        print(done.stdout, done.stderr, sep="\n")
        assert done.returncode == 0
        assert "] control-plane-x86_64: " in done.stderr, "the build shows its steps"
        cached = list((user.home / ".cache").rglob("*.qcow2"))
        assert cached == [], "nothing was built on this machine"

        again = user.run("q8s-run", "deploy", "remote.yaml", "--yes", seconds=900, **environment)
        assert again.returncode == 0, again.stdout + again.stderr
        assert ", 0 changes" in again.stderr
        verified = user.run("q8s-run", "verify", "remote.yaml", seconds=900, **environment)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        destroyed = user.run("q8s-run", "destroy", "remote.yaml", "--yes", seconds=900, **environment)
        assert destroyed.returncode == 0, destroyed.stdout + destroyed.stderr
