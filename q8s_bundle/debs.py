"""Download Debian packages of any architecture and suite with apt, separate from the machine's own apt state.

The mirrors are those in the apt sources of a machine that runs Debian, or ``Q8S_DEBIAN_MIRROR``. apt verifies the
archive's signature and the checksum of each package. Maintainer scripts are not run.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_bundle.errors import BundleError
from q8s_bundle.progress import run, step

_SOURCES: Final = Path("/etc/apt")
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_RECIPE: Final = "1"


@dataclass(frozen=True)
class Source:
    """An apt source: its URI and its suites."""

    uri: str
    suites: tuple[str, ...]


@dataclass(frozen=True)
class Mirrors:
    """The URIs of Debian's archive and of its security updates (None if the machine has no such source)."""

    archive: str
    security: str | None


def parse_sources(text: str, *, deb822: bool) -> list[Source]:
    """Return the sources of binary packages in an apt sources file (sources.list(5)).

    :param deb822: whether the file has the deb822 format instead of one line for each source
    """
    sources: list[Source] = []
    if deb822:
        for stanza in re.split(r"\n\s*\n", text):
            fields = {
                name.strip().lower(): value.split()
                for name, _, value in (
                    line.partition(":") for line in stanza.splitlines() if not line.startswith(("#", " ", "\t"))
                )
            }
            if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
                sources += [Source(uri, tuple(fields.get("suites", []))) for uri in fields.get("uris", [])]
        return sources
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            sources.append(Source(words[1], (words[2],)))
    return sources


def choose_mirrors(sources: Sequence[Source], codename: str) -> Mirrors | None:
    """Return the mirrors of a release, or None if no source has it.

    :param codename: code name of the release, such as ``trixie``
    """

    def serving(suite: str) -> str | None:
        return next((source.uri for source in sources if suite in source.suites), None)

    archive = serving(codename)
    return Mirrors(archive, serving(f"{codename}-security")) if archive else None


def mirrors() -> Mirrors:
    """Return ``Q8S_DEBIAN_MIRROR`` (a URI, for machines that are not Debian), else the machine's Debian mirrors.

    :raises BundleError: the machine is not Debian, the apt sources name no mirror, or Debian's keyring is missing
    """
    if own := os.environ.get("Q8S_DEBIAN_MIRROR"):
        return Mirrors(own, None)
    if not is_debian():
        raise BundleError(
            "Failed to find a Debian mirror: this machine is not Debian, so its apt sources name mirrors of another "
            "distribution",
            "set Q8S_DEBIAN_MIRROR to the URI of a mirror of Debian, and install debian-archive-keyring",
        )
    sources: list[Source] = []
    for file in sorted(_SOURCES.glob("sources.list.d/*")):
        if file.suffix in (".sources", ".list"):
            sources += parse_sources(file.read_text(), deb822=file.suffix == ".sources")
    classic = _SOURCES / "sources.list"
    if classic.exists():
        sources += parse_sources(classic.read_text(), deb822=False)
    found = choose_mirrors(sources, machine_suite())
    if found is None or not _KEYRING.exists():
        raise BundleError(
            "Failed to find a Debian mirror: this machine's apt sources name none, or Debian's keyring is missing",
            "set Q8S_DEBIAN_MIRROR to a mirror's URI and install debian-archive-keyring",
        )
    return found


def machine_suite() -> str:
    """Return the code name of the machine's release (os-release(5)), such as ``bookworm``.

    :raises BundleError: /etc/os-release has none, or is missing
    """
    if suite := _release().get("VERSION_CODENAME"):
        return suite
    raise BundleError("Failed to tell this machine's release: /etc/os-release is missing or has no VERSION_CODENAME")


def is_debian() -> bool:
    """Return whether the machine runs Debian itself, and not a distribution that is derived from it."""
    return _release().get("ID") == "debian"


def _release() -> dict[str, str]:
    """Return the variables of os-release(5); none where the file is missing, as on macOS."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def fetch(architecture: str, suite: str, names: Sequence[str]) -> tuple[Path, bool]:
    """Download packages without their dependencies, unless they are in the cache.

    Downloaded packages are kept: mirrors change from day to day, but an image that is built twice should be the same.

    :param architecture: Debian's name of the architecture
    :param names: the packages
    :returns: the folder with the ``.deb`` files, and whether this call downloaded them
    """
    return cache.entry(
        "debs",
        f"{suite}-{architecture}",
        cache.content_key(_RECIPE, suite, architecture, *sorted(names)),
        lambda folder: _download(architecture, suite, sorted(names), folder),
    )


def tree(architecture: str, suite: str, names: Sequence[str]) -> tuple[Path, bool]:
    """Download packages and unpack them into one folder, unless it is in the cache.

    :returns: the folder, and whether this call created it
    """

    def build(folder: Path) -> None:
        packages, _ = fetch(architecture, suite, names)
        unpack(packages, folder)

    return cache.entry(
        "trees", f"{suite}-{architecture}", cache.content_key(_RECIPE, suite, architecture, *sorted(names)), build
    )


def unpack(packages: Path, root: Path) -> None:
    """Unpack all ``.deb`` files of a folder into ``root``, without running maintainer scripts."""
    # Use merged /usr, as an installed Debian does: packages of older suites still have files in /lib and /sbin.
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    log = cache.cache_root() / "logs" / "unpack.log"
    # Unpack with tar: dpkg-deb -x would replace the links above by folders.
    script = 'set -e; dpkg-deb --fsys-tarfile "$1" | tar --extract --keep-directory-symlink --directory "$2"'
    for package in sorted(packages.glob("*.deb")):
        run(
            f"unpack {package.name}",
            ["sh", "-c", script, "unpack", package, root],
            log=log,
        )


def _download(architecture: str, suite: str, names: Sequence[str], folder: Path) -> None:
    log = cache.cache_root() / "logs" / f"apt-{suite}-{architecture}.log"
    log.unlink(missing_ok=True)
    what = f"fetch {len(names)} Debian packages ({suite}, {architecture})"
    with step(what), tempfile.TemporaryDirectory(prefix="q8s-apt-") as state:
        config = _write_config(Path(state), architecture, suite)
        environment = dict(os.environ, APT_CONFIG=str(config), LC_ALL="C.UTF-8")
        # apt-get update by itself succeeds without the lists of a mirror that is not reachable.
        update = ["apt-get", "update", "--error-on=any"]
        run(f"read the package lists of {suite} for {architecture}", update, log=log, env=environment)
        run(what, ["apt-get", "download", *names], log=log, env=environment, cwd=folder)


def _write_config(state: Path, architecture: str, suite: str) -> Path:
    """Write an apt configuration that uses only folders in ``state``, and return its path."""
    for name in ("lists/partial", "cache/archives/partial", "preferences.d", "sources.list.d"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    places = mirrors()
    lines = [f"deb [signed-by={_KEYRING}] {places.archive} {suite} main"]
    if places.security:
        lines.append(f"deb [signed-by={_KEYRING}] {places.security} {suite}-security main")
    (state / "sources.list").write_text("\n".join(lines) + "\n")
    config = state / "apt.conf"
    config.write_text(
        f"""\
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Etc::sourcelist "{state}/sources.list";
Dir::Etc::sourceparts "{state}/sources.list.d";
Dir::Etc::preferences "{state}/preferences";
Dir::Etc::preferencesparts "{state}/preferences.d";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
    )
    return config


def require(tool: str) -> None:
    """Check that a tool is in PATH.

    :raises BundleError: it is missing
    """
    if shutil.which(tool) is None:
        raise BundleError(
            f"Failed to find the program {tool!r} on this machine",
            "install the packages of q8s_bundle/packages.txt (`make setup` does)",
        )
