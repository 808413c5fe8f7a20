"""The process environment of ``q8s-run`` and of everything that it starts.

What users set for other work (Ansible's variables, Python's, locales, helpers of ssh) must not change what a command
does. Only this module decides what reaches a child process. The ssh options are in the collection (``_ssh.py``), for
``ansible-playbook`` needs them as well.
"""

from __future__ import annotations

import locale
import os
import pwd
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from q8s_wrapper.config import DATA, state_root

# Removed from the environment of all children. No variable of Ansible's is let through: what a run needs comes from
# this repository, and what a user wants to change goes behind `--`, as arguments of ansible-playbook.
_REMOVED_PREFIXES: Final = ("ANSIBLE_", "_ANSIBLE_", "AWX_", "RUNNER_", "PYTHON", "LC_")
_REMOVED: Final = frozenset(
    {
        *("LANG", "LANGUAGE", "LOCPATH"),
        *("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "__PYVENV_LAUNCHER__"),
        *("BASH_ENV", "ENV", "CDPATH", "POSIXLY_CORRECT"),
        *("SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"),
        *("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"),
    }
)
# Paths that start at the user's current folder; children may run elsewhere.
_PATHS: Final = ("OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE", "OS_CACERT", "OS_CERT", "OS_KEY")
# openstacksdk finds these in the current folder first (openstack/config/loader.py); two have a variable.
_FILES_OF_THE_SDK: Final = {"OS_CLIENT_CONFIG_FILE": "clouds", "OS_CLIENT_SECURE_FILE": "secure"}
_SUFFIXES_OF_THE_SDK: Final = (".yaml", ".yml", ".json")
_LOCALES: Final = ("C.UTF-8", "C.utf8", "en_US.UTF-8", "en_US.utf8")


def child_environment(user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of any child process, ssh for example.

    :param user: the environment that the user runs ``q8s-run`` in
    """
    kept = {
        name: value for name, value in user.items() if name not in _REMOVED and not name.startswith(_REMOVED_PREFIXES)
    }
    utf8 = _utf8_locale()
    programs = str(Path(sys.executable).parent)
    return {
        **kept,
        **_absolute_paths(user, Path.cwd()),
        "PATH": os.pathsep.join([programs, user.get("PATH") or os.defpath]),
        "HOME": user.get("HOME") or _home(),
        # ssh runs a ProxyCommand with it: fish or nologin may not understand the command.
        "SHELL": "/bin/sh",
        "LANG": utf8,
        "LC_ALL": utf8,
    }


def ansible_environment(user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Ansible's programs: none of the user's ``ANSIBLE_*``, and a home of their own.

    :param user: the environment that the user runs ``q8s-run`` in
    """
    from q8s_bundle.cache import cache_root

    state = state_root()
    return {
        **{name: value for name, value in child_environment(user).items() if name != "KUBECONFIG"},
        "Q8S_STATE": str(state),
        "ANSIBLE_CONFIG": str(DATA / "ansible.cfg"),
        # Plugins and temporary files; ~/.ansible may have plugins of the user's, or be read-only. Hidden, as the
        # other folders of the state are clusters. A run in check mode may be the first, and makes no state.
        "ANSIBLE_HOME": str((state if state.is_dir() else cache_root()) / ".ansible"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner would turn it off
        "ANSIBLE_NOCOLOR": "True",
        "Q8S_PROGRESS_EVENTS": "1",  # a build reports its progress as data
        "PYTHONUNBUFFERED": "1",
        # No module from the current folder, where a yaml.py or openstack.py may lie.
        "PYTHONSAFEPATH": "1",
    }


@contextmanager
def replaced(variables: Mapping[str, str]) -> Iterator[None]:
    """Let this process have these variables only: ansible-runner copies them, and reads some itself."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def isolate() -> None:
    """Make this process independent of the files and the folder that it was started with. For the console script."""
    _open_standard_streams()
    _leave_lost_folder()
    if not os.environ.get("HOME"):
        os.environ["HOME"] = _home()
    # A terminal that cannot show a character is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _open_standard_streams() -> None:
    """Open what is closed of stdin, stdout and stderr: files that are opened later would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _leave_lost_folder() -> None:
    """Leave a current folder that was deleted or is closed to this user: nothing is found by a relative path there."""
    try:
        usable = os.access(Path.cwd(), os.X_OK)
    except OSError:
        usable = False
    if not usable:
        os.chdir("/")


def _absolute_paths(user: Mapping[str, str], folder: Path) -> dict[str, str]:
    found = {
        variable: str(file)
        for variable, stem in _FILES_OF_THE_SDK.items()
        if not user.get(variable)
        for file in reversed([folder / (stem + suffix) for suffix in _SUFFIXES_OF_THE_SDK])
        if os.path.exists(file)  # noqa: PTH110 (pathlib's raises where the folder may not be searched)
    }
    # the folder comes first unless the path is absolute
    given = {variable: str(folder / user[variable]) for variable in _PATHS if user.get(variable)}
    if cache := user.get("Q8S_CACHE"):
        given["Q8S_CACHE"] = str(folder / Path(cache).expanduser())
    return {**found, **given}


def _utf8_locale() -> str:
    """Return a UTF-8 locale that this machine has: Ansible refuses any other encoding."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        for name in _LOCALES:
            with suppress(locale.Error):
                locale.setlocale(locale.LC_CTYPE, name)
                return name
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return _LOCALES[0]


def _home() -> str:
    """Return the home folder that the system knows for this user, or / for a user that it does not know."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"
