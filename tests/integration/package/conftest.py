"""Q8S as it is installed: the wheel in an empty environment, used by somebody who is not root and has no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from q8s_lab import settings
from q8s_wrapper.config import REPOSITORY

NOBODY = 65534
BIN = Path(sys.executable).parent
# In a mount namespace of its own, the checkout is empty, and so is the home folder, except for Python if it is there.
HIDE = """\
mount -t tmpfs tmpfs "$CHECKOUT"
case $PYTHON_FOLDER in
"$OWN_HOME"/*)
    mount --bind "$PYTHON_FOLDER" /mnt
    mount -t tmpfs -o mode=755 tmpfs "$OWN_HOME"
    mkdir -p "$PYTHON_FOLDER"
    mount --move /mnt "$PYTHON_FOLDER" ;;
esac
cd "$FOLDER"
exec setpriv --reuid=65534 --regid=65534 --clear-groups env -i "$@"
"""


@dataclass(frozen=True)
class User:
    """An ordinary user, whose programs are those of one virtual environment."""

    programs: Path
    home: Path

    @property
    def folder(self) -> Path:
        """The folder in which the user works."""
        return self.home / "work"

    def copy(self, file: Path, name: str) -> Path:
        """Copy a file into the user's folder and return the copy's path."""
        copy = self.folder / name
        shutil.copyfile(file, copy)
        os.chown(copy, NOBODY, NOBODY)
        return copy

    def run(
        self, program: str, *arguments: str | Path, seconds: int = 300, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs, or of the system's, with no other variables than these."""
        own = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **variables}
        words = [*(f"{name}={value}" for name, value in own.items()), self._path(program), *arguments]
        places = {
            "CHECKOUT": str(REPOSITORY),
            "PYTHON_FOLDER": sys.base_prefix,
            "OWN_HOME": str(Path.home()),
            "FOLDER": str(self.folder),
        }
        return subprocess.run(
            ["unshare", "--mount", "sh", "-ec", HIDE, "sh", *words],
            env={**os.environ, **places},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def _path(self, program: str) -> Path | str:
        own = self.programs / program
        return own if own.exists() else program


@pytest.fixture(scope="session")
def user() -> Iterator[User]:
    """A user with Q8S's wheel and an empty folder."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    # Not pytest's own folder, which is root's alone.
    folder = Path(tempfile.mkdtemp(prefix="q8s-package-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        build = [BIN / "uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
        subprocess.run([*build, "--out-dir", folder, REPOSITORY], check=True)
        subprocess.run([BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
        install = [BIN / "uv", "pip", "install", "--quiet", "--python", folder / "venv" / "bin" / "python"]
        subprocess.run([*install, next(folder.glob("q8s-*.whl"))], check=True)
        home = folder / "home"
        (home / "work").mkdir(parents=True)
        for path in (home, home / "work"):
            os.chown(path, NOBODY, NOBODY)
        yield User(folder / "venv" / "bin", home)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster_file(user: User) -> str:
    """The name of a cluster file for the lab in the user's folder."""
    copy = user.copy(REPOSITORY / "examples" / "demo.yaml", "cluster.yaml")
    copy.write_text(copy.read_text().replace("10.254.1.0/24", str(settings.load().subnet)))
    return copy.name


@pytest.fixture
def cloud(user: User, lab: Mapping[str, str]) -> dict[str, str]:
    """The variables that choose the lab's cloud; the user has a copy of its ``clouds.yaml``."""
    file = user.copy(Path(lab["OS_CLIENT_CONFIG_FILE"]), "clouds.yaml")
    file.chmod(0o600)
    return {"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": lab["OS_CLOUD"]}
