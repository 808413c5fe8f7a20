"""Debian mirrors, read from a machine's apt sources."""

from __future__ import annotations

from q8s_bundle.debs import Mirrors, Source, choose_mirrors, parse_sources

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
"""

CLASSIC = """\
# deb http://commented.example/debian trixie main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main contrib  # a comment
deb-src http://mirror.example/debian trixie main
"""


def test_deb822() -> None:
    assert parse_sources(DEB822, deb822=True) == [
        Source("http://mirror.example/debian", ("bookworm", "bookworm-updates")),
        Source("http://mirror.example/debian-security", ("bookworm-security",)),
    ]


def test_one_line_format() -> None:
    assert parse_sources(CLASSIC, deb822=False) == [Source("http://mirror.example/debian", ("trixie",))]


def test_the_mirror_is_the_one_of_the_machines_own_release() -> None:
    sources = [
        Source("http://other.example", ("nodistro",)),
        Source("http://d.example", ("bookworm",)),
        Source("http://s.example", ("bookworm-security",)),
    ]
    assert choose_mirrors(sources, "bookworm") == Mirrors("http://d.example", "http://s.example")
    assert choose_mirrors(sources[:2], "bookworm") == Mirrors("http://d.example", None)
    assert choose_mirrors(sources, "trixie") is None
