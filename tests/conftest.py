"""What all tests share: the lab, and a summary that says loudly what could not run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from q8s_lab import settings

pytest_plugins = ["tests.upstream"]

Q8S_RUN = Path(sys.executable).with_name("q8s-run")
# A shell starts what it puts into the background with SIGINT ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _settle_lab() -> None:
    """Give each worker of pytest-xdist but the first a lab of its own, beside that of the environment."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    if not number:
        return
    first = settings.load()
    # a lab has two subnets: its hosts without OpenStack are in the one after its own
    subnet = first.subnet.network_address + 2 * number * first.subnet.num_addresses
    os.environ |= {
        "Q8S_LAB_DIR": f"{first.folder}-{number}",
        "Q8S_LAB_BRIDGE": f"{first.bridge}-{number}",
        "Q8S_LAB_SUBNET": f"{subnet}/{first.subnet.prefixlen}",
        "Q8S_LAB_PORT": str(first.port_base + number * 20),  # a lab has 20 ports
    }


_settle_lab()


def _lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``q8s-run lab ...``; its progress, on stderr, is shown."""
    return subprocess.run([Q8S_RUN, "lab", *arguments], stdout=subprocess.PIPE, text=True, check=False)


@pytest.fixture(scope="session")
def lab() -> Iterator[Mapping[str, str]]:
    """A lab that runs; gives the environment variables that choose its cloud.

    One that is up already is used and left as it is; one that is started here is ended with the session.
    """
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    if not Path("/dev/net/tun").exists():
        pytest.skip("the lab needs /dev/net/tun, which is missing on this machine")
    place = settings.load()
    found = _lab("status", "--json")
    assert found.returncode == 0, "q8s-run lab status failed; its message is above"
    was_up = bool(json.loads(found.stdout)["services"])
    if not was_up:
        assert _lab("up").returncode == 0, "q8s-run lab up failed; its message is above"
    yield {"OS_CLIENT_CONFIG_FILE": str(place.clouds_yaml), "OS_CLOUD": settings.CLOUD_NAME}
    if not was_up:
        assert _lab("down").returncode == 0, "q8s-run lab down failed; its message is above"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file share a worker, and what they prepare; each Molecule scenario stands by itself."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith("tests/molecule/") else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first (virtual machines, Molecule): at the end they would keep one worker busy, and the other not."""
    first = ("vm", "molecule")
    items.sort(key=lambda item: next((i for i, name in enumerate(first) if item.get_closest_marker(name)), len(first)))


@pytest.hookimpl(tryfirst=True)  # before what the test needs is made
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is long runs where it is asked for."""
    if (mark := item.get_closest_marker("long")) and not os.environ.get("Q8S_TEST_LONG"):
        pytest.skip(f"{mark.args[0]}: part of make test-long (Q8S_TEST_LONG=1)")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Skipped tests are untested behaviour: say how many and why, where nobody overlooks it."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        # (file, line, reason) for a skip, a plain text for an expected failure
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if not reasons:
        return
    terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} test{'s' if count > 1 else ''} could not run: {reason}", red=True)
