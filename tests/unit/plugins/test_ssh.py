"""The options of ssh: they override any user configuration, and connections share one login."""

from __future__ import annotations

import concurrent.futures
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _jump, _ssh, _ssh_errors

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIATbSFIAoKCLyojckQoDUv+sRJPfwQtsZYqckaz2L3fo"


def understood(arguments: list[str]) -> dict[str, str]:
    """What ssh says that these options mean for a host."""
    done = subprocess.run(["ssh", *arguments, "-G", "host"], capture_output=True, text=True, check=True)
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def test_a_server_is_reached_without_questions_and_other_keys() -> None:
    own = understood(shlex.split(_ssh.own_options(own_key=True)))
    assert (own["batchmode"], own["identitiesonly"], own["identityagent"]) == ("yes", "yes", "none")
    theirs = understood(shlex.split(_ssh.own_options(own_key=False)))
    assert theirs["identitiesonly"] == "yes" and theirs.get("identityagent") != "none", "the key may be in an agent"


def jump(arguments: str) -> list[str]:
    """The words of the ProxyCommand in an option, as a shell sees them once ssh has replaced its words after %."""
    command = understood(shlex.split(arguments))["proxycommand"]
    for word, value in (("%h", "inner"), ("%p", "22"), ("%%", "%")):
        command = command.replace(word, value)
    return shlex.split(command)


def test_paths_may_have_spaces_and_percent_signs() -> None:
    arguments = f"-F none {_ssh.known_host(KEY, 'q8s-host')}"
    words = jump(_ssh.through_server(arguments, "/my keys/100%/id", "q8s@192.0.2.1", "/my state/100%/socket"))
    assert words[:5] == [sys.executable, "-I", "-S", str(Path(_jump.__file__).absolute()), "/my state/100%/socket"]
    assert words[5:7] == ["inner", "22"] and words[-3:] == ["-i", "/my keys/100%%/id", "q8s@192.0.2.1"]
    checked = understood(words[7:-1])
    assert checked["knownhostscommand"] == f"/bin/echo @cert-authority q8s-host {KEY}"
    foreign = understood(shlex.split(f"-F none {_ssh.foreign_host('/my state/100%')}"))
    assert foreign["userknownhostsfile"] == "/my state/100%/known_hosts"


def test_a_bastion_is_reached_by_the_users_configuration_without_what_stands_in_the_way(tmp_path: Path) -> None:
    words = jump(_ssh.through_bastion("gate.example", "me", 2022, ""))
    assert words[-3:] == ["-p", "2022", "me@gate.example"] and "-F" not in words
    configuration = tmp_path / "config"
    configuration.write_text(
        "Host *\n User you\n Port 1\n ProxyJump first\n IdentityFile /mine\n RemoteCommand true\n RequestTTY force\n"
        " LocalForward 80 a:80\n ControlMaster auto\n ControlPath /theirs\n ForkAfterAuthentication yes\n"
    )
    found = understood(["-F", str(configuration), "-o", "ControlMaster=no", "-o", "ControlPath=none", *words[7:-1]])
    assert (found["port"], found["proxyjump"], found["identityfile"]) == ("2022", "first", "/mine")
    assert found.get("remotecommand", "none") == "none" and found["requesttty"] == "false"
    assert found["clearallforwardings"] == "yes" and found["controlmaster"] == "false" and "controlpath" not in found


def test_sockets_of_different_servers_differ_and_their_paths_fit() -> None:
    names = {
        _ssh.socket_name(state, purpose, server, ca)
        for state in ("/a/demo", "/b/demo")
        for purpose in ("q8s-host", "q8s-guest")
        for server in ("id-1", "id-2")
        for ca in ("", KEY)
    }
    assert len(names) == 16
    assert _ssh.socket_folder("/home/me/.local/state/q8s/demo") == "/home/me/.local/state/q8s/demo/cp"
    for state in ("/a" * 20, "/a" * 40, "/long-home" * 20, "/ü" * 40):
        path = f"{_ssh.socket_folder(state)}/{min(names)}.0123456789abcdef"
        assert len(os.fsencode(path)) <= 103


def test_a_folder_of_somebody_elses_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "q8s-0"
    monkeypatch.setattr(os, "lstat", lambda path: folder.stat())
    folder.mkdir(mode=0o755)
    assert _ssh.socket_folder("/long-home" * 20) == "", "others may write there"
    folder.chmod(0o700)
    assert _ssh.socket_folder("/long-home" * 20) == f"/tmp/q8s-{os.geteuid()}"
    os.chown(folder, 12345, -1) if os.geteuid() == 0 else pytest.skip("only root can give a folder away")
    assert _ssh.socket_folder("/long-home" * 20) == ""


# Stands in for ssh: a login takes a while and opens the socket, or fails; a forward says where it leads.
FAKE_SSH = """\
import os, socket, sys, time
log, works = sys.argv[1:3]
arguments = sys.argv[3:]
path = next(a for a in arguments if a.startswith("ControlPath=")).partition("=")[2].strip('"')
def say(word):
    with open(log, "a") as stream:
        stream.write(word + "\\n")
if "-N" in arguments:
    say("login")
    time.sleep(0.5)
    if works == "no":
        sys.exit("gate: Permission denied")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(99)
    if os.fork() == 0:
        time.sleep(20)
    os._exit(0)
say("forward " + arguments[arguments.index("-W") + 1])
"""


def jump_together(folder: Path, works: str, times: int) -> tuple[list[subprocess.CompletedProcess[str]], list[str]]:
    """Run several jumps at the same time, with a stand-in for ssh; give their ends, and what ssh was asked for."""
    (folder / "fake.py").write_text(FAKE_SSH)
    program = folder / "ssh"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {folder}/fake.py {folder}/log {works} "$@"\n')
    program.chmod(0o755)
    command = [sys.executable, "-I", "-S", _jump.__file__, str(folder / "cp" / "socket"), "inner", "22", "gate"]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def one(number: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    with concurrent.futures.ThreadPoolExecutor(times) as pool:
        ends = list(pool.map(one, range(times)))
    return ends, (folder / "log").read_text().splitlines()


def test_many_connections_log_in_once(tmp_path: Path) -> None:
    ends, asked = jump_together(tmp_path, "yes", 12)
    assert {end.returncode for end in ends} == {0}, ends
    assert sorted(asked) == ["forward inner:22"] * 12 + ["login"]
    assert (tmp_path / "cp").stat().st_mode & 0o777 == 0o700


def test_a_connection_that_was_killed_is_opened_again(tmp_path: Path) -> None:
    (tmp_path / "cp").mkdir()
    (tmp_path / "cp" / "socket").touch()
    ends, asked = jump_together(tmp_path, "yes", 1)
    assert ends[0].returncode == 0 and asked == ["login", "forward inner:22"]


def test_a_login_that_fails_is_not_tried_by_each_that_waits(tmp_path: Path) -> None:
    began = time.monotonic()
    ends, asked = jump_together(tmp_path, "no", 12)
    assert {(end.returncode, end.stderr) for end in ends} == {(255, "q8s jump host gate: gate: Permission denied\n")}
    assert asked.count("login") < 6 and len(asked) == asked.count("login")
    assert time.monotonic() - began < 30
    assert jump_together(tmp_path, "yes", 1)[0][0].returncode == 0, "the next one tries again"


SHARING = ["-o", "ControlMaster=auto", "-o", "ControlPersist=9", "-o", "ControlPath=FOLDER/s"]


@pytest.mark.parametrize(("sharing", "socket"), [(SHARING, "cp/socket"), ([], "cp/socket"), ([], "")])
@pytest.mark.parametrize("user", ["me", "mee", "meee", "meeee", "meeeee", "meeeeee", "meeeeeee", "meeeeeeee"])
def test_ssh_says_why_the_jump_host_leads_nowhere(tmp_path: Path, sharing: list[str], socket: str, user: str) -> None:
    """Where ssh shares its connection, as Ansible's does, what its ProxyCommand writes to stderr is lost."""
    route = _ssh.through_bastion("127.0.0.1", user, 1, str(tmp_path / socket) if socket else "")
    options = [word.replace("FOLDER", str(tmp_path)) for word in sharing]
    command = ["ssh", "-F", "none", "-o", "BatchMode=yes", *options, *shlex.split(route), "inner", "true"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 255 and done.stdout == ""
    reason = "ssh: connect to host 127.0.0.1 port 1: Connection refused"
    assert f"q8s jump host {user}@127.0.0.1:1: {reason}" in done.stderr
    failure = _ssh_errors.jump_failure(done.stderr)
    assert failure is not None and failure[:2] == (f"{user}@127.0.0.1:1", reason)


def fail_with(folder: Path, socket: str, *lines: str) -> subprocess.CompletedProcess[bytes]:
    """Jump with a stand-in for ssh that says these lines and fails."""
    program = folder / "ssh"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}' >&2\n" for line in lines) + "exit 255\n")
    program.chmod(0o755)
    command = [sys.executable, "-I", "-S", _jump.__file__, socket, "inner", "22", "gate"]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment)


def test_where_no_connection_is_shared_what_ssh_says_of_the_host_has_no_mark(tmp_path: Path) -> None:
    said = [
        "Warning: about gate",
        "channel 0: open failed: connect failed: No route to host",
        "stdio forwarding failed",
    ]
    done = fail_with(tmp_path, "", *said)
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.decode().splitlines() == [f"q8s jump host gate: {said[0]}", *said[1:]]


def test_of_a_long_message_ssh_gets_the_end(tmp_path: Path) -> None:
    done = fail_with(
        tmp_path, str(tmp_path / "cp" / "socket"), "W" * 999, "", "me@gate: Permission denied (publickey)."
    )
    assert b"q8s jump host gate: WWW" in done.stdout and b" | me@gate: Permission denied (publickey)." in done.stdout
    assert len(done.stdout) < 450
    assert [line[:23] for line in done.stderr.decode().splitlines()] == [
        "q8s jump host gate: WWW",
        "q8s jump host gate: me@",
    ]


# What OpenSSH 9.2 says.
CHANGED = """@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key for gate has changed and you have requested strict checking.
Host key verification failed."""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", ""),
        ("q8s@10.0.0.5: Permission denied (publickey).", "q8s@10.0.0.5: Permission denied (publickey)."),
        (
            CHANGED,
            "Host key for gate has changed and you have requested strict checking. Host key verification failed.",
        ),
        ("Warning: something\nHost key verification failed.\n", "Host key verification failed."),
        (
            "Received disconnect from 10.0.0.5 port 22:2: Too many authentication failures\r\n"
            "Disconnected from 10.0.0.5 port 22\r\n",
            "Received disconnect from 10.0.0.5 port 22:2: Too many authentication failures",
        ),
        (
            "kex_exchange_identification: read: Connection reset by peer\r\nConnection reset by 10.0.0.5 port 22",
            "kex_exchange_identification: read: Connection reset by peer",
        ),
        (
            "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by 10.0.0.5 port 22",
            "Connection closed by 10.0.0.5 port 22",
        ),
        (
            "Connection timed out during banner exchange\r\nConnection to UNKNOWN port 65535 timed out",
            "Connection timed out during banner exchange",
        ),
        (
            "Failed to connect to the host via ssh: kex_exchange_identification: Connection closed by remote host\r\n"
            "Connection closed by UNKNOWN port 65535",
            "no connection to it from the jump host",
        ),
        (
            "channel 0: open failed: connect failed: No route to host\nstdio forwarding failed\n"
            "Connection closed by UNKNOWN port 65535",
            "channel 0: open failed: connect failed: No route to host",
        ),
    ],
)
def test_the_reason_is_not_how_the_connection_ended(message: str, reason: str) -> None:
    assert _ssh_errors.failure_reason(message) == reason
    assert _ssh_errors.jump_failure(message) is None


@pytest.mark.parametrize(
    ("destination", "said", "hint"),
    [
        (
            "me@gate",
            "me@gate: Permission denied (publickey).",
            "ssh-add), until this works without a question: ssh me@gate",
        ),
        (
            "gate:2022",
            "Too many authentication failures",
            "ssh-add), until this works without a question: ssh -p 2022 gate",
        ),
        ("me@gate", "Host key verification failed.", "check its host key, and accept it: ssh me@gate true"),
        ("me@gate", CHANGED, "ssh-keygen -R gate, then ssh me@gate true"),
        ("me@gate:2022", CHANGED, "ssh-keygen -R '[gate]:2022', then ssh -p 2022 me@gate true"),
        (
            "gate",
            "ssh: Could not resolve hostname gate: Name or service not known",
            "that it runs, and that this machine",
        ),
    ],
)
def test_a_jump_host_that_fails_has_a_hint_of_its_cause(destination: str, said: str, hint: str) -> None:
    lines = [f"q8s jump host {destination}: {line}" for line in said.splitlines()]
    last = f"{'x: ' * 3}q8s jump host {destination}: {' | '.join(said.splitlines()[-2:])}"
    for message in ("\n".join(lines), last, "\r\n".join([*lines, last, "Disconnected from UNKNOWN port 65535"])):
        failure = _ssh_errors.jump_failure(message)
        assert failure is not None and failure.destination == destination and hint in failure.hint
        assert said.splitlines()[-1] in failure.reason
        assert _ssh_errors.describe(message) == f"the way through {destination} fails: {failure.reason}"
