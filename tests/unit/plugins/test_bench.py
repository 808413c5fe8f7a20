"""A benchmark: its plan, the figures in recorded output of the tools, the load of nodes, tables, and the folder."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.action import bench_report
from ansible_collections.q8s.emu.plugins.filter.bench_commands import bench_commands
from ansible_collections.q8s.emu.plugins.filter.bench_plan import bench_plan
from ansible_collections.q8s.emu.plugins.module_utils import (
    _bench_page,
    _bench_parse,
    _bench_plan,
    _bench_results,
    _bench_resume,
    _bench_tables,
    _bench_topology,
    _kubernetes,
    _results_folder,
    _spec,
)
from ansible_collections.q8s.emu.plugins.module_utils._bench_plan import Node, progress_line

from tests.unit.plugins.local_action import run_action

OUTPUT = Path(__file__).parent / "bench_output"
DEMO = _spec.load_file(str(Path(__file__).parents[3] / "examples/demo.yaml"))
MIB = 1 << 20


def recorded(name: str) -> str:
    """Return what a tool of the image printed on an x86_64 machine (27 and, on a busy one, 28 November 2026).

    If the name says so, in a pod of the demo's arm64 worker (30 November 2026).
    """
    return (OUTPUT / name).read_text()


@pytest.mark.parametrize(
    ("tool", "file", "figures"),
    [
        ("iperf3", "iperf3-tcp.json", {"received_mbit_s": 34574.68, "retransmits": 1.0, "from_epoch_s": 1795777258.0}),
        ("iperf3", "iperf3-udp.json", {"received_mbit_s": 3461.24, "lost_percent": 0.072802, "jitter_ms": 0.0061109}),
        ("ping", "ping.txt", {"rtt_mean_ms": 0.051, "rtt_deviation_ms": 0.006, "lost_percent": 0.0}),
        # sockperf prints the latency of one way: 10.559 µs is the median.
        ("sockperf", "sockperf-tcp.txt", {"rtt_median_ms": 0.021118, "rtt_p99_ms": 0.06033}),
        ("sockperf", "sockperf-udp.txt", {"rtt_median_ms": 0.013694, "dropped": 0.0}),
        ("stress-ng", "stress-int64.txt", {"ops_per_s": 1216.95}),
        ("stress-ng", "stress-double-all-cores.txt", {"ops_per_s": 322.75}),
        ("stress-ng", "stress-stream.txt", {"ops_per_s": 95.57}),
        (
            "stress-ng",
            "stress-stream-rate.txt",
            {"ops_per_s": 31.39, "read_mb_per_s": 3109.06, "write_mb_per_s": 2072.71},
        ),
        ("openssl", "openssl-aes.txt", {"mb_per_s": 8734.64}),
        # The sum, not the first process.
        ("openssl", "openssl-aes-all-cores.txt", {"mb_per_s": 640.975}),
        ("openssl", "openssl-sha256.txt", {"mb_per_s": 1321.16}),
        ("7za", "7za.txt", {"compress_mips": 6188.0, "decompress_mips": 5321.0}),
        ("fio", "fio.json", {"mb_per_s": 422.41, "iops": 103127.44, "latency_mean_ms": 0.152226}),
        ("fio", "fio-write-fsync.json", {"mb_per_s": 4.2707, "iops": 1042.65, "latency_mean_ms": 0.948006}),
        ("ping", "ping-arm64.txt", {"rtt_mean_ms": 2.958, "rtt_max_ms": 18.374, "lost_percent": 0.0}),
        ("iperf3", "iperf3-udp-arm64.json", {"received_mbit_s": 2.100619, "lost_percent": 17.066292}),
        ("stress-ng", "stress-stream-arm64.txt", {"ops_per_s": 0.81, "read_mb_per_s": 80.22, "write_mb_per_s": 53.48}),
        ("openssl", "openssl-aes-all-cores-arm64.txt", {"mb_per_s": 33.37655}),
        ("7za", "7za-arm64.txt", {"compress_mips": 265.0, "decompress_mips": 363.0}),
        ("fio", "fio-random-write.json", {"mb_per_s": 41.2177, "iops": 10062.91, "latency_mean_ms": 1.518652}),
    ],
)
def test_figures_of_recorded_output(tool: str, file: str, figures: dict[str, float]) -> None:
    found = _bench_parse.parse(tool, recorded(file))
    assert {name: found[name] for name in figures} == pytest.approx(figures, rel=1e-4)


def test_a_tool_that_failed_has_no_figures() -> None:
    with pytest.raises(_bench_parse.ParseError, match="unable to connect to server"):
        _bench_parse.parse("iperf3", recorded("iperf3-refused.json"))
    for tool in ("iperf3", "ping", "sockperf", "stress-ng", "openssl", "7za", "fio"):
        with pytest.raises(_bench_parse.ParseError, match="Killed"):
            _bench_parse.parse(tool, "first line\nKilled\n")
        with pytest.raises(_bench_parse.ParseError, match="nothing"):
            _bench_parse.parse(tool, "")


def node(name: str, kind: str = "arm-mid", **changes: Any) -> Node:
    values = {"name": name, "kind": kind, "architecture": "aarch64", "emulated": kind != "control-plane", "host": "",
              "address": f"10.0.0.{len(name)}", "cpus": 2, "allocatable": 1900 * MIB, "requested": 0}  # fmt: skip
    return Node(**{**values, **changes})


def registered(name: str, memory: str = "1900Mi", ready: str = "True") -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}],
            "allocatable": {"cpu": "2", "memory": memory},
            "conditions": [{"type": "Ready", "status": ready, "message": "container runtime is down"}],
        },
    }


def pod(name: str, on: str, memory: str, namespace: str = "default", phase: str = "Running") -> dict[str, Any]:
    containers = [{"resources": {"requests": {"memory": memory}}}, {}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": on, "containers": containers},
        "status": {"phase": phase},
    }


WANTED = {"name": "arm-1", "kind": "arm", "architecture": "aarch64", "emulated": True, "host": "demo-arm-1"}


def test_memory_that_pods_requested_is_not_left() -> None:
    items = [
        registered("arm-1"),
        pod("a", "arm-1", "1Gi"),
        pod("b", "arm-1", "100Mi", phase="Succeeded"),
        pod("c", "arm-1", "100Mi", namespace="q8s-bench"),
        pod("d", "arm-2", "100Mi"),
    ]
    [found] = _bench_plan.read_nodes(items, [WANTED])
    assert (found.allocatable, found.requested, found.cpus) == (1900 * MIB, 1024 * MIB, 2)
    assert found.problem == "" and found.address == "10.0.0.7"


def test_a_node_without_memory_for_the_pods_is_named_before_the_start() -> None:
    small = node("small", allocatable=600 * MIB, requested=200 * MIB)
    with pytest.raises(_bench_plan.BenchError, match=r"node small has 400 MiB of memory left.*need 480 MiB"):
        _bench_plan.choose_nodes([node("large"), small], [])
    assert _bench_plan.choose_nodes([node("large"), small], ["large"]) == [node("large")]


def test_a_node_that_is_not_ready_is_named_unless_others_are_measured() -> None:
    broken = node("broken", problem="container runtime is down")
    with pytest.raises(
        _bench_plan.BenchError, match="broken is not Ready: container runtime is down\\nhint: `q8s-run status FILE`"
    ):
        _bench_plan.choose_nodes([node("good"), broken], [])
    assert _bench_plan.choose_nodes([node("good"), broken], ["good"]) == [node("good")]
    with pytest.raises(_bench_plan.BenchError, match="nobody: no such node; allowed are good"):
        _bench_plan.choose_nodes([node("good")], ["nobody"])


@pytest.mark.parametrize(
    ("text", "value"), [("2044Mi", 2044 * MIB), ("1Gi", 1 << 30), ("500M", 500_000_000), ("7", 7), ("2500m", 2)]
)
def test_quantities(text: str, value: int) -> None:
    assert _kubernetes.parse_quantity(text) == value


THREE = [node("cp", "control-plane"), node("arm-1"), node("arm-2"), node("arm-3")]


def test_the_plan_has_each_path_and_each_kind() -> None:
    found = _bench_plan.measurements(THREE, ["network", "cpu"], _bench_plan.QUICK)
    assert len({one.name for one in found}) == len(found)
    bandwidth = [one for one in found if one.metric == "bandwidth"]
    assert {(one.path, one.protocol) for one in bandwidth} == {
        (path, protocol) for path in ("pod-pod", "pod-service") for protocol in ("tcp", "udp")
    }
    # Two of a kind suffice for a path within it, and one for its speed.
    assert {(one.client, one.server) for one in bandwidth} == {("cp", "arm-1"), ("cp", "arm-2"), ("arm-1", "arm-2")}
    assert [one.client for one in found if one.metric == "integer"] == ["cp", "arm-1"]
    assert {one.group for one in found} == {"idle", "network", "cpu"}


def test_a_full_benchmark_repeats_and_measures_both_directions() -> None:
    found = _bench_plan.measurements(THREE[:2], ["network"], _bench_plan.FULL)
    tcp = [one for one in found if (one.metric, one.protocol) == ("bandwidth", "tcp")]
    ways = [("pod-pod", "cp"), ("pod-service", "cp"), ("pod-pod", "arm-1")]
    assert [(one.path, one.client, one.repetition) for one in tcp] == [(*way, n) for n in (1, 2, 3) for way in ways]


def test_a_full_benchmark_measures_each_kind_on_one_core_and_on_all() -> None:
    four = node("arm-4", cpus=4)
    full = {one.metric: one.argv for one in _bench_plan.measurements([four], ["cpu", "disk"], _bench_plan.FULL)}
    assert full["floating-point-all-cores"][-4:] == ("--cpu", "4", "--cpu-method", "double")
    assert full["aes-128-gcm-all-cores"][-4:] == ("-multi", "4", "-evp", "aes-128-gcm")
    assert "-multi" not in full["aes-128-gcm"]
    assert "--rw=randwrite" in full["random-write"]
    quick = {one.metric for one in _bench_plan.measurements([four], ["cpu", "disk"], _bench_plan.QUICK)}
    assert {*full} - quick == {"floating-point-all-cores", "aes-128-gcm-all-cores", "random-write", "7-zip"}


def test_a_full_benchmark_of_several_types_has_the_time_that_it_takes() -> None:
    types = [registered(server.node) for server in DEMO.servers()]
    cluster = DEMO.to_mapping()
    quick, full = (bench_plan(types, cluster, quick=quick) for quick in (True, False))
    assert full["limit_seconds"] > 5400 > quick["limit_seconds"] > 1200
    names = [one["name"] for one in full["measurements"]]
    about = {"quick": False, "groups": full["groups"], "nodes": full["nodes"], "done": commands(full, names[:-1])}
    resumed = bench_plan(types, cluster, earlier=about)
    assert 1200 < resumed["limit_seconds"] < 1300, "one measurement is left"
    [rest] = resumed["batches"]
    assert progress_line(rest["progress"], 0.0) == "0 of 1 measurements, about 1 min left"


def test_each_part_of_a_benchmark_begins_with_what_is_left() -> None:
    plan = bench_plan([registered(server.node) for server in DEMO.servers()], DEMO.to_mapping(), quick=True)
    found = [batch["progress"] for batch in plan["batches"]]
    lines = [progress_line(one, float(one["before"])) for one in found]
    assert lines[:2] == ["0 of 55 measurements, about 5 min left", "1 of 55 measurements, about 5 min left"]
    assert lines[-1] == "49 of 55 measurements, about 1 min left"
    assert progress_line(found[2], 3.0 * found[2]["before"]) == "9 of 55 measurements, about 12 min left"


def test_a_measurement_that_was_stopped_says_so() -> None:
    stopped = run(asdict(_bench_plan.measurements(THREE[:2], ["network"], _bench_plan.QUICK)[1]), "", rc=143)
    assert _bench_results.measured(stopped, {})["error"] == "it had not ended after 300 s"


def test_what_a_measurement_printed_before_it_failed_does_not_count() -> None:
    ping = asdict(_bench_plan.measurements(THREE[:2], ["network"], _bench_plan.QUICK)[1])
    good, broken = (run(ping, recorded("ping.txt"), rc=rc, stderr="connection lost" if rc else "") for rc in (0, 1))
    found = _bench_results.measured(broken, {})
    assert (found["error"], found["figures"]) == ("exit code 1: connection lost", {})
    [once, *_] = _bench_results.summarize([found, _bench_results.measured(good, {})])
    assert once["count"] == 1


def test_memory_is_measured_for_as_long_as_stress_ng_needs_to_report_mb() -> None:
    for effort in (_bench_plan.QUICK, _bench_plan.FULL):
        [_idle, stream, *_] = _bench_plan.measurements([node("arm-1")], ["memory"], effort)
        assert stream.argv[stream.argv.index("--timeout") + 1] == "5"


def test_commands_get_the_addresses_of_pods_and_services() -> None:
    planned = [asdict(one) for one in _bench_plan.measurements(THREE[:2], ["network"], _bench_plan.QUICK)]
    items: list[dict[str, Any]] = []
    for number, name in enumerate(("cp", "arm-1"), 1):
        items += [
            {"kind": "Pod", "metadata": {"name": f"{kind}-{name}"}, "status": {"podIP": f"10.{digit}.0.{number}"}}
            for digit, kind in enumerate(("pod", "peer", "node"))
        ]
        items.append(
            {"kind": "Service", "metadata": {"name": f"service-{name}"}, "spec": {"clusterIP": f"10.9.0.{number}"},
             "status": {}}
        )  # fmt: skip
    commands = {one["name"]: one["argv"] for one in bench_commands(planned, items)}
    assert commands["latency/pod-pod/cp/arm-1/1"][-1] == "10.0.0.2"
    assert commands["latency/pod-pod-same-node/cp/cp/1"][-1] == "10.1.0.1"
    assert "10.9.0.2" in commands["bandwidth/pod-service/udp/cp/arm-1/1"]
    assert not any("@" in word for argv in commands.values() for word in argv)
    with pytest.raises(AnsibleFilterError, match="has no address"):
        bench_commands(planned, items[:2])


def stat(at: int, busy: int, idle: int, available: int = 1024) -> str:
    counters = f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0"
    return f"{at} {counters} MemTotal: 2048000 kB MemAvailable: {available * 1024} kB"


def test_load_is_that_of_the_window() -> None:
    text = "\n".join([stat(100, 0, 0), stat(101, 0, 200), stat(102, 150, 250), stat(103, 300, 300), "104 cpu 1 2"])
    samples = _bench_results.node_samples(text)
    assert len(samples) == 4
    busy = _bench_results.load(samples, 101, 103)
    assert busy == {"cpu_percent": 150, "cpu_percent_of_node": 75, "memory_mib": 976, "seconds": 2}
    assert _bench_results.load(samples, 103, 110) is None


def test_load_of_a_process() -> None:
    samples = _bench_results.process_samples("10 100 100 VmRSS: 2048 kB\n11 200 150 VmRSS: 4096 kB\n12 VmRSS:\n")
    assert _bench_results.load(samples, 10, 11) == {"cpu_percent": 150, "memory_mib": 3, "seconds": 1}


def run(measurement: dict[str, Any], stdout: str, rc: int = 0, stderr: str = "") -> dict[str, Any]:
    times = {"start": "2026-11-27 11:00:57.5", "end": "2026-11-27 11:01:02.5"}
    return {"item": measurement, "stdout": stdout, "stderr": stderr, "rc": rc, **times}


def plan(nodes: list[Node], groups: list[str]) -> dict[str, Any]:
    found = _bench_plan.measurements(nodes, groups, _bench_plan.QUICK)
    return {
        "quick": True,
        "groups": groups,
        "effort": asdict(_bench_plan.QUICK),
        "nodes": [asdict(one) for one in nodes],
        "measurements": [asdict(one) for one in found],
    }


NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
RECORDED = {
    "sleep": "", "ping": "ping.txt", "iperf3": "iperf3-tcp.json", "sockperf": "sockperf-udp.txt", "fio": "fio.json",
    "stress-ng": "stress-int64.txt", "openssl": "openssl-aes.txt",
}  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    """The results of a quick benchmark of two nodes, from recorded output."""
    planned = plan(THREE[:2], ["network", "cpu", "memory", "disk"])
    runs = [
        run(one, recorded(RECORDED[one["tool"]]) if RECORDED[one["tool"]] else "") for one in planned["measurements"]
    ]
    # The window of the recorded iperf3 test, and of the idle measurement.
    seconds = range(1795777250, 1795777270)
    text = "\n".join(stat(at, 20 * (at - seconds[0]), 180 * (at - seconds[0])) for at in seconds)
    samples = {
        "node/cp": _bench_results.node_samples(text),
        "node/arm-1": _bench_results.node_samples(text),
        "qemu/arm-1": _bench_results.process_samples(
            "\n".join(f"{at} {50 * (at - seconds[0])} 0 VmRSS: 1024000 kB" for at in seconds)
        ),
    }
    history = [
        {"what": "deploy", "servers": 3, "made": 1, "seconds": 90.0, "stages": {"Create servers": 1.0}},
        {
            "what": "deploy",
            "servers": 3,
            "made": 3,
            "seconds": 100.0,
            "stages": {"Wait for SSH": 10.0, "Create servers": 1.0},
        },
        {"what": "deploy", "servers": 4, "made": 1, "seconds": 60.0, "stages": {"Create servers": 2.0}},
        {"what": "deploy", "servers": 4, "made": 0, "seconds": 5.0, "stages": {"Create servers": 1.0}},
    ]
    found = _bench_results.document(
        planned, runs, samples, cluster="demo", versions={"kubernetes": "v1.36.3"}, now=NOW,
        session=_bench_results.Session(machine={"load_before": "0.1", "load_after": "0.9"}, history=history),
    )  # fmt: skip
    as_read: dict[str, Any] = json.loads(json.dumps(found))
    return as_read


def test_results_of_a_complete_run(document: dict[str, Any]) -> None:
    assert document["schema"] == "q8s-bench/1" and document["complete"] and not _bench_tables.problems(document)
    assert document["idle"]["node/cp"]["cpu_percent_of_node"] == pytest.approx(10)
    assert document["idle"]["qemu/arm-1"] == pytest.approx({"cpu_percent": 50, "memory_mib": 1000, "seconds": 4})
    assert document["deploy_stages"] == [
        {"stage": "Create servers", "start_s": 1.0, "seconds": 9.0},
        {"stage": "Wait for SSH", "start_s": 10.0, "seconds": 90.0},
    ]
    assert document["deploy_servers"] == {"created": 3, "all": 3}, "and not the server that was added later"
    assert "the last deploy that created 3 of 3 servers. The paper, 52 nodes:" in _bench_tables.markdown(document)
    json.dumps(document)


def test_results_have_the_documented_form(document: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parents[3] / "docs/reference/bench-results.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(document)))
    assert schema["properties"]["schema"]["const"] == _bench_results.SCHEMA


def test_tables_show_the_paper_beside_the_figures(document: dict[str, Any]) -> None:
    text = _bench_tables.markdown(document)
    for title in ("Table 2", "Latency", "Table 3", "Table 4", "Table 5", "Speed of each type", "Disk of each type"):
        assert title in text
    assert "| pod to pod, same node " in text and "| 1.1 " in text
    assert "34575" in text
    assert "= 1.000×" in text, "relative to the native core"
    latency = next(table for table in _bench_tables.tables(document) if table.name == "latency")
    rows = list(csv.reader(_bench_tables.csv_text(latency).splitlines()))
    assert tuple(rows[0]) == latency.heads and len(rows) == len(latency.rows) + 1


def test_tables_of_a_recorded_run() -> None:
    """The demo on the lab, 27 November 2026, without the raw output."""
    folder = Path(__file__).parent / "bench_results"
    document = json.loads((folder / "demo-quick.json").read_text())
    assert _bench_tables.markdown(document) == (folder / "demo-quick.md").read_text()


def test_the_page_has_every_table_and_needs_nothing_else(document: dict[str, Any]) -> None:
    text = _bench_page.page({**document, "cluster": "<demo>"})
    for table in _bench_tables.tables(document):
        assert f"<h2>{table.title}</h2>" in text
    assert "&lt;demo&gt;" in text and "<demo>" not in text
    assert "src=" not in text and "href=" not in text, "self-contained"
    assert "partial" not in text.partition("</style>")[2]
    for svg in (
        _bench_page.bandwidth_chart(document),
        _bench_page.speed_chart(document),
        _bench_topology.chart(document),
    ):
        assert ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}rect")
    failed = {**document, "missing": ["cpu/integer/arm-1/1"]}
    assert "The results are partial" in _bench_page.page(failed)


def test_rates_of_memory_are_shown_beside_the_native_node_each_with_its_own(document: dict[str, Any]) -> None:
    base = {"group": "memory", "metric": "stream", "path": "", "protocol": "", "server": ""}
    rates = {"cp": (4000.0, 2000.0), "arm-1": (400.0, 100.0)}
    found = [
        {**base, "client": name, "figures": dict(zip(("read_mb_per_s", "write_mb_per_s"), values, strict=True))}
        for name, values in rates.items()
    ]
    shown = {**document, "summary": _bench_results.summarize(found)}
    [speeds] = [table for table in _bench_tables.tables(shown) if table.name == "machines"]
    assert speeds.rows == (
        ("stream, MB/s read", "4000", "400 = 0.100×"),
        ("stream, MB/s written", "2000", "100 = 0.050×"),
    )
    chart = _bench_page.speed_chart(shown)
    assert "arm-1, stream, read" in chart and "10.0 %" in chart
    assert "arm-1, stream, written" in chart and "5.0 %" in chart


def test_the_spread_of_repetitions() -> None:
    base = {"group": "cpu", "metric": "integer", "path": "", "protocol": "", "client": "a", "server": ""}
    found = _bench_results.summarize([{**base, "figures": {"ops_per_s": value}} for value in (3.0, 1.0, 2.0)])
    assert [(one["median"], one["minimum"], one["maximum"], one["count"]) for one in found] == [(2.0, 1.0, 3.0, 3)]


def test_a_node_that_died_makes_the_results_partial() -> None:
    planned = plan(THREE[:2], ["cpu"])
    runs = [run(one, recorded("stress-int64.txt")) for one in planned["measurements"][:2]]
    runs[1] = run(planned["measurements"][1], "", 1, "error: unable to upgrade connection: pod not found")
    document = _bench_results.document(planned, runs, {}, cluster="demo", versions={}, now=NOW)
    assert not document["complete"]
    problems = _bench_tables.problems(document)
    assert problems[0].startswith("cpu/integer/cp/1: stress-ng: nothing (error: unable to upgrade connection")
    assert "cpu/sha256/arm-1/1: it was not run" in problems
    assert "PARTIAL" in _bench_tables.markdown(document)


def commands(planned: dict[str, Any], names: list[str]) -> dict[str, list[str]]:
    """The commands of the measurements of these names."""
    return {one["name"]: list(one["argv"]) for one in planned["measurements"] if one["name"] in names}


def results_of(planned: dict[str, Any], names: list[str], before: dict[str, Any] | None = None, **session: Any) -> Any:
    """The results after the measurements of these names, from recorded output. Others are not run."""
    runs = [
        run(one, recorded(RECORDED[one["tool"]]) if RECORDED[one["tool"]] else "")
        for one in planned["measurements"]
        if one["name"] in names
    ]
    return _bench_results.document(
        planned,
        runs,
        {},
        cluster="demo",
        versions={},
        now=NOW,
        session=_bench_results.Session(**session),
        before=before,
    )


def test_a_resumed_benchmark_keeps_what_was_measured_and_measures_the_rest() -> None:
    planned = plan(THREE[:2], ["cpu"])
    names = [one["name"] for one in planned["measurements"]]
    dead = run(planned["measurements"][3], "", 1, "error: pod not found")
    first = results_of(planned, names[:3], started="one", machine={"load_before": "1", "load_after": ""})
    first = _bench_results.document(
        planned, [dead], {}, cluster="demo", versions={}, now=NOW, session=_bench_results.Session("one"), before=first
    )
    assert not first["complete"] and first["missing"] == names[4:]
    assert [(one["started"], one["measured"]) for one in first["sessions"]] == [("one", 4)]
    assert _bench_resume.describe(first) is None

    earlier = _bench_resume.earlier(first)
    assert list(earlier["done"]) == names[:3]
    [part] = _bench_resume.batches(planned, earlier["done"], size=100)
    assert [one["name"] for one in part["measurements"]] == names[3:]

    rest = [one["name"] for one in part["measurements"]]
    second = results_of(planned, rest, first, started="two", machine={"load_before": "2", "load_after": "3"})
    assert second["complete"] and [one["name"] for one in second["measurements"]] == names
    kept = {one["name"]: one for one in first["measurements"]}
    assert all(one == kept[one["name"]] for one in second["measurements"][:3])
    assert second["machine"] == {"load_before": "1", "load_after": "3"}
    said = _bench_resume.describe(second)
    assert said and "2 sessions" in said and "(4 measurements)" in said and f"({len(rest)} measurements)" in said
    assert said in _bench_tables.markdown(second) and said in _bench_page.page(second)


def test_the_idle_load_of_an_earlier_session_is_kept(document: dict[str, Any]) -> None:
    planned = plan(THREE[:2], ["network", "cpu", "memory", "disk"])
    again = results_of(planned, ["cpu/integer/arm-1/1"], document)
    assert again["idle"] == document["idle"]
    assert again["deploy_stages"] == document["deploy_stages"]
    assert again["deploy_servers"] == document["deploy_servers"]


def test_each_part_reads_the_load_of_the_nodes_in_it() -> None:
    planned = plan(THREE, ["network", "cpu"])
    parts = _bench_resume.batches(planned, [], size=8)
    assert [one["name"] for one in parts[0]["measurements"]] == ["idle"]
    assert [node["name"] for node in parts[0]["nodes"]] == ["cp", "arm-1", "arm-2", "arm-3"]
    assert all(len(part["measurements"]) <= 8 for part in parts)
    assert sum(len(part["measurements"]) for part in parts) == len(planned["measurements"])
    for part in parts[1:]:
        busy = {one[side] for one in part["measurements"] for side in ("client", "server")} - {""}
        assert {node["name"] for node in part["nodes"]} == busy
    assert _bench_resume.batches(planned, [one["name"] for one in planned["measurements"]], size=8) == []


def test_a_cluster_that_changed_is_not_resumed() -> None:
    demo = yaml.safe_load((Path(__file__).parents[3] / "examples/demo.yaml").read_text())
    items = [registered(name) for name in ("demo-control-plane", "x86-small-1", "arm-mid-1")]
    first = bench_plan(items, demo, groups=["cpu"], quick=True)
    results = results_of(first, [one["name"] for one in first["measurements"][:3]])
    earlier = _bench_resume.earlier(results)
    again = bench_plan(items, demo, earlier=earlier)
    assert (again["quick"], again["groups"], again["measurements"]) == (True, ["cpu"], first["measurements"])
    left = [one["name"] for part in again["batches"] for one in part["measurements"]]
    assert left == [one["name"] for one in first["measurements"][3:]]

    name, argv = next(iter(earlier["done"].items()))
    longer = {**earlier, "done": {**earlier["done"], name: [*argv, "--longer"], "cpu/pi/arm-mid-1/1": ["pi"]}}
    with pytest.raises(AnsibleFilterError) as refused:
        bench_plan(items, demo, earlier=longer)
    assert f"{name} ran `{' '.join(argv)} --longer`, and would run `{' '.join(argv)}`" in str(refused.value)
    assert "cpu/pi/arm-mid-1/1 is finished, and is no longer measured\nhint: " in str(refused.value)

    items[1]["status"]["allocatable"]["cpu"] = "4"
    with pytest.raises(AnsibleFilterError, match=r"node x86-small-1 had cpus 2, and has 4\nhint: .*--force"):
        bench_plan(items, demo, earlier=earlier)
    items[1]["status"]["allocatable"]["cpu"] = "2"
    demo["vm_types"]["types"]["x86-small"]["cpu_model"] = "qemu64"
    with pytest.raises(AnsibleFilterError, match=r"node x86-small-1 had machine EPYC-Rome, .*, and has qemu64, "):
        bench_plan(items, demo, earlier=earlier)
    unrecorded = {**earlier, "nodes": [{k: v for k, v in n.items() if k != "machine"} for n in earlier["nodes"]]}
    assert bench_plan(items, demo, earlier=unrecorded)["groups"] == ["cpu"], "results of an earlier release"
    demo["cluster_definition"]["worker"]["x86-small"] = 0
    with pytest.raises(AnsibleFilterError, match="node x86-small-1 is no longer in the cluster"):
        bench_plan(items, demo, earlier=earlier)


def test_without_a_native_node_the_page_says_why_no_speed_is_relative(document: dict[str, Any]) -> None:
    natives = {node["name"] for node in document["nodes"] if not node["emulated"]}
    emulated = {**document, "summary": [entry for entry in document["summary"] if entry["client"] not in natives]}
    tables = {table.name: table for table in _bench_tables.tables(emulated)}
    assert tables["machines"].note.startswith("No node that is not emulated was measured")


def test_an_interrupted_benchmark_does_not_list_hundreds_of_measurements() -> None:
    planned = plan(THREE, ["network", "cpu", "disk"])
    problems = _bench_tables.problems(results_of(planned, ["idle"]))
    assert len(problems) == 20
    assert problems[-1] == f"and {len(planned['measurements']) - 20} more measurements were not run"


def test_the_page_shows_the_topology_and_the_timeline(document: dict[str, Any]) -> None:
    many = [{**document["nodes"][1], "name": f"arm-{number}", "host": f"demo-arm-{number}"} for number in range(50)]
    page = _bench_page.page(
        {**document, "topology": [document["nodes"][0], *many]}, "<svg><title>Timeline</title></svg>"
    )
    assert "50 × arm-mid: aarch64, 2 CPUs" in page and "and 39 more" in page and "host demo-arm-10" in page
    assert page.index("Topology</h2>") < page.index("Table 5") < page.index("<svg><title>Timeline")


def test_the_folder_gets_its_name_when_it_is_complete(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bench"
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "summary.csv":
            assert any(path.parent.iterdir()), "others are written before"
            raise OSError(28, "No space left on device", str(path))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        bench_report.write(output, document)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    bench_report.write(output, document)
    assert json.loads((output / "results.json").read_text()) == document
    assert {"tables.md", "summary.csv", "bandwidth.csv", "latency.csv"} <= {file.name for file in output.iterdir()}
    bench_report.write(output, {**document, "cluster": "other"})
    assert json.loads((output / "results.json").read_text())["cluster"] == "other"
    assert [file.name for file in tmp_path.iterdir()] == ["bench"]


def test_only_results_that_are_incomplete_are_resumed(document: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "bench"
    with pytest.raises(_results_folder.OutputError, match="has no results to resume"):
        _results_folder.read(output, _bench_results.KIND)
    bench_report.write(output, {**document, "complete": False})
    found = _results_folder.read(output, _bench_results.KIND)
    assert bench_report.resumable(output, found)["quick"] is True
    with pytest.raises(_results_folder.OutputError, match="are complete: nothing is left"):
        bench_report.resumable(output, document)
    (output / "results.json").write_text(json.dumps({**document, "schema": "q8s-bench/9"}))
    with pytest.raises(_results_folder.OutputError, match="another version"):
        _results_folder.read(output, _bench_results.KIND)


def test_the_timeline_of_an_earlier_session_stays(document: dict[str, Any], tmp_path: Path) -> None:
    given = {"output": str(tmp_path / "bench"), "timeline": str(tmp_path / "chart.svg"), "resume": True}
    assert bench_report.timeline(given) == ""
    (tmp_path / "chart.svg").write_text("<svg>1</svg>\n")
    bench_report.write(tmp_path / "bench", document, bench_report.timeline(given))
    assert "<svg>1</svg>" in (tmp_path / "bench/index.html").read_text()
    (tmp_path / "chart.svg").unlink()
    assert bench_report.timeline(given) == "<svg>1</svg>"
    assert bench_report.timeline({**given, "resume": False}) == ""


def test_a_resumed_benchmark_leaves_the_users_files_in_the_folder(tmp_path: Path) -> None:
    planned = plan(THREE[:2], ["cpu"])
    output = tmp_path / "bench"
    bench_report.write(output, results_of(planned, []))
    (output / "notes.md").write_text("the node was warm")
    (output / "tables.md").write_text("old")
    [measured, *_others] = [one for one in planned["measurements"] if RECORDED[one["tool"]]]
    runs = [run(measured, recorded(RECORDED[measured["tool"]]))]
    given = {"output": str(output), "cluster": "demo", "plan": planned, "runs": runs}
    done = run_action(bench_report.ActionModule, **given, resume=True)
    assert done["changed"], done
    assert (output / "notes.md").read_text() == "the node was warm"
    assert "old" not in (output / "tables.md").read_text()
    assert measured["name"] not in json.loads((output / "results.json").read_text())["missing"]
    assert run_action(bench_report.ActionModule, **given, force=True)["changed"]
    assert not (output / "notes.md").exists(), "--force replaces the folder"


def test_what_is_in_the_folder_is_not_lost(tmp_path: Path) -> None:
    output = tmp_path / "bench"
    _results_folder.check(output, force=False, hint="")
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    with pytest.raises(_results_folder.OutputError, match="is not a folder of results"):
        _results_folder.check(output, force=True, hint="")
    (output / "results.json").write_text("{}")
    with pytest.raises(_results_folder.OutputError, match="has results"):
        _results_folder.check(output, force=False, hint="")
    _results_folder.check(output, force=True, hint="")
    with pytest.raises(_results_folder.OutputError, match="is not a folder"):
        _results_folder.check(tmp_path / "missing" / "bench", force=False, hint="")


def test_the_plan_refuses_unknown_groups() -> None:
    with pytest.raises(AnsibleFilterError, match="gpu: allowed are network, cpu, memory, disk"):
        bench_plan([], {}, groups=["gpu"])
