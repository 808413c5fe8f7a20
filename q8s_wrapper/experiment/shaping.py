"""The links that guests shape: what each guest has, and the change to what it shall have, through ssh."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from q8s_wrapper.config import COLLECTIONS
from q8s_wrapper.experiment.machines import COMMAND_SECONDS, CommandError, Machines

_FILES: Final = COLLECTIONS / "ansible_collections" / "q8s" / "emu" / "roles" / "emulated_worker" / "files"
_CONCURRENT: Final = 50  # connections, as Ansible's forks
# Says on the host that its guest has links, as the role emulated_worker does (vars/main.yml has the folder).
_MARK: Final = "touch /var/lib/q8s-guest/links"
_UNMARK: Final = "rm -f /var/lib/q8s-guest/links"


class Shaping:
    """The links of a cluster's guests. Different guests may be changed by different threads."""

    def __init__(self, cluster: Any, machines: Machines) -> None:
        from ansible_collections.q8s.emu.plugins.module_utils import _links_node

        self._links = _links_node
        self._cluster = cluster
        self._machines = machines
        self._addresses = machines.addresses()
        self.guests = tuple(name for name, values in machines.hosts.items() if "q8s_host" in values)
        self.begun = False  # whether the change of a guest has begun
        self.found: dict[str, Any] = {}  # what guests have, by name, as far as it is known
        self._nothing = _links_node.NodeLinks(exempt=cluster.links.exempt)
        self._kept = self.wanted()
        self._program, self._unit, self._reader = (
            (_FILES / name).read_text(encoding="utf-8") for name in ("q8s-links", "q8s-links.service", "links-read.sh")
        )

    def wanted(self, rules: Iterable[Any] = ()) -> dict[str, Any]:
        """Return what each guest shall shape.

        :param rules: rules that apply instead of the file's
        """
        shaped: Mapping[str, Any] = self._links.node_links(self._cluster, self._addresses, rules)
        return {name: shaped.get(name, self._nothing) for name in self.guests}

    def mark(self, name: str) -> None:
        """Record on a guest's host that the guest has links.

        :raises CommandError: the host does not answer
        """
        self._machines.sudo(self._machines.host_of(name), _MARK)

    def read(self, name: str, seconds: float = COMMAND_SECONDS) -> None:
        """Read what a guest has.

        :raises CommandError: it does not answer
        :raises ValueError: its answer is not understood
        """
        self.found.pop(name, None)
        self.found[name] = self._links.read_found(self._machines.run(name, self._reader, seconds))

    def apply(self, name: str, now: Any) -> Any:
        """Let a guest shape this until it boots. Return the change. Whoever calls this has marked the host.

        :param now: an entry of :meth:`wanted`
        :raises CommandError: it does not answer, or tc refuses it
        :raises ValueError: its answer is not understood
        """
        if name not in self.found:
            self.read(name)
        kept = self._kept[name]
        change = self._links.change(self.found[name], kept, now, self._program, self._unit)
        if change.command:
            self.begun = True
            del self.found[name]  # it is not known if this fails
            self._machines.run(name, change.command)
            self.found[name] = self._links.found_after(kept, now, self._program, self._unit)
        return change

    def read_everywhere(self) -> list[str]:
        """Read what all guests have, side by side. Return the errors."""
        return self._everywhere(self.read)

    def apply_everywhere(self, rules: Sequence[Any]) -> list[str]:
        """Let all guests shape what follows from the file and from rules, side by side. Return the errors."""
        wanted = self.wanted(rules)

        def apply(name: str) -> None:
            self.read(name)
            if (self._kept[name].count or wanted[name].count) and not self.found[name].has_files:
                self.mark(name)  # first, so that an interrupted run leaves no links that nobody knows of
            change = self.apply(name, wanted[name])
            if change.command:
                if not change.has_links:
                    self._machines.sudo(self._machines.host_of(name), _UNMARK)
                self.read(name)

        return self._everywhere(apply)

    def _everywhere(self, do: Callable[[str], None]) -> list[str]:
        """Call a function for all guests, side by side. Return the errors."""

        def attempt(name: str) -> str:
            was_open = self._machines.is_open(name)
            try:
                try:
                    do(name)
                except CommandError:
                    if not was_open:
                        raise
                    self._machines.close(name)  # of an earlier command: the guest may have booted since
                    do(name)
            except CommandError as error:  # it has the machine's name
                return str(error)
            except ValueError as error:
                return f"{name}: {error}"
            return ""

        if not self.guests:
            return []
        with ThreadPoolExecutor(min(len(self.guests), _CONCURRENT)) as pool:
            return [error for error in pool.map(attempt, self.guests) if error]

    def report(self, rules: Sequence[Any]) -> dict[str, Any]:
        """Compare what guests have with what they shall have, as the filter ``link_report`` does."""
        from ansible_collections.q8s.emu.plugins.module_utils import _links_cluster, _links_report

        known = _links_cluster.LinkedCluster(self._cluster, self._addresses, tuple(rules))
        found: dict[str, Any] = _links_report.report(known, self.found)
        return found
