"""How exactly links keep a rate that is always filled: the classes of a link between two network namespaces.

    python -m benchmarks.link_rate [--rate MBIT,...] [--seconds N]

An emulated guest cannot fill high rates (benchmarks.link_accuracy); here, TCP does. The commands of tc are those of a
guest's links. Where the kernel lacks netem or flower, the link's class alone is loaded, which is said. Needs root.
Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from q8s_wrapper.config import add_collections_to_path

_SENDER, _RECEIVER = "q8s-rate-a", "q8s-rate-b"  # namespaces; their ends of the cable are called "cable"
_ADDRESSES: Final = {_SENDER: "192.0.2.1", _RECEIVER: "192.0.2.2"}
_PORT: Final = 4711
_WARM_UP: Final = 2.0  # seconds
_RECEIVE: Final = (
    "import socket; s = socket.create_server(('{address}', {port}))\n"
    "while True:\n  c = s.accept()[0]\n  while c.recv(1 << 20): pass"
)
_SEND: Final = (
    "import socket; s = socket.create_connection(('{address}', {port})); b = bytes(1 << 16)\nwhile True: s.sendall(b)"
)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _tc(*words: str, batch: str) -> bool:
    """Run tc. Return whether it succeeded."""
    command = ["ip", "netns", "exec", _SENDER, "tc", *words]
    return subprocess.run(command, input=batch, text=True, stderr=subprocess.DEVNULL, check=False).returncode == 0


@contextlib.contextmanager
def _namespaces() -> Iterator[None]:
    """Make two network namespaces with a cable between them."""
    try:
        for name in _ADDRESSES:
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", _SENDER, "type", "veth", "peer", "name", "cable", "netns", _RECEIVER)
        for name, address in _ADDRESSES.items():
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up", "gso_max_segs", "1")  # else one packet may have 64 KB
        yield
    finally:
        for name in _ADDRESSES:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def _running(namespace: str, program: str) -> Iterator[None]:
    code = program.format(address=_ADDRESSES[_RECEIVER], port=_PORT)
    with subprocess.Popen(["ip", "netns", "exec", namespace, sys.executable, "-c", code]) as process:
        try:
            time.sleep(0.5)  # until it listens
            yield
        finally:
            process.kill()


def _load(rate: int) -> bool:
    """Load a link with a rate in Mbit/s, as a guest does. Return whether the kernel has all that is needed."""
    from ansible_collections.q8s.emu.plugins.module_utils import _links, _links_tc

    _tc("qdisc", "del", "dev", "cable", "root", batch="")
    link = _links.Impairment(rate=rate * 1_000_000)
    batch = _links_tc.setup_batch("cable", {_ADDRESSES[_RECEIVER]: link}, "dst_ip", ())
    if _tc("-batch", "-", batch=batch):
        return True
    # The link's class alone, for all packets.
    lines = [line for line in batch.splitlines() if " netem " not in line and not line.startswith("filter ")]
    number = lines[-1].partition(" classid 1:")[2].split()[0]
    lines[0] = lines[0].replace("default ffff", f"default {number}")
    if not _tc("-batch", "-", batch="\n".join(["qdisc del dev cable root", *lines]) + "\n"):
        sys.exit("Failed to load the link: this kernel has no HTB")
    return False


def _sent() -> tuple[float, int]:
    """Return the moment in seconds, and the bytes that the link's class has sent."""
    command = ["ip", "netns", "exec", _SENDER, "tc", "-s", "class", "show", "dev", "cable"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"class htb 1:(?!ffff)\S+ .*\n Sent (\d+) bytes", output)
    if not found:
        sys.exit(f"Failed to find the link's class in {output!r}")
    return time.monotonic(), int(found[1])


def main(argv: Sequence[str]) -> int:
    """Measure, and print the table on stdout."""
    parser = argparse.ArgumentParser(prog="benchmarks.link_rate", description="Accuracy of rates that are filled.")
    parser.add_argument("--rate", default="1,5,20,100,500", help="values in Mbit/s (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="for each value (%(default)s)")
    arguments = parser.parse_args(argv)
    rates = [int(rate) for rate in arguments.rate.split(",")]
    add_collections_to_path()
    with _namespaces(), _running(_RECEIVER, _RECEIVE):
        print("| promised | sent | off by |\n| --- | --- | --- |")
        for rate in rates:
            if not _load(rate) and rate == rates[0]:
                print("This kernel lacks netem or flower: the class of the link has a plain queue", file=sys.stderr)
            with _running(_SENDER, _SEND):
                time.sleep(_WARM_UP)
                begin, before = _sent()
                time.sleep(arguments.seconds)
                end, after = _sent()
            found = (after - before) * 8e-6 / (end - begin)
            print(f"| {rate} Mbit/s | {found:.4g} Mbit/s | {found / rate - 1:+.2%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
