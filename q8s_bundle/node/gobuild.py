"""Build Go programs from pinned modules: one cache entry per program and architecture."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs
from q8s_bundle.errors import BundleError
from q8s_bundle.node import elf, toolchain, versions
from q8s_bundle.node.versions import Architecture
from q8s_bundle.progress import run, step

_MODULES: Final = Path(__file__).parent / "go"
_RECIPE: Final = "1"  # raised when the way of building changes without the flags showing it
# Go's defaults. They are set because a user may have others, in the environment or with `go env -w`: with GOAMD64=v3,
# programs end at once on most CPU models of QEMU, and the key in the cache would be that of programs that run.
_DEFAULTS: Final = {
    "GOAMD64": "v1",
    "GOARM64": "v8.0",
    "GOFIPS140": "off",
    "GO111MODULE": "on",
    **dict.fromkeys(("CGO_CFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS"), "-O2 -g"),
}
# Variables without a default that go, gcc and pkg-config read.
_REMOVED: Final = (
    "GOROOT",
    "GOEXPERIMENT",
    "CGO_CPPFLAGS",
    "PKG_CONFIG_PATH",
    "CPATH",
    "C_INCLUDE_PATH",
    "LIBRARY_PATH",
)


@dataclass(frozen=True)
class Program:
    """Some commands of one Go module that are built together, statically linked.

    ``module`` is a folder of ``node/go``; ``packages`` maps a binary's name to its Go package (of several, Go
    names each by the last word of its package); ``stamps`` are ``-X`` variables of the linker. ``cgo`` are the
    architectures on which the program needs C; ``seccomp`` links libseccomp. ``is_test`` builds a package's tests
    (``go test -c``).
    """

    name: str
    module: str
    packages: Mapping[str, str]
    stamps: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    cgo: tuple[str, ...] = ()
    seccomp: bool = False
    is_test: bool = False

    def ldflags(self, architecture: Architecture) -> str:
        """Return the linker's flags: no symbol table, version stamps, and static also where C is involved."""
        flags = ["-s", "-w", *(f"-X {name}={value}" for name, value in sorted(self.stamps.items()))]
        if architecture.name in self.cgo:
            flags.append("-linkmode external -extldflags -static")
        return " ".join(flags)


def _kubernetes_stamps(version: str) -> dict[str, str]:
    """Return what upstream's build stamps into its binaries. kubeadm derives image names and version skew from it."""
    major, minor, _ = version.split(".")
    values = {
        "gitVersion": f"v{version}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "source",
        "gitTreeState": "archive",
        "buildDate": "2026-01-01T00:00:00Z",  # fixed: a build is a function of its inputs
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}


def kubernetes_programs(version: str, module: str) -> tuple[Program, Program]:
    """Return Kubernetes' programs of every node, and those of control planes, of a version and its modules' folder."""
    commands = {
        "kubernetes-node": ("kubelet", "kubeadm", "kube-proxy"),
        "kubernetes-control-plane": ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
    }
    node, control_plane = (
        Program(name, module, {one: f"k8s.io/kubernetes/cmd/{one}" for one in names}, _kubernetes_stamps(version))
        for name, names in commands.items()
    )
    return node, control_plane


_PLUGINS: Final = "github.com/containernetworking/plugins"

KUBERNETES_NODE, KUBERNETES_CONTROL_PLANE = kubernetes_programs(versions.KUBERNETES, "kubernetes")
CONTAINERD: Final = Program(
    "containerd",
    "containerd",
    {
        command: f"github.com/containerd/containerd/v2/cmd/{command}"
        for command in ("containerd", "containerd-shim-runc-v2", "ctr")
    },
    {"github.com/containerd/containerd/v2/version.Version": f"v{versions.CONTAINERD}"},
)
RUNC: Final = Program(
    "runc",
    "runc",
    {"runc": "github.com/opencontainers/runc"},
    tags=("seccomp", "netgo", "osusergo"),
    cgo=tuple(versions.ARCHITECTURES),  # its first stage, before Go's runtime starts, is C
    seccomp=True,
)
CNI: Final = Program(
    "cni",
    "cni",
    {
        "bandwidth": f"{_PLUGINS}/plugins/meta/bandwidth",
        "bridge": f"{_PLUGINS}/plugins/main/bridge",
        "host-local": f"{_PLUGINS}/plugins/ipam/host-local",
        "loopback": f"{_PLUGINS}/plugins/main/loopback",
        "portmap": f"{_PLUGINS}/plugins/meta/portmap",
        "tuning": f"{_PLUGINS}/plugins/meta/tuning",
    },
    {f"{_PLUGINS}/pkg/utils/buildversion.BuildVersion": f"v{versions.CNI_PLUGINS}"},
)
CNI_FLANNEL: Final = Program(
    "cni-flannel",
    "cniflannel",
    {"flannel": f"{_PLUGINS}/plugins/meta/flannel"},
    {f"{_PLUGINS}/pkg/utils/buildversion.BuildVersion": f"v{versions.CNI_FLANNEL}"},
)
FLANNEL: Final = Program(
    "flannel",
    "flannel",
    {"flanneld": "github.com/flannel-io/flannel"},
    {"github.com/flannel-io/flannel/pkg/version.Version": f"v{versions.FLANNEL}"},
    tags=("netgo", "osusergo"),
    cgo=("x86_64",),  # its udp backend is C on this architecture only
)
CRICTL: Final = Program(
    "crictl",
    "crictl",
    {"crictl": "sigs.k8s.io/cri-tools/cmd/crictl"},
    {"sigs.k8s.io/cri-tools/pkg/version.Version": f"v{versions.CRICTL}"},
)
ETCD: Final = Program("etcd", "etcd", {"etcd": "go.etcd.io/etcd/server/v3"})
COREDNS: Final = Program("coredns", "coredns", {"coredns": "github.com/coredns/coredns"})
PROBE: Final = Program("probe", "probe", {"probe": "q8s.local/probe"})
PAUSE: Final = Program("pause", "pause", {"pause": "q8s.local/pause"})

NODE_PROGRAMS: Final = (KUBERNETES_NODE, CONTAINERD, RUNC, CNI, CNI_FLANNEL, FLANNEL, CRICTL, COREDNS, PROBE, PAUSE)
CONTROL_PLANE_PROGRAMS: Final = (KUBERNETES_CONTROL_PLANE, ETCD)


def key(program: Program, architecture: Architecture) -> str:
    """Return a program's cache key: of its modules with checksums (or our source), its flags, and Go's version."""
    flags = (program.ldflags(architecture), *program.tags, *sorted(program.packages.values()))
    flags += ("test",) if program.is_test else ()
    return cache.content_key(_RECIPE, versions.GO, architecture.name, *flags, _MODULES / program.module)


def build(program: Program, architecture: Architecture) -> tuple[Path, bool]:
    """Build a program if it is not cached.

    :returns: the folder with its binaries, and whether it was built now
    :raises BundleError: the build failed; the message names the program, the architecture and the log
    """
    return cache.entry(
        "programs",
        f"{program.name}-{architecture.name}",
        key(program, architecture),
        lambda folder: _build(program, architecture, folder),
    )


def _build(program: Program, architecture: Architecture, folder: Path) -> None:
    what = f"build {program.name} for {architecture.name}"
    # The user's own flags must not change what the key says.
    environment = _go_environment("-mod=readonly -trimpath -buildvcs=false")
    environment.update(GOOS="linux", GOARCH=architecture.go, CGO_ENABLED="0")
    if architecture.name in program.cgo:
        environment.update(_c_environment(program, architecture))
    verb = ["test", "-c", "-vet=off"] if program.is_test else ["build"]
    command: list[str | Path] = [
        "nice",
        "-n",
        "5",
        toolchain.require(),
        *verb,
        "-ldflags",
        program.ldflags(architecture),
    ]
    # What the linker leaves out is not made in the first place: a sixth of a build's time. No code differs by it.
    command += ["-gcflags", "all=-dwarf=false"]
    if program.tags:
        command += ["-tags", ",".join(program.tags)]
    # One call for all of them: while one is linked, on one core, another is compiled or linked.
    output = folder if len(program.packages) > 1 else folder / next(iter(program.packages))
    command += ["-o", output, *program.packages.values()]
    log = cache.cache_root() / "logs" / f"{program.name}-{architecture.name}.log"
    log.unlink(missing_ok=True)
    with step(f"{what} from Go modules"):
        run(what, command, log=log, cwd=_MODULES / program.module, env=environment)
        for binary in program.packages:
            if libraries := elf.needed(folder / binary):
                raise BundleError(f"Failed to {what}: {binary} is not static, it needs {', '.join(libraries)}")


def _go_environment(flags: str) -> dict[str, str]:
    """Return the environment of the go command: the pinned toolchain with the folder that it is in, and our flags."""
    kept = {name: value for name, value in os.environ.items() if name not in _REMOVED}
    return {**kept, **_DEFAULTS, "GOTOOLCHAIN": f"go{versions.GO}", "GOWORK": "off", "GOFLAGS": flags}


def module_folder(program: Program, module: str) -> Path:
    """Return the folder with the sources of a module that a program is built from. Download it if Go does not have it.

    A program in the cache does not mean that Go still has its modules: ``go clean -modcache`` removes them.

    :raises BundleError: Go does not have it, and cannot download it
    """
    environment = _go_environment("-mod=readonly")
    log = cache.cache_root() / "logs" / f"{program.name}-modules.log"
    log.unlink(missing_ok=True)
    go, folder = toolchain.require(), _MODULES / program.module
    run(f"download the Go module {module}", [go, "mod", "download", module], log=log, cwd=folder, env=environment)
    command = [go, "list", "-m", "-f", "{{.Dir}}", module]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise BundleError(f"Failed to find the sources of {module}: {done.stderr.strip() or 'Go has not fetched them'}")
    return Path(done.stdout.strip())


def _c_environment(program: Program, architecture: Architecture) -> dict[str, str]:
    """Return the environment for cgo: the architecture's gcc, and libseccomp for it if the program needs that."""
    compiler = "gcc" if platform.machine() == architecture.name else f"{architecture.gnu}-gcc"
    debs.require(compiler)
    environment = {"CGO_ENABLED": "1", "CC": compiler}
    if program.seccomp:
        debs.require("pkg-config")
        root, _ = seccomp_tree(architecture)
        environment["PKG_CONFIG_SYSROOT_DIR"] = str(root)
        environment["PKG_CONFIG_LIBDIR"] = str(root / "usr/lib" / architecture.gnu / "pkgconfig")
    return environment


def seccomp_tree(architecture: Architecture) -> tuple[Path, bool]:
    """Return the folder with libseccomp for an architecture, and whether it was fetched now."""
    # The machine's own suite: the static library must fit the C library that the machine's compiler links. Debian's
    # archive has no suites of Ubuntu and others.
    suite = debs.machine_suite() if debs.is_debian() else versions.DEBIAN_SUITE
    return debs.tree(architecture.debian, suite, ("libseccomp-dev", "libseccomp2"))
