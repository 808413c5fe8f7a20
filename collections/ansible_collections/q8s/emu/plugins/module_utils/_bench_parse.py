# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse the output of measuring tools. Each parser returns figures by name; the names end with the unit. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_PING = re.compile(rf"= {_NUMBER}/{_NUMBER}/{_NUMBER}/{_NUMBER} ms")
_PING_LOSS = re.compile(rf"{_NUMBER}% packet loss")
_SOCKPERF_AVERAGE = re.compile(rf"Summary: (?:Latency|Round trip) is {_NUMBER} usec")
_SOCKPERF_PERCENTILE = re.compile(rf"percentile {_NUMBER} =\s+{_NUMBER}")
_SOCKPERF_DROPPED = re.compile(r"# dropped messages = ([0-9]+)")
_STRESS = re.compile(rf"metrc: \[[0-9]+\] \S+ +[0-9]+ +{_NUMBER} +{_NUMBER} +{_NUMBER} +{_NUMBER} +{_NUMBER} ")
_STRESS_RATE = re.compile(rf"metrc: \[[0-9]+\] \S+ +{_NUMBER} MB per sec memory (read|write) rate")
_OPENSSL = re.compile(rf"^\+F:[0-9]+:[^:]+:{_NUMBER}$", re.MULTILINE)
_SEVEN_ZIP = re.compile(
    r"^Avr: +([0-9]+) +[0-9]+ +[0-9]+ +([0-9]+) +\| +([0-9]+) +[0-9]+ +[0-9]+ +([0-9]+)", re.MULTILINE
)


class ParseError(Exception):
    """A tool's output has not the expected form, or it reports an error."""


def parse(tool: str, text: str) -> dict[str, float]:
    """Return the figures in a tool's output.

    :raises ParseError: the output has none
    """
    return _PARSERS[tool](text)


def _document(tool: str, text: str) -> Any:
    """Return the JSON document in a tool's output, which may begin with messages."""
    start = text.find("{")
    try:
        return json.JSONDecoder().raw_decode(text[start:])[0]
    except ValueError as error:
        raise ParseError(f"{tool} wrote no JSON: {_last_line(text)}") from error


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def parse_iperf3(text: str) -> dict[str, float]:
    """Return the bandwidth that arrived, and what else iperf3 measured."""
    data = _document("iperf3", text)
    if data.get("error"):
        raise ParseError(f"iperf3: {data['error']}")
    try:
        end, start = data["end"], data["start"]
        received = end["sum_received"]
        found = {
            "received_mbit_s": received["bits_per_second"] / 1e6,
            "sent_mbit_s": end["sum_sent"]["bits_per_second"] / 1e6,
            # The seconds that count, of the client's clock.
            "from_epoch_s": float(start["timestamp"]["timesecs"] + start["test_start"]["omit"]),
            "until_epoch_s": float(
                start["timestamp"]["timesecs"] + start["test_start"]["omit"] + start["test_start"]["duration"]
            ),
        }
        if start["test_start"]["protocol"] == "UDP":
            # Not iperf3's own share, which counts losses of the warm-up and may exceed 100.
            found["lost_percent"] = max(0.0, 100 * (1 - found["received_mbit_s"] / found["sent_mbit_s"]))
            found["jitter_ms"] = float(end["sum"]["jitter_ms"])
        else:
            found["retransmits"] = float(end["sum_sent"].get("retransmits", 0))
    except ZeroDivisionError as error:
        raise ParseError("iperf3 sent nothing") from error
    except (KeyError, TypeError) as error:
        raise ParseError(f"iperf3's result has no {error}") from error
    return found


def parse_ping(text: str) -> dict[str, float]:
    """Return the round-trip times of ping, and the share of lost packets."""
    times, loss = _PING.search(text), _PING_LOSS.search(text)
    if not times or not loss:
        raise ParseError(f"ping had no answer: {_last_line(text)}")
    names = ("rtt_min_ms", "rtt_mean_ms", "rtt_max_ms", "rtt_deviation_ms")
    return {**dict(zip(names, map(float, times.groups()))), "lost_percent": float(loss[1])}


def parse_sockperf(text: str) -> dict[str, float]:
    """Return the round-trip times of sockperf, which reports half of them: the latency of one way."""
    average = _SOCKPERF_AVERAGE.search(text)
    if not average:
        raise ParseError(f"sockperf: {_last_line(text)}")
    percentiles = {name: 2 * float(value) / 1000 for name, value in _SOCKPERF_PERCENTILE.findall(text)}
    dropped = _SOCKPERF_DROPPED.search(text)
    return {
        "rtt_mean_ms": 2 * float(average[1]) / 1000,
        "rtt_median_ms": percentiles["50.000"],
        "rtt_p99_ms": percentiles["99.000"],
        "dropped": float(dropped[1]) if dropped else 0.0,
    }


def parse_stress_ng(text: str) -> dict[str, float]:
    """Return stress-ng's operations per second of real time, and the rates of memory if it reports them."""
    found = _STRESS.search(text)
    if not found:
        raise ParseError(f"stress-ng: {_last_line(text)}")
    rates = {f"{side}_mb_per_s": float(rate) for rate, side in _STRESS_RATE.findall(text)}
    return {"ops_per_s": float(found[4]), **rates}


def parse_openssl(text: str) -> dict[str, float]:
    """Return the rate of ``openssl speed -mr``, with ``-multi`` the sum of all processes."""
    found = _OPENSSL.search(text)
    if not found:
        raise ParseError(f"openssl: {_last_line(text)}")
    return {"mb_per_s": float(found[1]) / 1e6}


def parse_7za(text: str) -> dict[str, float]:
    """Return the ratings of ``7za b`` in MIPS."""
    found = _SEVEN_ZIP.search(text)
    if not found:
        raise ParseError(f"7za: {_last_line(text)}")
    return {"compress_mips": float(found[2]), "decompress_mips": float(found[4])}


def parse_fio(text: str) -> dict[str, float]:
    """Return rate, operations per second and latency of fio's job, which only reads or only writes.

    The latency of a write that is followed by fsync includes the fsync, which fio reports apart.
    """
    data = _document("fio", text)
    try:
        [job] = data["jobs"]
        if job["error"]:
            raise ParseError(f"fio: error {job['error']}")
        side: Mapping[str, Any] = max((job["read"], job["write"]), key=lambda side: side["io_bytes"])
        sync = job.get("sync") or {}
        synced = float(sync["lat_ns"]["mean"]) if sync.get("total_ios") else 0.0
        return {
            "mb_per_s": side["bw_bytes"] / 1e6,
            "iops": float(side["iops"]),
            "latency_mean_ms": (side["clat_ns"]["mean"] + synced) / 1e6,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ParseError(f"fio's result has no {error}") from error


def parse_sleep(text: str) -> dict[str, float]:
    """Return nothing: while the cluster is idle, only its nodes' counters are measured."""
    return {}


_PARSERS = {
    "7za": parse_7za,
    "fio": parse_fio,
    "iperf3": parse_iperf3,
    "openssl": parse_openssl,
    "ping": parse_ping,
    "sleep": parse_sleep,
    "sockperf": parse_sockperf,
    "stress-ng": parse_stress_ng,
}
