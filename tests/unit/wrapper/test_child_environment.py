"""The environment of child processes, and errors for a state folder that is not writable."""

from __future__ import annotations

import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest

from q8s_wrapper import cli, environment
from q8s_wrapper.config import REPOSITORY, state_root
from q8s_wrapper.errors import ExitCode

EXAMPLE = str(REPOSITORY / "examples" / "demo.yaml")
Q8S_RUN = str(Path(sys.executable).with_name("q8s-run"))


def test_no_setting_of_ansible_python_or_the_locale_reaches_a_child() -> None:
    user = {
        **dict.fromkeys(("ANSIBLE_FORKS", "ANSIBLE_HOME", "AWX_LIB_DIRECTORY", "PYTHONPATH", "PYTHONHOME"), "theirs"),
        **dict.fromkeys(("LC_CTYPE", "LANGUAGE", "SSH_ASKPASS", "BASH_ENV", "VIRTUAL_ENV", "NO_COLOR"), "theirs"),
        **dict.fromkeys(("KUBECONFIG", "LANG", "LC_ALL", "SHELL"), "theirs"),
        **dict.fromkeys(("OS_CLOUD", "http_proxy", "SSH_AUTH_SOCK", "TERM", "XDG_CACHE_HOME"), "kept"),
        "PATH": "/usr/bin",
        "HOME": "/home/me",
    }
    found = environment.ansible_environment(user)
    assert "theirs" not in found.values()
    assert {name for name, value in found.items() if value == "kept"} == {
        name for name, value in user.items() if value == "kept"
    }
    assert found["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert found["ANSIBLE_CONFIG"] == str(REPOSITORY / "ansible.cfg")
    assert found["LC_ALL"] == found["LANG"]
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, found["LC_ALL"])
        assert locale.nl_langinfo(locale.CODESET) == "UTF-8"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def test_an_empty_environment_is_enough() -> None:
    found = environment.child_environment({})
    assert Path(found["HOME"]).is_absolute() and found["PATH"].endswith(os.defpath) and found["SHELL"] == "/bin/sh"


def test_paths_start_at_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    user = {"OS_CLIENT_CONFIG_FILE": "a/clouds.yaml", "OS_CACERT": "ca.pem", "OS_KEY": "/etc/key", "Q8S_CACHE": "cache"}
    found = environment.child_environment(user)
    assert {name: found[name] for name in user} == {
        "OS_CLIENT_CONFIG_FILE": f"{tmp_path}/a/clouds.yaml",
        "OS_CACERT": f"{tmp_path}/ca.pem",
        "OS_KEY": "/etc/key",
        "Q8S_CACHE": f"{tmp_path}/cache",
    }
    assert "OS_CLIENT_CONFIG_FILE" not in environment.child_environment({})
    for name in ("clouds.json", "clouds.yaml", "secure.yml"):  # openstacksdk takes .yaml before .json
        (tmp_path / name).touch()
    found = environment.child_environment({})
    assert found["OS_CLIENT_CONFIG_FILE"] == f"{tmp_path}/clouds.yaml"
    assert found["OS_CLIENT_SECURE_FILE"] == f"{tmp_path}/secure.yml"
    assert environment.child_environment({"OS_CLIENT_CONFIG_FILE": "/mine"})["OS_CLIENT_CONFIG_FILE"] == "/mine"


def test_the_state_is_where_the_variables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for given, expected in (
        ({"Q8S_STATE": "here"}, f"{tmp_path}/here"),
        ({"Q8S_STATE": "~/there"}, "/home/me/there"),
        ({"XDG_STATE_HOME": "/state"}, "/state/q8s"),
        ({"XDG_STATE_HOME": "state"}, "/home/me/.local/state/q8s"),
        ({}, "/home/me/.local/state/q8s"),
    ):
        for name in ("Q8S_STATE", "XDG_STATE_HOME"):
            monkeypatch.setenv(name, given.get(name, ""))
        assert str(state_root()) == environment.ansible_environment({})["Q8S_STATE"] == expected


@pytest.mark.parametrize(
    "command", [["plan"], ["status"], ["ssh", "arm-mid-1"], ["deploy", "--yes"], ["destroy", "--yes"]]
)
@pytest.mark.parametrize(
    ("place", "reason"), [("/proc/nowhere", "No such file or directory"), (EXAMPLE, "Not a directory")]
)
def test_a_state_folder_that_cannot_be_used(
    command: list[str], place: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_STATE", place)
    assert cli.main([command[0], EXAMPLE, *command[1:]]) == ExitCode.WRONG_INPUT
    out, err = capsys.readouterr()
    assert out == "" and err == (
        f"error: Failed to use the state folder {place} (Q8S_STATE is '{place}'): {reason}\n"
        "hint: set Q8S_STATE to a folder that you may write to\n"
    )


def run(*arguments: str, redirect: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run q8s-run as a shell does, in an environment that has nothing else."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", Q8S_RUN, *arguments],
        env={"PATH": os.defpath, "HOME": "/nowhere", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
        {"PYTHONINSPECT": "1", "PYTHONWARNINGS": "error"},
        {"PYTHONPATH": "{}"},
    ],
)
def test_variables_of_python_do_not_matter(variables: dict[str, str], tmp_path: Path) -> None:
    for name in ("argparse", "yaml", "ansible"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this')")
    done = run("validate", EXAMPLE, **{name: value.format(tmp_path) for name, value in variables.items()})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{EXAMPLE}: OK\n", "")


def test_streams_that_are_closed_or_full() -> None:
    for redirect in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = run("validate", EXAMPLE, redirect=redirect)
        assert (done.returncode, done.stderr) == (0, ""), redirect


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (["--help"], ""),
        (["--help"], "1"),
        (["validate", EXAMPLE], ""),
        (["lab", "status"], "1"),
        (["bundle", "--help"], ""),
    ],
)
def test_output_that_cannot_be_written(arguments: list[str], unbuffered: str, tmp_path: Path) -> None:
    settings = {"PYTHONUNBUFFERED": unbuffered, "Q8S_LAB_DIR": str(tmp_path)}
    full = run(*arguments, redirect=">/dev/full", **settings)
    problem = "error: Failed to write to standard output: No space left on device\n"
    assert (full.returncode, full.stderr) == (1, problem)
    assert run(*arguments, redirect="| true", **settings).stderr == "", "the reader has exited, as head does"


def test_a_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert run("validate", EXAMPLE).returncode == 0
    relative = run("validate", "cluster.yaml")
    assert relative.returncode == 2 and "Failed to read cluster.yaml: No such file" in relative.stderr
    assert "Traceback" not in relative.stderr
