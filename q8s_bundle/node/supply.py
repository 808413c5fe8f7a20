"""Where the binaries of a node's programs come from: the cache, upstream's releases, or Go modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from q8s_bundle import cache, download
from q8s_bundle.download import UnavailableError
from q8s_bundle.node import gobuild, upstream
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.upstream import Releases
from q8s_bundle.node.versions import Architecture
from q8s_bundle.progress import say

type Choice = Literal["auto", "upstream", "source"]
type Origin = Literal["upstream", "source"]

CHOICES: Final[tuple[Choice, ...]] = get_args(Choice.__value__)
_HINT: Final = (
    "check the network and the proxy (HTTPS_PROXY); `--source source` (`bundle_source: source` in a cluster file) "
    "needs nothing but package registries"
)


class Supply:
    """The binaries of programs, from the source that the user chose; one run's memory of what upstream answered.

    ``auto`` takes for each program what is cached, else its release if upstream can be reached, else builds it.
    ``upstream`` takes the release of every program that has one, and fails if it cannot. ``source`` builds all. A
    program without a pinned release is built in any case.

    :param replaced: programs of another version, which take the place of those with the same names
    """

    def __init__(self, choice: Choice, releases: Releases | None = None, replaced: Sequence[Program] = ()) -> None:
        self.choice: Final = choice
        self._releases: Final = releases or Releases()
        self._replaced: Final = {program.name: program for program in replaced}
        self._answers: bool | None = None  # whether upstream does; None: it is to be asked

    def preferences(self, programs: Sequence[Program], architecture: Architecture) -> list[dict[str, Origin]]:
        """Return the mixtures (program name -> origin) of which a finished bundle will do, the best first."""
        built: dict[str, Origin] = {program.name: "source" for program in programs}
        released: dict[str, Origin] = {
            program.name: "upstream" for program in programs if self._releases.files(program, architecture)
        }
        return {"auto": [built | released, built], "upstream": [built | released], "source": [built]}[self.choice]

    def key(self, program: Program, architecture: Architecture, origin: Origin) -> str:
        """Return the cache key of a program's binaries of an origin."""
        if origin == "source":
            return gobuild.key(self._version_of(program), architecture)
        return upstream.key(program, self._releases.files(program, architecture))

    def obtain(self, program: Program, architecture: Architecture) -> tuple[Path, Origin]:
        """Download or build a program if it is not cached.

        :returns: the folder with its binaries, and their origin
        :raises BundleError: the download or build failed; the message names the program
        """
        files = () if self.choice == "source" else self._releases.files(program, architecture)
        origins: list[Origin] = ["upstream"] if files else []
        if not files or self.choice == "auto":
            origins.append("source")
        for origin in origins:
            key = self.key(program, architecture, origin)
            if found := cache.find("programs", f"{program.name}-{architecture.name}", key):
                return found, origin
        cache.require_builds(program.name)
        if files and self._answers is not False:
            try:
                self._ask(files[0].url)
                return upstream.fetch(program, architecture, files)[0], "upstream"
            except UnavailableError as error:
                if self.choice == "upstream":
                    raise UnavailableError(str(error), _HINT) from error
                say(f"{error}; building from source instead")
                self._answers = None if self._answers else False
        return gobuild.build(self._version_of(program), architecture)[0], "source"

    def _version_of(self, program: Program) -> Program:
        return self._replaced.get(program.name, program)

    def _ask(self, url: str) -> None:
        """Make sure that upstream answers: one quick question, instead of a long wait for each file."""
        if self._answers is None:
            if reason := download.unreachable(url):
                raise UnavailableError(f"Failed to reach upstream at {urlsplit(url).hostname}: {reason}")
            self._answers = True
