"""The collection as Ansible wants it: ansible-test's sanity tests, on our Python and on an older one that modules meet.

Each test of theirs has an environment of its own, with packages from the registry; made once, they stay in Q8S's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_test._internal.python_requirements import get_venv_packages

from q8s_bundle import cache
from q8s_wrapper.config import REPOSITORY

COLLECTION = REPOSITORY / "collections" / "ansible_collections" / "q8s" / "emu"
# ansible-test gets pip from a site of its own. Each Python comes with one, which gets the version that is asked for.
GET_PIP = """\
import ensurepip, os, runpy, sys
folder = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
folder = folder if os.path.isdir(folder) else "/usr/share/python-wheels"  # Debian's place for it
sys.path.insert(0, os.path.join(folder, next(name for name in os.listdir(folder) if name.startswith("pip-"))))
sys.argv[1:] = ["install", *(word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel"))]
runpy.run_module("pip", run_name="__main__")
"""


@pytest.fixture(scope="module")
def home() -> Path:
    """Where ansible-test keeps its environments."""
    folder = cache.cache_root() / "ansible-test"
    pip = get_venv_packages(SimpleNamespace(version="3.13"))["pip"].replace(".", "_")
    script = folder / ".ansible" / "test" / "cache" / f"get_pip_{pip}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(GET_PIP)
    return folder


def older_python() -> Path | None:
    """The oldest Python here that modules may meet; pyenv's own commands of that name need not lead to one."""
    for version in ("3.9", "3.10", "3.11", "3.12"):
        for place in [*Path.home().glob(f".pyenv/versions/{version}.*/bin"), Path("/usr/bin"), Path("/usr/local/bin")]:
            if (place / f"python{version}").exists():
                return place / f"python{version}"
    return None


OLDER = older_python()


def sanity(home: Path, *arguments: str) -> None:
    """Run sanity tests; one that finds something, or that could not run, fails with its own words."""
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        [bin_folder / "ansible-test", "sanity", "--color", "no", *arguments],
        cwd=COLLECTION,
        env={
            **os.environ,
            "HOME": str(home),
            "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),  # pip's settings
            "PATH": f"{bin_folder}:{OLDER.parent if OLDER else bin_folder}:{os.environ['PATH']}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert "Required program" not in done.stdout, done.stdout


def test_sanity(home: Path) -> None:
    """All of them, as ``ansible-test sanity`` runs them."""
    sanity(home, "--local", "--python", "3.13", "--skip-test", "shellcheck")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed: apt-get install shellcheck")
def test_shell_scripts(home: Path) -> None:
    sanity(home, "--local", "--python", "3.13", "--test", "shellcheck")


@pytest.mark.skipif(OLDER is None, reason="there is no Python 3.9 to 3.12 here to import the modules with")
def test_an_older_python(home: Path) -> None:
    """Modules and what they import, with nothing but Python there: no PyYAML, no openstacksdk."""
    assert OLDER is not None
    version = OLDER.name.removeprefix("python")
    sanity(home, "--venv", "--python", version, "--test", "compile", "--test", "import")
