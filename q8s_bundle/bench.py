"""The container image of ``q8s-run bench``: measuring tools of Debian, for one architecture. Nothing is compiled.

The image holds the tools, the libraries that their ELF headers name, and busybox as a shell. It is an archive of its
own, so that it changes without a new node bundle, and only clusters that are measured have it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs, pod_image
from q8s_bundle.node import elf, oci, versions
from q8s_bundle.node.versions import Architecture
from q8s_bundle.pod_image import Recipe

KIND: Final = "bench"
_REPOSITORY: Final = "q8s.local/bench"
_HERE: Final = Path(__file__)
# The image is a function of these sources and of the packages that they name.
_SOURCES: Final = (_HERE, Path(elf.__file__), *pod_image.SOURCES)

# Path in the image -> what it is for.
TOOLS: Final = {
    "/usr/bin/busybox": "shell, and the samples of /proc",
    "/usr/bin/fio": "disk",
    "/usr/bin/iperf3": "bandwidth",
    "/usr/bin/openssl": "cryptography",
    "/usr/bin/ping": "latency of ICMP",
    "/usr/bin/sockperf": "latency of UDP and TCP",
    "/usr/bin/stress-ng": "integer, floating point and memory",
    "/usr/lib/7zip/7za": "integer, as 7-Zip's own benchmark",
}
_SHELL: Final = ("sh", "cat", "date", "grep", "head", "ls", "rm", "sleep", "true", "uname")
_TOOL_PACKAGES: Final = ("7zip", "busybox-static", "fio", "iperf3", "iputils-ping", "openssl", "sockperf", "stress-ng")
_LIBRARY_PACKAGES: Final = (
    "libacl1", "libaio1t64", "libapparmor1", "libblkid1", "libboost-iostreams1.83.0", "libboost-thread1.83.0",
    "libbsd0", "libbz2-1.0", "libc6", "libcap2", "libcom-err2", "libcrypt1", "libcryptsetup12", "libdaxctl1",
    "libdevmapper1.02.1", "libdrm2", "libegl1", "libexpat1", "libffi8", "libfmt10", "libgbm1", "libgcc-s1", "libgfapi0",
    "libgfrpc0", "libgfxdr0", "libgles2", "libglusterfs0", "libglvnd0", "libgmp10", "libgnutls30t64",
    "libgssapi-krb5-2", "libhogweed6t64", "libibverbs1", "libidn2-0", "libiperf0", "libjpeg62-turbo", "libjson-c5",
    "libjudydebian1", "libk5crypto3", "libkeyutils1", "libkmod2", "libkrb5-3", "libkrb5support0", "liblzma5", "libmd0",
    "libmpfr6", "libnbd0", "libndctl6", "libnettle8t64", "libnfs14", "libnl-3-200", "libnl-route-3-200", "libnuma1",
    "libp11-kit0", "libpcre2-8-0", "libpmem1", "librados2", "librbd1", "librdmacm1t64", "libsctp1", "libselinux1",
    "libssl3t64", "libstdc++6", "libtasn1-6", "libtirpc3t64", "libudev1", "libunistring5", "libuuid1", "libxml2",
    "libxxhash0", "libzstd1", "zlib1g",
)  # fmt: skip
_ONLY_FOR: Final = {"x86_64": ("libipsec-mb2",)}  # stress-ng's, which Debian has for this architecture alone


def packages(architecture: Architecture) -> tuple[str, ...]:
    """Return the Debian packages that an architecture's image is made from."""
    return tuple(sorted((*_TOOL_PACKAGES, *_LIBRARY_PACKAGES, *_ONLY_FOR.get(architecture.name, ()))))


def image_name(architecture: Architecture) -> str:
    """Return the image's name. It changes with the content, so that a node shows which image it has."""
    return f"{_REPOSITORY}:{_key(architecture)}"


def recipe(architecture: Architecture) -> Recipe:
    """Return how an architecture's image is made."""
    name, key = image_name(architecture), _key(architecture)
    return Recipe(KIND, f"bench-{architecture.name}", name, key, architecture, partial(contents, architecture))


def look_up_packages(architecture: Architecture) -> None:
    """Look the image's packages up in the cache, as a build does."""
    debs.tree(architecture.debian, versions.DEBIAN_SUITE, packages(architecture))


def contents(architecture: Architecture) -> oci.Image:
    """Return what is in an architecture's image. Downloads the packages if they are not in the cache."""
    root, _ = debs.tree(architecture.debian, versions.DEBIAN_SUITE, packages(architecture))
    library = f"/usr/lib/{architecture.gnu}"
    files = {path: root / path.lstrip("/") for path in TOOLS}
    # Ceph's libraries, which fio names, have a folder of their own.
    libraries = elf.closure(files.values(), root, (library, "/usr/lib", f"{library}/ceph"))
    for inside, file in libraries.items():
        # The interpreter's path begins with /lib or /lib64, which are links in a merged /usr.
        files[inside if inside.startswith("/usr/") else f"/usr{inside}"] = file
    links = {f"/{name}": f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
    links |= {f"/usr/bin/{name}": "busybox" for name in _SHELL}
    links["/usr/bin/7za"] = "../lib/7zip/7za"
    return oci.Image((image_name(architecture),), ("/usr/bin/sleep", "infinity"), files, links)


def _key(architecture: Architecture) -> str:
    return cache.content_key(architecture.name, versions.DEBIAN_SUITE, *packages(architecture), *_SOURCES)
