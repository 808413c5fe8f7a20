"""The process environment of ``q8s-run`` and of everything that it starts.

Variables that users set for other work (Ansible, Python, locales, ssh helpers) must not change what a command does.
Only this module decides which variables reach a child process. The ssh options are in the collection (``_ssh.py``):
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

# Removed from the environment of all child processes. No Ansible variable passes: this repository sets what a run
# needs, and users pass arguments of ansible-playbook after `--`.
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
# Paths relative to the user's current folder. They are made absolute: child processes may run in another folder.
_PATHS: Final = ("OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE", "OS_CACERT", "OS_CERT", "OS_KEY")
# openstacksdk looks for these files in the current folder first (openstack/config/loader.py), unless a variable
# names one.
_SDK_FILES: Final = {"OS_CLIENT_CONFIG_FILE": "clouds", "OS_CLIENT_SECURE_FILE": "secure"}
_SDK_SUFFIXES: Final = (".yaml", ".yml", ".json")
_LOCALES: Final = ("C.UTF-8", "C.utf8", "en_US.UTF-8", "en_US.utf8")


def child_environment(user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for any child process, such as ssh.

    :param user: the environment in which the user runs ``q8s-run``
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
        "HOME": user.get("HOME") or _home_folder(),
        # ssh runs ProxyCommand with $SHELL: fish or nologin may not understand the command.
        "SHELL": "/bin/sh",
        "LANG": utf8,
        "LC_ALL": utf8,
    }


def ansible_environment(user: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for Ansible's programs: without the user's ``ANSIBLE_*``, with a separate ANSIBLE_HOME.

    :param user: the environment in which the user runs ``q8s-run``
    """
    from q8s_bundle.cache import cache_root

    state = state_root()
    return {
        **{name: value for name, value in child_environment(user).items() if name != "KUBECONFIG"},
        "Q8S_STATE": str(state),
        "ANSIBLE_CONFIG": str(DATA / "ansible.cfg"),
        # For plugins and temporary files: ~/.ansible may hold plugins of the user, or be read-only. The name is hidden
        # because the other folders of the state are clusters. Check mode creates no state: it uses the cache.
        "ANSIBLE_HOME": str((state if state.is_dir() else cache_root()) / ".ansible"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner turns it off by default
        "ANSIBLE_NOCOLOR": "True",
        "Q8S_PROGRESS_EVENTS": "1",  # builds report their progress as JSON
        "PYTHONUNBUFFERED": "1",
        # Do not import from the current folder: it may have a yaml.py or openstack.py.
        "PYTHONSAFEPATH": "1",
    }


@contextmanager
def replaced(variables: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment of this process within the context: ansible-runner copies it to Ansible."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def isolate() -> None:
    """Prepare this process for any caller: closed standard streams, a deleted current folder, no HOME."""
    _open_standard_streams()
    _leave_unusable_folder()
    if not os.environ.get("HOME"):
        os.environ["HOME"] = _home_folder()
    # Do not fail on a character that the terminal cannot show.
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _open_standard_streams() -> None:
    """Open closed standard streams on /dev/null: otherwise the next opened file would get descriptor 0, 1 or 2."""
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


def _leave_unusable_folder() -> None:
    """Change to / if the current folder was deleted or this user may not enter it."""
    try:
        usable = os.access(Path.cwd(), os.X_OK)
    except OSError:
        usable = False
    if not usable:
        os.chdir("/")


def _absolute_paths(user: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the variables that name files, with absolute paths.

    :param user: the environment in which the user runs ``q8s-run``
    :param folder: the user's current folder
    """
    found = {
        variable: str(file)
        for variable, stem in _SDK_FILES.items()
        if not user.get(variable)
        for file in reversed([folder / (stem + suffix) for suffix in _SDK_SUFFIXES])
        if os.path.exists(file)  # noqa: PTH110 (pathlib's raises where the folder may not be searched)
    }
    # pathlib ignores the folder if the path is absolute
    configured = {variable: str(folder / user[variable]) for variable in _PATHS if user.get(variable)}
    if cache := user.get("Q8S_CACHE"):
        configured["Q8S_CACHE"] = str(folder / Path(cache).expanduser())
    return {**found, **configured}


def _utf8_locale() -> str:
    """Return a UTF-8 locale that this machine has: Ansible requires the encoding UTF-8."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        for name in _LOCALES:
            with suppress(locale.Error):
                locale.setlocale(locale.LC_CTYPE, name)
                return name
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return _LOCALES[0]


def _home_folder() -> str:
    """Return the user's home folder from the user database, or / if the user is not in it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"
