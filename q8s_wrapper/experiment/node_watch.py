"""Watch while a scenario runs when nodes become Ready or NotReady."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from typing import Final

from q8s_wrapper import messages
from q8s_wrapper.experiment.machines import Machines
from q8s_wrapper.experiment.scenario import Record

_KUBECTL: Final = "/var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf"
# Of its own API server: the name of the Kubernetes API may lead to another one, which is off.
_WATCH_NODES: Final = (
    f"exec 3<&0; NO_PROXY='*' no_proxy='*' {_KUBECTL} --server=https://ADDRESS:6443 get nodes --watch --no-headers "
    "-o custom-columns='N:.metadata.name,R:.status.conditions[?(@.type==\"Ready\")].status' & p=$!; "
    "{ cat <&3; kill $p; } >/dev/null 2>&1 & wait $p"
)
_STATES: Final = {"True": "Ready", "False": "NotReady"}
_PAUSE: Final = 2  # seconds before the next control plane is asked
_UNWATCHED_SECONDS: Final = 30  # after which it is recorded that no control plane answers


class NodeWatch:
    """A watch of the cluster's nodes, for the record of a scenario."""

    def __init__(self, machines: Machines, record: Record, stopped: threading.Event) -> None:
        """Prepare a watch.

        :param stopped: is set when the scenario ends
        """
        self._machines = machines
        self._record = record
        self._stopped = stopped
        self._process: subprocess.Popen[str] | None = None
        self._states: dict[str, str] = {}  # of nodes, as the API server tells

    def state(self, node: str) -> str:
        """Return the state of a node: Ready, NotReady or Unknown."""
        return self._states.get(node, "Unknown")

    def run(self) -> None:
        """Record when nodes are Ready, as the API server of a control plane tells. The next one is asked if it ends."""
        from ansible_collections.q8s.emu.plugins.module_utils import _ssh_errors

        planes = self._machines.control_planes()
        silent, since, unwatched = 0, time.monotonic(), False
        for name, address in itertools.cycle(planes.items()):
            if self._stopped.is_set():
                return
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
                self._process = self._machines.open_root(name, _WATCH_NODES.replace("ADDRESS", address), errors)
                silent += 1
                for line in self._process.stdout or ():
                    if unwatched:
                        self._record.write("watched", node=name, at=self._moment())
                    silent, unwatched = 0, False
                    self._note_state(line)
                self._process.wait()
                errors.seek(0)
                reason = f"{name}: {_ssh_errors.describe(errors.read()) or 'no message'}"
            seconds = time.monotonic() - since
            if not silent:
                since = time.monotonic()
            elif silent >= len(planes) and seconds >= _UNWATCHED_SECONDS and not (unwatched or self._stopped.is_set()):
                unwatched = True
                at = self._moment()
                self._record.write("unwatched", at=at, since=round(max(0.0, at - seconds), 3), error=reason)
                lacks = "so the record lacks when nodes are Ready"
                messages.warning(f"no control plane has answered for {seconds:.0f} s, {lacks}: {reason}")
            self._stopped.wait(_PAUSE)

    def _note_state(self, line: str) -> None:
        """Record a node's state if it has changed."""
        node, _, status = line.strip().partition(" ")
        state = _STATES.get(status.strip(), "Unknown")
        if self._states.get(node) != state:
            if node in self._states or state != "Ready":
                self._record.write("node", node=node, state=state, at=self._moment())
            self._states[node] = state

    def _moment(self) -> float:
        """Return the scenario's time for the record. The watch starts before the scenario."""
        return round(max(0.0, self._record.now), 3)

    def close(self) -> None:
        """End the watch. The caller has set ``stopped``."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
