"""The state of a run, reduced from events that ansible-runner emitted in a real run (events.jsonl)."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import reduce as fold
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import history, render, report, tags, text_layout
from q8s_wrapper.config import PLAYBOOKS
from q8s_wrapper.events import reduce
from q8s_wrapper.invocation import Invocation
from q8s_wrapper.run_state import BUILDS, Failure, State

EVENTS: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("events.jsonl").read_text().splitlines()
]
BUILD_PLAY = "Build node bundles and guest images"
NODES = "Start the control plane, and boot guests"
END = fold(reduce, EVENTS, State())


def until(kind: str, count: int = 1) -> State:
    """The state just after the n-th event of a kind."""
    places = [number for number, event in enumerate(EVENTS) if event["event"] == kind]
    return fold(reduce, EVENTS[: places[count - 1] + 1], State())


def failed(result: dict[str, Any], **more: Any) -> State:
    data = {"host": "one", "task": "Try", "res": result, "task_path": "/a/b/roles/c/tasks/main.yml:3", **more}
    return reduce(State(), {"event": "runner_on_failed", "event_data": data})


def test_stages_are_plays_in_the_order_they_began() -> None:
    assert [(stage.name, sorted(stage.hosts)) for stage in END.stages] == [
        ("First", ["localhost"]),
        ("Second", ["gone", "two"]),
    ]
    second = END.stages[1]
    assert 0 < second.start < second.end <= END.seconds, "a stage lasts until its last result"


def event(kind: str, host: str, play: str, role: str = "", at: float = 0.0, **more: Any) -> dict[str, Any]:
    created = f"2026-11-26T00:00:{at:09.6f}+00:00"
    return {"event": kind, "created": created, "event_data": {"host": host, "play": play, "role": role, **more}}


def task(host: str, play: str, role: str, begin: float, end: float) -> list[dict[str, Any]]:
    return [event("runner_on_start", host, play, role, begin), event("runner_on_ok", host, play, role, end)]


def test_roles_that_run_side_by_side_are_stages() -> None:
    """An earlier play runs one task of control_plane; the role's stage begins later, beside k8s_common."""
    events = [
        *task("cp", "Create the CA and the bootstrap token", "q8s.emu.control_plane", 0, 1),
        *task("cp", NODES, "", 1, 1),
        *task("cp", NODES, "q8s.emu.k8s_common", 1, 3),
        *task("cp", NODES, "q8s.emu.control_plane", 3, 20),
        *task("cp-2", NODES, "q8s.emu.k8s_common", 20, 29),
    ]
    state = fold(reduce, events, State())
    assert [(stage.name, stage.start, stage.end) for stage in state.stages] == [
        ("Create the CA and the bootstrap token", 0.0, 1.0), ("k8s_common", 1.0, 29.0), ("control_plane", 3.0, 20.0),
    ]  # fmt: skip
    names = [play["name"] for play in tags.plays(PLAYBOOKS / "site.yml")]
    assert NODES in names, "the play whose roles are stages"
    assert BUILD_PLAY in names and BUILD_PLAY in BUILDS, "the play that estimates leave out"


def test_a_stage_that_runs_again_is_a_line_of_its_own() -> None:
    """An upgrade runs the stages of a deploy after its own. The batches of a play with serial are one stage."""

    def ran(identity: str, play: str, begin: float, end: float, role: str = "") -> list[dict[str, Any]]:
        events = task("one", play, role, begin, end)
        for one in events:
            one["event_data"]["play_uuid"] = identity
        return events

    events = [
        *ran("a", BUILD_PLAY, 0, 5),
        *ran("b", "Wait for SSH", 5, 7),
        *ran("c", "Upgrade the control planes", 7, 20),
        *ran("c_2", "Upgrade the control planes", 20, 30),
        *ran("d", BUILD_PLAY, 30, 36),
        *ran("e", "Wait for SSH", 36, 37),
        *ran("f", NODES, 37, 40, "q8s.emu.k8s_common"),
    ]
    state = fold(reduce, events, State())
    assert [(stage.name, stage.start, stage.end) for stage in state.stages] == [
        (BUILD_PLAY, 0.0, 5.0), ("Wait for SSH", 5.0, 7.0), ("Upgrade the control planes", 7.0, 30.0),
        (f"{BUILD_PLAY} (2)", 30.0, 36.0), ("Wait for SSH (2)", 36.0, 37.0), ("k8s_common", 37.0, 40.0),
    ]  # fmt: skip
    lines = report.stage_table(state).splitlines()
    assert [line.split("  ")[0] for line in lines if "SSH" in line] == ["Wait for SSH", "Wait for SSH (2)"]
    assert history.building(state, 40.0) == 11, "both builds count as builds"
    assert state.ended(state.stages[1]) and not state.ended(state.stages[-1])


def test_a_task_outside_of_roles_is_of_no_stage_whatever_role_its_event_names() -> None:
    place = {"task_path": "/a/playbooks/site.yml:9", "task_action": "ansible.builtin.group_by"}
    events = [
        *task("worker", NODES, "q8s.emu.qemu_host", 0, 5),
        event("runner_on_start", "cp", NODES, "q8s.emu.qemu_host", 6, **place),
        event("runner_on_ok", "cp", NODES, "q8s.emu.qemu_host", 7, **place),
    ]
    (stage,) = fold(reduce, events, State()).stages
    assert (stage.end, stage.hosts) == (5, {"worker"})


def test_a_role_is_named_like_the_task_that_includes_it() -> None:
    include = {"task_action": "ansible.builtin.include_role", "task_path": "/a/playbooks/stages/nodes.yml:9"}
    inside = {"task_path": "/a/roles/k8s_common/tasks/main.yml:3"}
    events = [
        event("runner_on_start", "worker", NODES, task="Install Kubernetes", **include),
        event("runner_on_skipped", "worker", NODES, task="Install Kubernetes", **include),
        event("runner_on_start", "cp", NODES, task="Install Kubernetes", **include),
        event("runner_on_start", "worker", NODES, task="Boot guests", **include),
        event("runner_on_start", "cp", NODES, "k8s_common", 1, task="Unpack the bundle", **inside),
        event("runner_on_start", "worker", NODES, "emulated_worker", 2, task="Create the disk"),
        event("runner_on_start", "cp", NODES, task="Boot guests", **include),
        event("runner_on_skipped", "cp", NODES, task="Boot guests", **include),
    ]
    state = fold(reduce, events, State())
    assert {host: doing.stage for host, doing in state.current.items()} == {"worker": "Boot guests"}
    # A handler runs after the host has gone past other roles.
    state = reduce(state, event("runner_on_start", "cp", NODES, "q8s.emu.k8s_common", 3, task="Restart", **inside))
    assert state.current["cp"].stage == "Install Kubernetes"
    assert [(stage.name, stage.start, stage.end) for stage in state.stages] == [
        ("Install Kubernetes", 1.0, 3.0), ("Boot guests", 2.0, 2.0),
    ]  # fmt: skip


def test_a_part_of_a_role_is_no_stage() -> None:
    action = {"task_action": "ansible.builtin.include_role"}
    inside = {"task_path": "/a/roles/emulated_worker/tasks/inspect.yml:3"}
    part = {**action, "task_path": "/a/playbooks/tasks/node_change.yml:4"}
    whole = {**action, "task_path": "/a/playbooks/stages/nodes.yml:51"}
    events = [
        event("runner_on_start", "worker", NODES, task="Inspect guests", **part),
        event("runner_on_start", "worker", NODES, "emulated_worker", 1, task="List the guests", **inside),
        event("runner_on_start", "worker", NODES, task="Boot guests", **whole),
        event("runner_on_start", "worker", NODES, "emulated_worker", 2, task="Create the disk", **inside),
    ]
    assert [stage.name for stage in fold(reduce, events, State()).stages] == ["Boot guests"]


def test_a_stage_has_ended_when_its_play_has() -> None:
    first = task("one", NODES, "q8s.emu.k8s_common", 0, 3)
    state = fold(reduce, first, State())
    assert not state.ended(state.stages[0]), "another host may not have begun it yet"
    (line, *_) = render.frame(state, 5.0, None, 80, 24)
    assert line[1].startswith("◦ k8s_common") and "3.0 s" in line[1]
    state = reduce(state, {"event": "playbook_on_play_start", "event_data": {"play": "Wait until every node is Ready"}})
    assert state.ended(state.stages[0])
    (line, *_) = render.frame(state, 5.0, None, 80, 24)
    assert line[1].startswith("✓ k8s_common")
    alone = fold(reduce, first, State())
    assert reduce(alone, {"event": "playbook_on_stats", "event_data": {}}).ended(alone.stages[0])


def test_a_failure_in_a_loop_has_the_reason_of_its_item() -> None:
    """Since ansible-core 2.20 the result of the whole task does not say which items failed."""
    begin = event("runner_on_start", "one", NODES, task="Start the units")
    items = [
        {"_ansible_item_label": "q8s-containerd.service", "msg": "Unable to start service: Too many open files"},
        {"_ansible_item_label": "kubelet.service", "msg": "skipped after it"},
    ]
    failing = [event("runner_item_on_failed", "one", NODES, task="Start the units", res=item) for item in items]
    whole = {"msg": "One or more items failed", "results": items}
    end = event("runner_on_failed", "one", NODES, task="Start the units", res=whole)
    state = fold(reduce, [begin, *failing, end], State())
    assert [failure.reason for failure in state.failures] == [
        "q8s-containerd.service: Unable to start service: Too many open files"
    ]
    again = fold(reduce, [begin, event("runner_on_failed", "one", NODES, res={"msg": "another"})], state)
    assert again.failures[-1].reason == "another", "an item of an earlier task is forgotten"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Task failed: Error while resolving value for 'msg': 'x' is undefined", "'x' is undefined"),
        ("Task failed: Failed to connect to the host via ssh: Connection refused", "Connection refused"),
        ("Task failed: Module failed: The command exited with a non-zero return code.", "may hold secrets"),
        ("", "may hold secrets"),
    ],
)
def test_of_a_task_that_hides_its_output_the_reason_is_what_ansible_says(said: str, reason: str) -> None:
    stdout = f"\r\nTASK [Try] ***\r\n\x1b[0;31m[ERROR]: {said}\x1b[0m\r\nOrigin: a.yml:3\r\n" if said else ""
    told = event("runner_on_failed", "one", NODES, res={"censored": "the output has been hidden"})
    (failure,) = reduce(State(), {**told, "stdout": stdout}).failures
    assert reason in failure.reason and "no_log" in failure.reason
    assert failure.reason.startswith("the task's output") == (reason == "may hold secrets")


def test_a_host_that_skips_all_of_a_stage_is_not_in_it() -> None:
    def task(state: State, stage: str, host: str, result: str) -> State:
        data = {"host": host, "task": "Try", "play": stage}
        begun = reduce(state, {"event": "runner_on_start", "event_data": data})
        assert host in begun.hosts(begun.stages[-1]), "a host is in it as long as it is not known to skip"
        return reduce(begun, {"event": result, "event_data": data})

    state = task(State(), "None", "one", "runner_on_skipped")
    state = task(state, "Some", "one", "runner_on_skipped")
    state = task(state, "Some", "two", "runner_on_ok")
    assert [(stage.name, sorted(state.hosts(stage))) for stage in state.busy] == [("Some", ["two"])]


def test_a_host_has_a_task_while_it_works_and_none_after() -> None:
    current = until("runner_on_start").current
    assert {host: (doing.stage, doing.task) for host, doing in current.items()} == {
        "localhost": ("First", "Change something")
    }
    assert until("runner_on_ok").current == {}


def test_retries_are_counted_until_the_task_ends() -> None:
    assert until("runner_retry", 2).current["localhost"].tries == 2
    assert until("runner_on_failed").current == {}


def test_failures_are_those_that_count() -> None:
    assert END.failures == (
        Failure(
            "gone",
            "Greet",
            "Failed to connect to the host via ssh: ssh: connect to host 127.0.0.1 port 1: Connection refused",
            "roles/greeter/tasks/main.yml:1",
        ),
        Failure("two", "Fail loudly", "the disk is full", "playbooks/play.yml:38"),
    ), "an ignored failure is none, and the reason is the program's own words"


def test_what_the_playbook_says_is_kept() -> None:
    assert END.notes == ("all is well", "one", "two")
    assert END.results == {"q8s_lines": ["one", "two"]}


def test_warnings_that_a_playbook_shows_are_warnings() -> None:
    data = {"host": "localhost", "task_action": "debug", "res": {"q8s_warnings": ["a certificate ends"]}}
    state = reduce(State(), {"event": "runner_on_ok", "event_data": data})
    assert state.warnings == ("a certificate ends",)
    assert state.notes == ()


def test_progress_that_a_playbook_shows_is_a_line() -> None:
    data = {"host": "control-plane", "task_action": "debug", "res": {"q8s_progress": "8 of 55"}}
    state = reduce(State(), {"event": "runner_on_ok", "event_data": data})
    assert (state.lines, state.notes, state.results) == (("8 of 55",), (), {})


def test_the_end() -> None:
    assert not until("runner_on_failed").finished
    assert END.finished and END.current == {} and END.changed == 4


def test_unknown_events_change_nothing() -> None:
    assert reduce(END, {"event": "of_a_later_version"}) == END
    assert reduce(END, {}) == END


def show(renderer: render.Renderer) -> None:
    state = State()
    for event in EVENTS:
        before, state = state, reduce(state, event)
        renderer.update(before, state)
    renderer.close()


def test_a_message_is_shown_whole_and_of_a_programs_output_the_ends() -> None:
    message = "Failed to prepare the cluster:\n- " + " ".join(["The server is lost, and this is the way out."] * 20)
    output = "\n".join(f"line {number}" for number in range(40))
    for reason, elided in ((message, False), (output, True)):
        state = replace(END, failures=(Failure("localhost", "Check", reason, "stages/preflight.yml:29"),))
        lines = report.failures(state, Invocation(file="cluster.yaml"), 60)
        assert any("more lines in the log" in line for line in lines) == elided
        assert " ".join(reason.split()[-3:]) in " ".join(" ".join(lines).split())


def test_a_command_in_a_reason_is_kept_whole() -> None:
    state = failed(
        {"msg": "The cluster has 1.35.4, and deploy does not upgrade it. Run `q8s-run upgrade FILE`, or not."}
    )
    lines = report.failures(state, Invocation(file="'a folder/of mine.yaml'"), 60)
    assert any("`q8s-run upgrade 'a folder/of mine.yaml'`, or not." in line for line in lines), lines
    assert max(map(len, lines)) <= 60


def test_plain_output(capsys: pytest.CaptureFixture[str]) -> None:
    show(render.Plain(lambda state: None, True))
    out, err = capsys.readouterr()
    assert out == "", "stdout is for results"
    lines = [line.split("] ", 1)[1] for line in err.splitlines()]
    assert lines == ["First", "Second", "  gone: FAILED: Greet", "  two: FAILED: Fail loudly"]


def test_plain_output_tells_of_waiting_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    state = reduce(State(), {"event": "runner_on_start", "event_data": {"host": "a", "task": "Wait", "play": "P"}})
    for _ in range(11):
        before, state = state, reduce(state, {"event": "runner_retry", "event_data": {"host": "a", "task": "Wait"}})
        render.Plain(lambda state: None, True).update(before, state)
    assert [line.split("] ", 1)[1] for line in capsys.readouterr().err.splitlines()] == [
        "  a: Wait: not yet, tried 5 times",
        "  a: Wait: not yet, tried 10 times",
    ]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(render.JsonLines(lambda state: None))
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == "" and [line["event"] for line in lines] == ["stage", "stage", "failure", "failure"]
    assert [line["name"] for line in lines[:2]] == ["First", "Second"]
    assert (lines[3]["host"], lines[3]["task"], lines[3]["reason"]) == ("two", "Fail loudly", "the disk is full")


def test_the_result_as_data() -> None:
    data = json.loads(json.dumps(report.result("deploy", 1, END, "/state/log")))
    assert (data["event"], data["command"], data["exit_code"], data["changed"]) == ("result", "deploy", 1, 4)
    assert data["failures"][1]["place"] == "playbooks/play.yml:38"
    assert data["stages"][1]["hosts"] == ["gone", "two"]


def test_tables_are_aligned() -> None:
    assert text_layout.table([{"name": "a", "state": "up"}, {"name": "longer", "state": ""}]) == (
        "NAME    STATE\na       up\nlonger"
    )
    assert text_layout.table([]) == ""
    heads, *rows = report.stage_table(END).splitlines()
    assert heads.split() == ["STAGE", "START", "TOOK", "HOSTS"] and len(rows) == 2


def test_what_a_module_warns_of_is_told_once() -> None:
    result = {"changed": False, "warnings": ["The server x went to ERROR\nand is replaced"]}
    event = {"event": "runner_on_ok", "event_data": {"host": "localhost", "task": "Make", "res": result}}
    assert reduce(reduce(State(), event), event).warnings == ("The server x went to ERROR and is replaced",)


def build_event(event: str, at: float, artifact: str = "bundle-aarch64", **more: Any) -> dict[str, Any]:
    progress = {"event": event, "artifact": artifact, "number": 1, "total": 2, "text": "some text", **more}
    stdout = json.dumps({"q8s_progress": progress})
    return {"event": "verbose", "created": f"2026-11-26T00:00:{at:09.6f}+00:00", "stdout": stdout, "event_data": {}}


BUILD = [
    event("runner_on_start", "localhost", BUILD_PLAY, at=0, task="Build node bundles and guest images"),
    build_event("artifact", 1),
    build_event("step", 2, step="build runc for aarch64"),
    build_event("artifact", 3, "image-aarch64", number=2),
    build_event("step", 3, "image-aarch64", number=2, step="bootstrap Debian"),
    build_event("note", 4, "image-aarch64", number=2, text="download: 12 MB"),
    build_event("built", 9, "image-aarch64", number=2, seconds=6.0),
]


def test_the_build_of_each_artifact_has_its_step() -> None:
    state = fold(reduce, BUILD[:-1], State())
    runc, image = state.builds["bundle-aarch64"], state.builds["image-aarch64"]
    assert (runc.step, runc.since, runc.number, runc.total) == ("build runc for aarch64", 2.0, 1, 2)
    assert (image.step, image.since, image.text) == ("bootstrap Debian", 3.0, "download: 12 MB")
    end = fold(reduce, BUILD, State())
    assert list(end.builds) == ["bundle-aarch64"] and end.built == {"image-aarch64": 6.0}
    assert not reduce(end, event("runner_on_ok", "localhost", BUILD_PLAY, at=10)).builds


def test_what_a_task_says_of_its_progress_is_shown_as_it_is() -> None:
    before = fold(reduce, BUILD, State())
    after = reduce(before, build_event("line", 10))
    assert render.builds(before, after) == ["some text"]
    assert render.builds(after, after) == []


def test_other_output_is_no_progress() -> None:
    for text in ("a line", '"q8s_progress"', '{"q8s_progress": {"event": "step"}}', '{"q8s_progress": 3}'):
        assert reduce(State(), {"event": "verbose", "stdout": text}) == State()


def test_the_build_is_shown_while_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    state = fold(reduce, BUILD[:-1], State())
    shown = [text for _, text in render.frame(state, 12.0, None, 60, 24)]
    assert "  1/2 bundle-aarch64: build runc for aarch64            10 s" in shown
    assert "  2/2 image-aarch64: download: 12 MB                     9 s" in shown
    for renderer in (render.Plain(lambda state: None, False), render.JsonLines(lambda state: None)):
        before = State()
        for one in BUILD:
            after = reduce(before, one)
            renderer.update(before, after)
            before = after
    output = capsys.readouterr()
    assert "[   3.0s]   [2/2] image-aarch64: bootstrap Debian" in output.err
    assert "[   9.0s]   image-aarch64: built in 6 s" in output.err
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert {"event": "built", "seconds": 9.0, "artifact": "image-aarch64", "took": 6.0} in lines
    assert [line["step"] for line in lines if line["event"] == "build"] == [
        "build runc for aarch64",
        "bootstrap Debian",
    ]


@pytest.mark.parametrize(
    ("ending", "skipped", "failures"),
    [("", {}, 1), ("\n\x1b[0;36m...ignoring\x1b[0m", {}, 0), ("", {"skip_reason": "Host is unreachable"}, 0)],
)
def test_an_unreachable_host_is_a_failure_unless_the_play_ignores_it(
    ending: str, skipped: dict[str, str], failures: int
) -> None:
    result = {"unreachable": True, "msg": "Failed to connect to the host via ssh: No route to host", **skipped}
    data = {"host": "one", "task": "Read the machine", "res": result, "task_path": "/a/verify.yml:15"}
    stdout = f"\x1b[1;31mfatal: [one]: UNREACHABLE! => {json.dumps(result)}\x1b[0m{ending}"
    state = reduce(State(), {"event": "runner_on_unreachable", "event_data": data, "stdout": stdout})
    assert len(state.failures) == failures
