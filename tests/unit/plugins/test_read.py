"""Files that may be damaged: what is read of them, and which place and reason an error names."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from ansible_collections.q8s.emu.plugins.action import bench_report, conformance_report
from ansible_collections.q8s.emu.plugins.module_utils import (
    _bench_results,
    _bench_resume,
    _conformance,
    _read,
    _results_folder,
    _state,
)
from ansible_collections.q8s.emu.plugins.module_utils._read import Place, ReadError
from ansible_collections.q8s.emu.plugins.modules.node_labels import ANNOTATION, plan_node

from tests.unit.damage import FILES, texts, variants

DEMO = json.loads((Path(__file__).parent / "bench_results/demo-quick.json").read_text())


@dataclass(frozen=True)
class Part:
    at: float
    kind: str = "none"


class Known(TypedDict):
    schema: Literal["one/1"]
    parts: list[Part]


class Document(Known, total=False):
    names: tuple[str, ...]
    rates: Mapping[str, int]
    open: bool | None


WHOLE: dict[str, Any] = {"schema": "one/1", "parts": [{"at": 1}], "names": ["a"], "rates": {"b": 2}, "open": None}


def test_a_document_of_a_newer_version_is_read() -> None:
    data = {**WHOLE, "later": [1], "parts": [{"at": 1, "later": 2}, {"at": 2.5, "kind": "k"}]}
    found = _read.parse(Document, data, Place("file"))
    assert found == {**data, "names": ("a",), "parts": [Part(1), Part(2.5, "k")]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "one/2"}, "schema: is 'one/2'; must be one/1"),
        ({"parts": {}}, "parts: is a mapping; must be a list"),
        ({"parts": [{"at": 1}, {}]}, "parts[1].at: is missing"),
        ({"parts": [{"at": "1"}]}, "parts[0].at: is '1'; must be a number"),
        ({"parts": [{"at": True}]}, "parts[0].at: is the truth value true; must be a number"),
        ({"parts": [{"at": float("nan")}]}, "parts[0].at: is nan; must be a number from -1e15 to 1e15"),
        ({"parts": [{"at": 1, "kind": None}]}, "parts[0].kind: is nothing; must be text"),
        ({"names": "abc"}, "names: is 'abc'; must be a list"),
        ({"rates": {"b": 1.5}}, "rates.b: is 1.5; must be a whole number"),
        ({"rates": {"b": 10**400}}, "rates.b: is a very large number; must be a whole number from -1e15 to 1e15"),
        ({"open": 1}, "open: is 1; must be true or false"),
    ],
)
def test_the_first_value_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ReadError) as refused:
        _read.parse(Document, {**WHOLE, **change}, Place("file", 3))
    assert str(refused.value) == f"Failed to read file:3: {message}"
    assert refused.value.reason == f"line 3: {message}"


@pytest.mark.parametrize("how", FILES)
def test_a_file_that_is_no_json_is_named_with_its_line(how: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(json.dumps(WHOLE, indent=1))
    assert _read.json_file(path, dict[str, Any]) == WHOLE
    change, reason = FILES[how]
    change(path)
    with pytest.raises(ReadError, match=f"Failed to read {path}(:[0-9]+)?: {reason}"):
        _read.json_file(path, dict[str, Any])


@pytest.mark.parametrize(("depth", "refused"), [(90, False), (101, True), (200_000, True)])
def test_a_limit_of_its_own_ends_nested_yaml_before_python_s(depth: int, refused: bool) -> None:
    with pytest.raises(ReadError, match=r"is not YAML: nested too deeply$") if refused else nullcontext():
        _read.yaml_data("[" * depth + "]" * depth, Place("file"))


def test_the_line_of_a_mistake_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"a": 1,\n "b": 2,\n "c" 3}')
    with pytest.raises(ReadError, match=f"{path}:3: is not JSON: Expecting ':' delimiter"):
        _read.json_file(path, Any)
    path.write_bytes(b'{"a": 1,\n "b": "\xe4"}')
    with pytest.raises(ReadError, match=f"{path}:2: byte 0xe4 is not UTF-8 text"):
        _read.text(path)
    path.write_text("a: 1\nb: [\nc: 2\n")
    with pytest.raises(ReadError, match=f"{path}:[34]: is not YAML: "):
        _read.yaml_data(path.read_text(), Place(str(path)))
    path.write_text('\ufeff{"a": 1}')
    assert _read.json_file(path, dict[str, int]) == {"a": 1}, "some editors begin a file with a mark"
    with pytest.raises(FileNotFoundError):
        _read.text(tmp_path / "missing")


def test_only_a_last_line_may_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n\n{"b": 2}\n{"c":')
    assert [(place.line, data) for place, data in _read.json_lines(path)] == [(1, {"a": 1}), (3, {"b": 2})]
    path.write_text('{"a":\n{"b": 2}\n')
    with pytest.raises(ReadError, match=f"{path}:1: is not JSON"):
        list(_read.json_lines(path))


BENCH = {
    **DEMO,
    "complete": False,
    "measurements": [{**DEMO["measurements"][1], "output": ""}],
    "idle": dict(list(DEMO["idle"].items())[:1]),
    "nodes": DEMO["nodes"][:2],
    "sessions": [{"started": "a", "ended": "b", "measured": 1, "load_before": "", "load_after": ""}],
    "deploy_stages": DEMO["deploy_stages"][:1],
    "summary": [],
}
SPEC = {"name": "[sig-node] a", "sig": "node", "status": "passed", "seconds": 1.0, "session": "s", "reason": ""}
CONFORMANCE = {
    "schema": _conformance.SCHEMA,
    "cluster": "demo",
    "kubernetes": "1.36.3",
    "focus": "",
    "skip": "",
    "complete": False,
    "nodes": [{"name": "a", "architecture": "arm64"}],
    "sessions": [{"started": "s", "parallel": 2, "load_before": "1"}],
    "specs": [SPEC, {**SPEC, "name": "[sig-node] b", "status": "not run"}],
}


def resume_bench(output: Path) -> None:
    before = _results_folder.read(output, _bench_results.KIND)
    earlier = bench_report.resumable(output, before)
    _bench_resume.differences(earlier["nodes"], DEMO["nodes"])
    names = [{"name": BENCH["measurements"][0]["name"]}]
    plan = {"measurements": names, "quick": True, "groups": ["cpu"], "effort": {}, "nodes": DEMO["nodes"]}
    document = _bench_results.document(plan, [], {}, cluster="demo", versions={}, now=datetime.now(UTC), before=before)
    bench_report.result_files(document)


def resume_conformance(output: Path) -> None:
    before = _results_folder.read(output, _conformance.KIND)
    conformance_report.earlier(output, before)
    planned = {"specs": [{"name": spec["name"], "sig": "node", "image": ""} for spec in CONFORMANCE["specs"]]}
    about = {name: before[name] for name in ("cluster", "kubernetes", "nodes", "focus", "skip")}
    document = _conformance.document(planned, {}, before, about=about, session={"started": "z"})
    conformance_report.files(document, {}, {})
    _conformance.progress(document)


@pytest.mark.parametrize(("document", "resume"), [(BENCH, resume_bench), (CONFORMANCE, resume_conformance)])
def test_results_with_any_other_value_are_refused_or_resumed(
    document: Any, resume: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(document))
    resume(tmp_path)
    refused = 0
    for text in texts(document):
        (tmp_path / "results.json").write_text(text)
        try:
            resume(tmp_path)
        except _results_folder.OutputError as error:
            assert "\nhint: " in str(error) or "complete" in str(error)
            refused += 1
    assert refused > 100


def test_a_damaged_chart_or_history_loses_no_measurement(tmp_path: Path) -> None:
    chart = tmp_path / "timeline.svg"
    chart.write_bytes(b"\xff")
    assert bench_report.timeline({"output": str(tmp_path), "timeline": str(chart), "resume": True}) == ""
    history = tmp_path / "history.jsonl"
    run = {"what": "deploy", "servers": 2, "made": 2, "seconds": 9, "stages": {"A": 1}}
    history.write_bytes(b'\xff\n[1]\n{"what": "deploy", "made": 1}\n' + json.dumps(run).encode())
    assert bench_report.read_history(history) == [run]


def test_results_are_there_while_others_take_their_place(tmp_path: Path) -> None:
    """A run that is killed at any moment leaves one or the other."""
    output = tmp_path / "results"
    _results_folder.write(output, {"results.json": b"0"})
    missing, done = 0, threading.Event()

    def look() -> None:
        nonlocal missing
        while not done.is_set():
            missing += not (output / "results.json").exists()

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(200):
        _results_folder.write(output, {"results.json": str(number).encode()})
    done.set()
    thread.join()
    assert missing == 0
    assert (output / "results.json").read_text() == "199"
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_results_behind_a_link_are_replaced(tmp_path: Path) -> None:
    """The link stays, also one to a folder that is not there yet."""
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    _results_folder.check(link, force=False, hint="")
    for content in ("0", "1"):
        _results_folder.write(link, {"results.json": content.encode()})
        assert (link / "results.json").read_text() == (real / "results.json").read_text() == content
        assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}
    link.unlink()
    link.symlink_to(tmp_path / "missing" / "results")
    with pytest.raises(_results_folder.OutputError, match="missing is not a folder"):
        _results_folder.check(link, force=False, hint="")


@pytest.mark.parametrize("links", [True, False])
def test_results_keep_the_other_files_of_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """With their times and modes, also where a file cannot be linked."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    output = tmp_path / "results"
    _results_folder.write(output, {"results.json": b"0", "logs/one.log": b"0"})
    for name in ("notes.md", "logs/notes.md", "captures/day/one.pcap", "tables.md"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(name)
    (output / "notes.md").chmod(0o600)
    output.chmod(0o700)
    os.utime(output / "notes.md", (1_000_000_000, 1_000_000_000))
    (output / "latest").symlink_to("nowhere")
    _results_folder.write(output, {"results.json": b"1", "logs/one.log": b"1", "tables.md": b"1"}, keep=True)
    content = {str(p.relative_to(output)): p.read_text() for p in output.rglob("*") if p.is_file()}
    new = dict.fromkeys(("results.json", "logs/one.log", "tables.md"), "1")
    assert content == {**new, **{name: name for name in ("notes.md", "logs/notes.md", "captures/day/one.pcap")}}
    kept = (output / "notes.md").stat()
    assert (kept.st_mode & 0o777, kept.st_mtime) == (0o600, 1_000_000_000)
    assert output.stat().st_mode & 0o777 == 0o700
    assert (output / "latest").readlink() == Path("nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_state_record_with_any_other_value_says_nothing_or_is_read(tmp_path: Path) -> None:
    project = _state.Project("https://cloud.example.org:5000", "p", "r", "login")
    place = Path(_state.folder(str(tmp_path), project, "demo"))
    place.mkdir(parents=True)
    path = place / _state.RECORD
    path.write_text(_state.record_text(str(place), project, "demo"))
    record = json.loads(path.read_text())
    for text in [*texts(record), json.dumps({**record, "auth_url": "https://["})]:
        path.write_text(text)
        data = json.loads(text) if is_state_record(json.loads(text)) else {}
        named = _state.Project(data["auth_url"], data["project_id"], data.get("region", "")) if data else None
        logins = data.get("logins", [])
        known = _state.known_project(str(tmp_path), "demo", "login")
        assert known == (named if "login" in logins else None), text
        assert json.loads(_state.record_text(str(place), project, "demo"))["logins"] == sorted({"login", *logins}), text
        if named and (named, data["cluster_name"]) != (project, "demo"):
            with pytest.raises(_state.StateError, match=f"{_state.RECORD} names cluster {data['cluster_name']} in"):
                _state.check(str(place), project, "demo")
        else:
            _state.check(str(place), project, "demo")


def is_state_record(data: Any) -> bool:
    """Return whether every value of a record has its type, and the address is a URL."""
    texts_of = {"auth_url": None, "project_id": None, "cluster_name": None, "region": ""}
    return (
        isinstance(data, dict)
        and all(isinstance(data.get(name, default), str) for name, default in texts_of.items())
        and data["auth_url"] != "https://["
        and isinstance(data.get("logins", []), list)
        and all(isinstance(login, str) for login in data.get("logins", []))
    )


def test_an_annotation_that_a_user_has_edited(tmp_path: Path) -> None:
    record = {"labels": ["disk"], "taints": [["key", "NoSchedule"]]}
    for annotation in [*map(json.dumps, variants(record)), "{", "\udcff"]:
        metadata = {"name": "a", "resourceVersion": "1", "labels": {}, "annotations": {ANNOTATION: annotation}}
        change = plan_node({"metadata": metadata, "spec": {}}, {"disk": "ssd"}, [])
        assert change is not None and change.patch["metadata"]["labels"] == {"disk": "ssd"}
