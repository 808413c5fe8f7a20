"""Kubernetes' conformance tests: the program that runs them, and the images of their pods.

The program is upstream's ``e2e.test``, from the same release of Kubernetes as the bundle. The pods' images have
upstream's names. What is in them is upstream's ``agnhost`` and tools of Debian, since no registry is needed for a
cluster. Each is an archive of its own, beside the bundle: only clusters that are tested have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs, pod_image
from q8s_bundle.errors import BundleError
from q8s_bundle.node import elf, gobuild, minors, oci, versions
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.versions import Architecture
from q8s_bundle.pod_image import PodImage, Recipe
from q8s_bundle.progress import run, say, step

KIND: Final = "conformance"
KUBERNETES: Final = minors.NEWEST.kubernetes  # the only version whose modules are pinned here
TESTS_PROGRAM: Final = "e2e.test"
_MODULE: Final = "conformance"
_UPSTREAM: Final = "registry.k8s.io/e2e-test-images"
_OWN: Final = "q8s.local/conformance"
_FILES: Final = Path(__file__).parent / "files"
_SOURCES: Final = (
    Path(__file__), Path(elf.__file__), *pod_image.SOURCES,
    *(_FILES / name for name in ("agnhost", "empty", "group", "index.html", "nginx.conf", "passwd")),
)  # fmt: skip
_STAMPS: Final = gobuild.kubernetes_programs(KUBERNETES, _MODULE)[0].stamps

TESTS: Final = Program(
    "conformance-tests", _MODULE, {TESTS_PROGRAM: "k8s.io/kubernetes/test/e2e"}, _STAMPS, is_test=True
)
AGNHOST: Final = Program("agnhost", _MODULE, {"agnhost": "k8s.io/kubernetes/test/images/agnhost"}, _STAMPS)
_CERTIFICATES: Final = ("localhost.crt", "localhost.key")  # agnhost's `porter` serves TLS with them

# Path in the image -> path in the unpacked packages.
_AGNHOST_TOOLS: Final = {
    "/usr/bin/bash": "usr/bin/bash",
    "/usr/bin/busybox": "usr/bin/busybox",
    "/usr/bin/curl": "usr/bin/curl",
    "/usr/bin/dig": "usr/bin/dig",
    "/usr/bin/getent": "usr/bin/getent",
    "/usr/bin/ip": "usr/bin/ip",
    "/usr/bin/iperf": "usr/bin/iperf",
    "/usr/bin/nc": "usr/bin/nc.openbsd",
    # Not busybox's shell, which prefers its own nc and ip to those of the PATH.
    "/usr/bin/sh": "usr/bin/dash",
    "/usr/bin/ss": "usr/bin/ss",
}
_AGNHOST_PACKAGES: Final = (
    "bash", "bind9-dnsutils", "bind9-libs", "busybox-static", "curl", "dash", "iperf", "iproute2", "libbpf1",
    "libbrotli1",
    "libbsd0", "libc-bin", "libc6", "libcap2", "libcom-err2", "libcurl4t64", "libedit2", "libelf1t64", "libffi8",
    "libfstrm0", "libgcc-s1", "libgmp10", "libgnutls30t64", "libgssapi-krb5-2", "libhogweed6t64", "libidn2-0",
    "libjemalloc2", "libjson-c5", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "libldap2",
    "liblmdb0", "liblzma5", "libmaxminddb0", "libmd0", "libmnl0", "libnettle8t64", "libnghttp2-14", "libnghttp3-9",
    "libp11-kit0", "libpcre2-8-0", "libprotobuf-c1", "libpsl5t64", "librtmp1", "libsasl2-2", "libselinux1",
    "libssh2-1t64", "libssl3t64", "libstdc++6", "libtasn1-6", "libtinfo6", "libtirpc3t64", "libunistring5",
    "liburcu8t64", "libuv1t64", "libxml2", "libxtables12", "libzstd1", "netcat-openbsd", "zlib1g",
)  # fmt: skip
_NGINX_PACKAGES: Final = (
    "busybox-static",
    "libc6",
    "libcrypt1",
    "libpcre2-8-0",
    "libssl3t64",
    "libzstd1",
    "nginx",
    "zlib1g",
)
_APPLETS: Final = (
    "ash", "awk", "base64", "basename", "cat", "chgrp", "chmod", "chown", "cp", "cut", "date", "dd", "df",
    "dirname", "du", "echo", "env", "expr", "false", "find", "free", "grep", "head", "hexdump", "hostname", "id",
    "ifconfig", "kill", "killall", "less", "ln", "ls", "md5sum", "mkdir", "mkfifo", "mknod", "mktemp", "more",
    "mount", "mv", "netstat", "nl", "nproc", "nslookup", "od", "paste", "pidof", "ping", "ping6", "printf", "ps",
    "pwd", "readlink", "realpath", "rm", "rmdir", "route", "sed", "seq", "setsid", "sh", "sha1sum", "sha256sum",
    "sleep", "sort", "stat", "strings", "sync", "sysctl", "tail", "tar", "tee", "telnet", "test", "time", "timeout",
    "top", "touch", "tr", "traceroute", "true", "truncate", "tty", "umount", "uname", "uniq", "unlink", "uptime",
    "usleep", "vi", "watch", "wc", "wget", "which", "whoami", "xargs", "xxd", "yes", "nc", "ip",
)  # fmt: skip


@dataclass(frozen=True)
class _PodImage:
    """An image of the tests' pods.

    :param names: the names by which the tests refer to it
    :param packages: the Debian packages that it is made from
    :param tools: the programs that it has of them: path in the image -> path in the unpacked packages
    :param entrypoint: what it runs
    :param extra: further files by their path in the image
    """

    name: str
    names: tuple[str, ...]
    packages: tuple[str, ...]
    tools: Mapping[str, str]
    entrypoint: tuple[str, ...] = ()
    extra: Mapping[str, str] | None = None
    program: Program | None = None


IMAGES: Final = (
    _PodImage(
        "agnhost",
        # The tests of DNS want an image with dig and Debian's C library; a Deployment's update wants an older agnhost.
        (f"{_UPSTREAM}/agnhost:2.63.0", f"{_UPSTREAM}/agnhost:2.55", f"{_UPSTREAM}/glibc-dns-testing:2.0.0"),
        _AGNHOST_PACKAGES,
        _AGNHOST_TOOLS,
        ("/entrypoint",),
        {"/entrypoint": "agnhost", "/uploads/.keep": "empty"},
        AGNHOST,
    ),
    _PodImage(
        "busybox",
        (f"{_UPSTREAM}/busybox:1.37.0-1", f"{_UPSTREAM}/busybox:1.36.1-1"),
        ("busybox-static",),
        {"/usr/bin/busybox": "usr/bin/busybox"},
    ),
    _PodImage(
        "nginx",
        (f"{_UPSTREAM}/nginx:1.15-4", f"{_UPSTREAM}/nginx:1.27-0"),
        _NGINX_PACKAGES,
        {"/usr/bin/busybox": "usr/bin/busybox", "/usr/sbin/nginx": "usr/sbin/nginx"},
        ("/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"),
        {"/etc/nginx/nginx.conf": "nginx.conf", "/usr/share/nginx/html/index.html": "index.html"},
    ),
)


@dataclass(frozen=True)
class Tests:
    """How the archive with the program that runs the tests is made. It has the attributes of a ``Recipe``."""

    architecture: Architecture

    @property
    def artifact(self) -> str:
        """Return the name of its archive, without a suffix."""
        return f"conformance-tests-{self.architecture.name}"

    @property
    def name(self) -> str:
        """Return the name of the program in the archive."""
        return TESTS_PROGRAM


def recipes(architecture: Architecture, kubernetes: str) -> list[Recipe]:
    """Return how the images of the tests' pods are made.

    :param kubernetes: version of the cluster's Kubernetes, without a leading v
    :raises BundleError: the tests of this version are not known
    """
    require(kubernetes)
    return [_recipe(image, architecture) for image in IMAGES]


def require(kubernetes: str) -> None:
    """Check that the tests of a version of Kubernetes are known.

    :raises BundleError: they are not
    """
    if kubernetes != KUBERNETES:
        raise BundleError(
            f"Failed to find the conformance tests of Kubernetes {kubernetes}: this version of Q8S has those of "
            f"{KUBERNETES} only",
            f"upgrade the cluster to {KUBERNETES}: q8s-run upgrade FILE",
        )


def ensure(recipe: Recipe | Tests) -> PodImage:
    """Build an archive, unless it is in the cache.

    :raises NotCachedError: it is not in the cache, and builds are not allowed
    """
    return _ensure_tests(recipe) if isinstance(recipe, Tests) else pod_image.ensure(recipe)


def parts(architecture: Architecture) -> list[Callable[[], object]]:
    """Return the look-ups of everything that the archives of an architecture are made from."""
    found: list[Callable[[], object]] = [partial(ensure, Tests(architecture))]
    found += [partial(ensure, _recipe(image, architecture)) for image in IMAGES]
    found += [partial(debs.tree, architecture.debian, versions.DEBIAN_SUITE, image.packages) for image in IMAGES]
    return [*found, partial(gobuild.build, TESTS, architecture), partial(gobuild.build, AGNHOST, architecture)]


def _ensure_tests(tests: Tests) -> PodImage:
    file = f"{tests.artifact}.tar.gz"

    def build(folder: Path) -> None:
        programs, _ = gobuild.build(TESTS, tests.architecture)
        log = cache.cache_root() / "logs" / f"{tests.artifact}.log"
        log.unlink(missing_ok=True)
        archive = folder / f"{tests.artifact}.tar"
        options = ["--create", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=0755"]
        with step(f"write {file}"):
            run(f"write {file}", ["tar", *options, "--file", archive, "--directory", programs, TESTS_PROGRAM], log=log)
            run(f"compress {archive.name}", ["gzip", "-n", "-6", archive], log=log)
        cache.record(folder / file)

    key = cache.content_key(gobuild.key(TESTS, tests.architecture), Path(__file__))
    folder, changed = cache.entry(KIND, tests.artifact, key, build)
    if not changed:
        say(f"{file}: cached")
    return PodImage(cache.recall(folder / file), TESTS_PROGRAM, changed)


def _recipe(image: _PodImage, architecture: Architecture) -> Recipe:
    """Return how an image is made. Its own name changes with its content, so that a node shows which one it has."""
    program = gobuild.key(image.program, architecture) if image.program else ""
    names = (*image.names, *sorted(image.packages))
    key = cache.content_key(image.name, architecture.name, versions.DEBIAN_SUITE, program, *names, *_SOURCES)
    own = f"{_OWN}-{image.name}:{key}"
    artifact = f"conformance-{image.name}-{architecture.name}"
    return Recipe(KIND, artifact, own, key, architecture, partial(_contents, image, architecture, own))


def _contents(image: _PodImage, architecture: Architecture, own: str) -> oci.Image:
    """Return what is in an image. Downloads packages and builds programs that are not in the cache."""
    root, _ = debs.tree(architecture.debian, versions.DEBIAN_SUITE, image.packages)
    files = {inside: (root / path).resolve() for inside, path in image.tools.items()}
    library = f"/usr/lib/{architecture.gnu}"
    for inside, file in elf.closure(files.values(), root, (library, "/usr/lib")).items():
        # The interpreter's path begins with /lib or /lib64, which are links in a merged /usr.
        files[inside if inside.startswith("/usr/") else f"/usr{inside}"] = file
    for inside, name in {"/etc/passwd": "passwd", "/etc/group": "group", **(image.extra or {})}.items():
        files[inside] = _FILES / name
    links = {f"/{name}": f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
    links |= {f"/usr/bin/{name}": "busybox" for name in _APPLETS if f"/usr/bin/{name}" not in files}
    if image.program:
        programs, _ = gobuild.build(image.program, architecture)
        module = gobuild.module_folder(image.program, "k8s.io/kubernetes")
        files["/agnhost"] = programs / "agnhost"
        files |= {f"/{name}": module / "test/images/agnhost/porter" / name for name in _CERTIFICATES}
        links["/agnhost-2"] = "agnhost"
    return oci.Image((*image.names, own), image.entrypoint, files, links)
