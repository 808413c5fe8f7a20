"""A build by an ordinary user: Debian's packages, a bootstrap and containerd's unpacking in a user namespace.

The user exists only in a mount namespace of this test, with a range of ids in an /etc/subuid of its own; the machine's
users stay as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from q8s_bundle import cache
from q8s_bundle.node import gobuild, versions

USER = 65500
X86 = versions.ARCHITECTURES["x86_64"]
REPOSITORY = Path(cache.__file__).parents[1]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("newuidmap") is None,
    reason="NOT TESTED: builds by an ordinary user. This needs root (to create one) and newuidmap (Debian: uidmap)",
)

# Python may be installed where only root may look.
AS_USER = """\
set -e
cd "$1"; shift
for file in passwd group subuid subgid; do mount --bind $file /etc/$file; done
mount -t tmpfs tmpfs /mnt
mkdir /mnt/python
mount --bind "$PYTHON_HOME" /mnt/python
cd home
exec setpriv --reuid=65500 --regid=65500 --clear-groups --inh-caps=-all /mnt/python/bin/python3 "$@"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Create the user's home folder, and the user database. Only root may enter pytest's own folders."""
    folder = Path(tempfile.mkdtemp(prefix="q8s-unprivileged-", dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "home").mkdir()
    os.chown(folder / "home", USER, USER)
    for file, line in {"passwd": f"::{folder}/home:/bin/sh", "group": ""}.items():
        entry = f"q8stest:x:{USER}:" + (f"{USER}{line}" if line else "")
        (folder / file).write_text(Path("/etc", file).read_text() + entry + "\n")
    for file in ("subuid", "subgid"):
        (folder / file).write_text("q8stest:2000000:65536\n")
    yield folder
    shutil.rmtree(folder)


def as_user(place: Path, *arguments: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """Run Python as the user."""
    environment = {
        "HOME": str(place / "home"),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHON_HOME": sys.base_prefix,
        "LD_LIBRARY_PATH": "/mnt/python/lib",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *(path for path in sys.path if "site-packages" in path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
    }
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", AS_USER, "sh", str(place), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=seconds)


IN_NAMESPACE = """\
import sys, os
from pathlib import Path
from q8s_bundle import namespace
if namespace.needed():
    namespace.__name__ = "inside"
    sys.path.insert(0, os.getcwd())
    os.environ["PYTHONPATH"] = os.getcwd() + os.pathsep + os.environ["PYTHONPATH"]
    sys.exit(namespace.run([]))
"""


def inside(place: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as the user, in the namespace of a build."""
    (place / "home/inside.py").write_text("from pathlib import Path\n" + body)
    (place / "home/start.py").write_text(IN_NAMESPACE)
    return as_user(place, "start.py")


def test_the_user_is_root_over_other_ids(place: Path) -> None:
    ran = inside(
        place, "import os\nPath('x').write_text('')\nos.chown('x', 33, 33)\nprint(os.getuid(), os.stat('x').st_uid)"
    )
    assert (ran.returncode, ran.stdout) == (0, "0 33\n"), ran.stderr
    assert (place / "home/x").stat().st_uid == 2000032


def test_containerd_unpacks_an_image(place: Path) -> None:
    """With the programs of this machine's cache, which the user gets a copy of."""
    copies = place / "home/.cache/q8s/programs"
    copies.mkdir(parents=True)
    for program in (gobuild.CONTAINERD, gobuild.PAUSE):
        found = cache.find("programs", f"{program.name}-x86_64", gobuild.key(program, X86))
        if found is None:
            pytest.skip(f"NOT TESTED: containerd in a user namespace. {program.name} is not cached (`make bundle`)")
        shutil.copytree(found, copies / found.name)
    for path in (place / "home/.cache", *(place / "home/.cache").rglob("*")):
        os.chown(path, USER, USER)
    ran = inside(
        place,
        """\
from q8s_bundle.node import gobuild, oci, store, versions
x86 = versions.ARCHITECTURES["x86_64"]
pause, _ = gobuild.build(gobuild.PAUSE, x86)
containerd, _ = gobuild.build(gobuild.CONTAINERD, x86)
image = oci.Image(("q8s.local/pause:1",), files={"/pause": pause / "pause"}, entrypoint=("/pause",))
oci.write(image, "amd64", Path("pause.tar"))
store.fill(Path("store").absolute(), [Path("pause.tar")], x86, containerd)
""",
    )
    assert ran.returncode == 0, ran.stderr
    (unpacked,) = (place / "home/store/io.containerd.snapshotter.v1.overlayfs/snapshots").glob("*/fs/pause")
    assert unpacked.stat().st_uid == USER, "root's, as the namespace sees it"


def test_mmdebstrap_unpacks_a_system(place: Path) -> None:
    ran = inside(
        place,
        """\
import subprocess
from q8s_bundle import debs
mirror = debs.mirrors().archive
command = ["mmdebstrap", "--mode=root", "--variant=extract", "--include=base-files,passwd"]
subprocess.run([*command, debs.machine_suite(), "system.tar", mirror], check=True)
Path("system").mkdir()
extract = ["tar", "--extract", "--numeric-owner", "--preserve-permissions", "--file=system.tar", "--directory=system"]
subprocess.run(extract, check=True)
""",
    )
    assert ran.returncode == 0, ran.stderr
    assert (place / "home/system/etc/debian_version").stat().st_uid == USER
    assert (place / "home/system/usr/bin/chage").stat().st_gid == 2000041, "the group shadow"


def test_a_user_without_a_range_is_told_at_once(place: Path) -> None:
    (place / "subuid").write_text("")
    ran = as_user(place, "-m", "q8s_bundle", "ensure", "--arch", "x86_64")
    assert ran.returncode == 1
    assert "/etc/subuid gives the user q8stest no range of 65536 ids" in ran.stderr
    assert "usermod --add-subuids" in ran.stderr
    assert not list((place / "home/.cache/q8s").glob("programs/*"))
