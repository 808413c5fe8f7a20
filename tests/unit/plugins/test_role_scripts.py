"""Scripts of the roles k8s_common and control_plane, run in a temporary root file system."""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _certificates

ROLES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles"
STUB = "nameserver 127.0.0.53\noptions edns0\n"
Probe = Callable[..., list[str]]


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """Run k8s_common's probe below a folder in which some files are; returns its lines."""
    script = (ROLES / "k8s_common/files/probe.sh").read_text()
    resolv_conf = (ROLES / "k8s_common/files/resolv_conf.sh").read_text()
    for name in ("/etc/", "/var/", "/sys/", "/run/", "/usr/local/", "/opt/"):
        script = script.replace(f" {name}", f" {tmp_path}{name}")
        resolv_conf = re.sub(f"(?<=[ =]){name}", f"{tmp_path}{name}", resolv_conf)

    def run(files: dict[str, str]) -> list[str]:
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        wanted = {"ARCHIVE": "abc", "PACKAGES": "no-such-package", "RESOLV_CONF": resolv_conf}
        environment = {**os.environ, "ROOT": f"{tmp_path}/var/lib/q8s", **wanted}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
        return [line.replace(str(tmp_path), "") for line in done.stdout.splitlines()]

    return run


V2 = {"/sys/fs/cgroup/cgroup.controllers": "cpu memory", "/run/systemd/system/x": ""}
NODE = {"/var/lib/kubelet/config.yaml": "kind: KubeletConfiguration"}


def driver(name: str) -> dict[str, str]:
    text = f"version = 3\n[plugins.x.options]\n  SystemdCgroup = {'true' if name == 'systemd' else 'false'}\n"
    return {"/etc/containerd/conf.d/50-q8s-cgroup.toml": text}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "cgroupfs"),
        (V2, "systemd"),
        # a node that an earlier release of Q8S deployed: the bundle's own setting is cgroupfs
        ({**V2, **NODE}, "cgroupfs"),
        # kept, although the host would choose another one today
        ({**V2, **driver("cgroupfs"), **NODE}, "cgroupfs"),
        ({**driver("systemd"), **NODE}, "systemd"),
    ],
    ids=["cgroup v1", "cgroup v2", "older node", "kept cgroupfs", "kept systemd"],
)
def test_the_cgroup_driver_is_the_hosts_and_stays(probe: Probe, files: dict[str, str], expected: str) -> None:
    assert f"cgroup-driver {expected}" in probe(files)


RESOLVED, MANAGER = "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"
OWN, OUTER = "nameserver 127.0.0.1\nnameserver ::1\n", "search example.org\nnameserver 10.0.0.2\n"
SIX = "nameserver 2001:db8::53\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/etc/resolv.conf": OUTER}, "/etc/resolv.conf"),
        ({"/etc/resolv.conf": STUB, RESOLVED: OUTER}, RESOLVED),
        # resolved runs, and is not what /etc/resolv.conf asks
        ({"/etc/resolv.conf": OUTER, RESOLVED: "nameserver 10.0.0.3\n"}, "/etc/resolv.conf"),
        ({"/etc/resolv.conf": OWN, MANAGER: OUTER}, MANAGER),
        ({"/etc/resolv.conf": STUB, RESOLVED: "# none\n", MANAGER: OUTER}, MANAGER),
        ({"/etc/resolv.conf": OWN + OUTER}, "/etc/resolv.conf"),
        ({"/etc/resolv.conf": OWN, RESOLVED: STUB}, ""),
        # pods have no IPv6
        ({"/etc/resolv.conf": SIX}, ""),
        ({"/etc/resolv.conf": STUB, RESOLVED: SIX}, ""),
        ({"/etc/resolv.conf": SIX + OUTER}, "/etc/resolv.conf"),
        # without a network beyond the cluster's
        ({"/etc/resolv.conf": ""}, "/etc/resolv.conf"),
        ({}, "/etc/resolv.conf"),
    ],
    ids=["without resolved", "resolved", "resolved unused", "NetworkManager", "both", "some on loopback",
         "only on loopback", "only IPv6", "only IPv6 behind resolved", "IPv6 and IPv4", "empty", "none"],
)  # fmt: skip
def test_pods_never_ask_the_stub_resolver(probe: Probe, files: dict[str, str], expected: str) -> None:
    assert f"resolv-conf {expected}" in probe(files)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(OUTER, OUTER), (OWN + OUTER, OUTER), (OWN, ""), (SIX + OUTER, OUTER), ("", ""), ("\n\n", "\n\n")],
    ids=["outer", "some on loopback", "only on loopback", "IPv6 and IPv4", "empty", "blank"],
)
def test_a_guest_gets_the_name_servers_that_it_reaches(text: str, expected: str, tmp_path: Path) -> None:
    put(tmp_path, "/etc/resolv.conf", text)
    put(tmp_path, "/key", "key")
    tasks = yaml.safe_load((ROLES / "emulated_worker/tasks/configure.yml").read_text())
    command = tasks[0]["ansible.builtin.command"]["argv"][:4]
    resolv_conf = (ROLES / "emulated_worker/files/resolv_conf.sh").read_text()
    resolv_conf = re.sub("(?<=[ =])/(etc|run)/", rf"{tmp_path}/\1/", resolv_conf)
    files = [str(tmp_path / "key"), "/dev/null", "/dev/null", "/dev/null"]
    environment = {**os.environ, "RESOLV_CONF": resolv_conf, "GIVEN": str(tmp_path / "given")}
    done = subprocess.run([*command, *files], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.rstrip("\n").splitlines()  # as Ansible registers it
    assert base64.b64decode(lines[0]).decode() == "key"
    assert base64.b64decode(lines[4]).decode() == expected
    assert lines[5:] == ["", "end"], "the guest was given nothing before"
    put(tmp_path, "/given", "1450 QUFBQQ==\n")
    again = subprocess.run([*command, *files], env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[4:] == [lines[4], "1450 QUFBQQ==", "end"]


def test_files_and_links_of_the_users_own_are_seen_and_q8ss_links_are_not(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin/kubelet").symlink_to(tmp_path / "var/lib/q8s/bin/kubelet")
    (tmp_path / "usr/local/bin/crictl").symlink_to("/opt/tools/crictl")
    lines = probe({"/usr/local/bin/kubectl": "own", "/opt/cni/bin/own": "", "/var/lib/q8s/.unpacked-abc": ""})
    own = [line.removeprefix("own ") for line in lines if line.startswith("own ")]
    assert own == ["/opt/cni/bin", "/usr/local/bin/kubectl", "/usr/local/bin/crictl"]
    assert "unpacked" in lines
    assert "packages" not in lines


def test_every_link_of_a_control_plane_spares_a_file_of_the_users_own(probe: Probe) -> None:
    """And ``destroy`` removes each of the links."""
    variables = yaml.safe_load((ROLES / "k8s_common" / "vars" / "main.yml").read_text())
    paths = {link["path"] for link in variables["__k8s_common_links"]}
    lines = probe(dict.fromkeys(paths, "own"))
    assert {line.removeprefix("own ") for line in lines if line.startswith("own ")} == paths
    reset = (ROLES / "control_plane" / "tasks" / "reset.yml").read_text()
    assert {path for path in paths if path not in reset} == set()


def test_a_host_says_which_bundle_it_has_whatever_its_checksum(probe: Probe) -> None:
    manifest = {"/var/lib/q8s/manifest.json": '{\n  "kubernetes_version": "v1.36.3",\n  "versions": {}\n}\n'}
    assert not [line for line in probe(manifest) if line.startswith("bundle")], "it was not unpacked to its end"
    lines = probe({"/var/lib/q8s/.unpacked-of-another-build": ""})
    assert "bundle v1.36.3" in lines and "unpacked" not in lines


def identity(folder: Path, check: bool = False, joins: bool = True) -> dict[str, object]:
    """Run identity.sh below a folder; returns what it prints."""
    script = (ROLES / "control_plane/files/identity.sh").read_text().replace("/etc/kubernetes", f"{folder}/kubernetes")
    environment = {**os.environ, "CHECK": str(check), "JOINS": str(joins)}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_the_identity_is_created_once_and_check_mode_creates_nothing(tmp_path: Path) -> None:
    empty = {"changed": True, "ca": "", "ca_hash": "", "token": "", "certificate_key": ""}
    assert identity(tmp_path, check=True) == empty
    assert list(tmp_path.iterdir()) == []
    first = identity(tmp_path)
    assert first["changed"]
    assert all(first.values())
    assert identity(tmp_path, check=True) == identity(tmp_path) == {**first, "changed": False}


def test_a_bootstrap_token_is_created_for_nodes_that_join(tmp_path: Path) -> None:
    first = identity(tmp_path)
    # an interrupted run, which guests have the token of
    assert identity(tmp_path, joins=False) == {**first, "changed": False}
    file = tmp_path / "kubernetes/q8s/bootstrap-token"
    os.utime(file, (0, 0))
    assert identity(tmp_path, joins=False)["token"] == "", "Kubernetes has forgotten it"
    assert identity(tmp_path, check=True) == {**first, "changed": True, "token": ""}
    second = identity(tmp_path)
    assert second == {**first, "changed": True, "token": second["token"]}
    assert second["token"] not in ("", first["token"])
    file.unlink()
    assert identity(tmp_path, joins=False) == {**first, "changed": False, "token": ""}


@pytest.fixture
def role_script(tmp_path: Path) -> Callable[..., list[str]]:
    """Run a script of the role control_plane below a folder; returns its lines."""

    def run(
        name: str, api_name: str = "demo-api", check: bool = False, known: bool = False, **variables: str
    ) -> list[str]:
        script = (ROLES / f"control_plane/files/{name}").read_text()
        for folder in ("/etc/", "/var/"):
            script = script.replace(f"={folder}", f"={tmp_path}{folder}").replace(f" {folder}", f" {tmp_path}{folder}")
        environment = {**os.environ, "API_NAME": api_name, "CHECK": str(check), "KNOWN": str(known), **variables}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.replace(str(tmp_path), "").splitlines()

    return run


def put(folder: Path, path: str, text: str = "x") -> None:
    (folder / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    (folder / path.lstrip("/")).write_text(text)


def test_a_host_is_recorded_as_one_clusters(role_script: Callable[..., list[str]], tmp_path: Path) -> None:
    assert role_script("owner.sh") == []
    assert role_script("claim.sh", check=True) == ["api demo-api"]
    assert role_script("owner.sh") == [], "check mode records nothing"
    put(tmp_path, "/etc/kubernetes/manifests/of-the-users-own.yaml")
    assert role_script("claim.sh") == ["api demo-api", "kept /etc/kubernetes"]
    assert role_script("claim.sh") == []
    assert role_script("owner.sh") == ["api demo-api", "kept /etc/kubernetes"]
    (refusal,) = role_script("claim.sh", api_name="other-api")
    assert refusal.startswith("refuse it belongs to the Q8S cluster with the API name demo-api. Destroy")


def test_a_kubernetes_of_the_users_own_is_refused(role_script: Callable[..., list[str]], tmp_path: Path) -> None:
    put(tmp_path, "/etc/kubernetes/pki/ca.crt")
    (refusal,) = role_script("claim.sh")
    assert refusal.startswith("refuse it has a Kubernetes CA that Q8S did not create (/etc/kubernetes/pki/ca.crt). ")
    assert role_script("owner.sh") == []


def test_a_server_that_was_rebuilt_gets_no_new_ca(role_script: Callable[..., list[str]], tmp_path: Path) -> None:
    (refusal,) = role_script("claim.sh", known=True)
    lost = "refuse it no longer has the cluster's CA and etcd: was the server rebuilt?"
    assert refusal.startswith(f"{lost} Its workers cannot join another CA. Destroy the cluster")
    (refusal,) = role_script("claim.sh", known=True, OTHERS="demo-2, demo-3", HOST="demo")
    assert refusal.startswith(f"{lost} demo-2, demo-3 may have them: delete this server (openstack server delete demo)")
    assert role_script("owner.sh") == []
    assert role_script("claim.sh") == ["api demo-api"]
    put(tmp_path, "/etc/kubernetes/pki/ca.crt")
    assert role_script("claim.sh", known=True) == []


@pytest.mark.parametrize("left", ["apiserver.crt", "apiserver.crt.old"], ids=["at rest", "interrupted"])
def test_a_new_certificate_of_the_api_server_has_the_names_of_the_one_before(
    left: str, role_script: Callable[..., list[str]], tmp_path: Path
) -> None:
    pki = tmp_path / "etc/kubernetes/pki"
    pki.mkdir(parents=True)
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=kube-apiserver", "-addext", "subjectAltName=DNS:before.example.org,IP:203.0.113.9"]
    subprocess.run([*new, *names, "-keyout", pki / "key", "-out", pki / left], check=True, capture_output=True)
    kubeadm = tmp_path / "bin/kubeadm"
    kubeadm.parent.mkdir()
    kubeadm.write_text(
        f'#!/bin/sh\n[ "$1" != version ] || {{ echo v1.36.3; exit; }}\necho "$@"; touch {pki}/apiserver.crt\n'
    )
    kubeadm.chmod(0o755)
    path = f"{kubeadm.parent}:{os.environ['PATH']}"
    (said,) = role_script("serving.sh", NAMES="now", ADDRESS="10.0.0.3", SERVICES="10.96.0.0/12", PATH=path)
    assert said.endswith("--apiserver-cert-extra-sans=before.example.org,203.0.113.9,now")
    assert sorted(path.name for path in pki.iterdir()) == ["apiserver.crt", "key"]


@pytest.mark.parametrize("embedded", [False, True], ids=["link", "embedded"])
def test_a_control_plane_whose_kubelet_was_switched_off_for_too_long_is_renewed(
    embedded: bool, role_script: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The kubelet does not start with a client certificate that has ended, and without it no static pod."""
    ca = tmp_path / "etc/kubernetes/pki/ca"
    current = tmp_path / "var/lib/kubelet/pki/kubelet-client-current.pem"
    for folder in (ca.parent, current.parent):
        folder.mkdir(parents=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = ["openssl", "req", "-x509", *key, "-subj", "/CN=kubernetes", "-days", "9"]
    subprocess.run([*authority, "-keyout", f"{ca}.key", "-out", f"{ca}.crt"], check=True, capture_output=True)
    old = current.with_name("kubelet-client-2025-01-01-00-00-00.pem")
    request = [
        "openssl",
        "req",
        "-new",
        *key,
        "-subj",
        "/CN=old",
        "-keyout",
        tmp_path / "key",
        "-out",
        tmp_path / "new",
    ]
    subprocess.run(request, check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", tmp_path / "new", "-signkey", tmp_path / "key", "-days", "0", "-out", old]
    subprocess.run(sign, check=True, capture_output=True)
    current.symlink_to(old)
    words = ("client-certificate-data: AA==", "client-key-data: AA==") if embedded else ()
    put(tmp_path, "/etc/kubernetes/kubelet.conf", "".join(f"    {word}\n" for word in words))
    put(tmp_path, "/bin/kubeadm", "#!/bin/sh\nexit 0\n")
    put(tmp_path, "/bin/systemctl", f'#!/bin/sh\necho "$@"; openssl x509 -noout -checkend 60 -in {current}\n')
    for name in ("kubeadm", "systemctl"):
        (tmp_path / "bin" / name).chmod(0o755)

    def ended() -> str:
        lines = role_script("certificates.sh", ROOT=str(tmp_path), NAMES="")
        return str(_certificates.report(lines, "cp", 30)["ended"])

    time.sleep(1)  # it ends in the second in which it was signed
    assert ended().endswith(" and are refused: kubelet-client")
    lines = role_script("renew.sh", NODE="demo-control-plane", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert lines == ["restart kubelet.service", "Certificate will not expire"], "it is new before the kubelet starts"
    assert ended() == ""
    assert current.is_symlink() and current.resolve() != old, "the kubelet rotates only links"
    assert current.stat().st_mode & 0o777 == 0o600
    openssl = ["openssl", "verify", "-purpose", "sslclient", "-CAfile", f"{ca}.crt", str(current)]
    subprocess.run(openssl, check=True, capture_output=True)
    ssl.create_default_context().load_cert_chain(current)  # the key is the certificate's
    subject = ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", str(current)]
    shown = subprocess.run(subject, capture_output=True, text=True, check=True).stdout.strip()
    assert shown == "subject=CN=system:node:demo-control-plane,O=system:nodes"
    conf = (tmp_path / "etc/kubernetes/kubelet.conf").read_text().split()
    assert conf == (["client-certificate:", str(current), "client-key:", str(current)] if embedded else [])
    assert not [path for path in current.parent.iterdir() if "new" in path.name]


def test_what_an_earlier_release_deployed_has_an_owner(role_script: Callable[..., list[str]], tmp_path: Path) -> None:
    put(tmp_path, "/etc/kubernetes/q8s/kubeadm.yaml", 'controlPlaneEndpoint: "old-api:6443"\n')
    put(tmp_path, "/etc/kubernetes/pki/ca.crt")
    assert role_script("owner.sh") == ["api old-api"]
    assert role_script("claim.sh", api_name="old-api") == ["api old-api"]


def hosts_script(folder: Path, fallbacks: list[str]) -> Callable[..., str]:
    """Return a function that runs the script q8s-hosts on the text of an /etc/hosts, and returns the result."""
    hosts = folder / "hosts"
    templates = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    templates.filters["regex_escape"] = re.escape
    template = templates.from_string((ROLES / "k8s_common/templates/q8s-hosts.j2").read_text())
    script = template.render(
        ansible_managed="",
        k8s_common_api_address="10.0.0.3",
        k8s_common_api_fallbacks=fallbacks,
        k8s_common_api_name="demo-api",
    ).replace("/etc/hosts", str(hosts))

    def run(text: str, check: bool = False) -> str:
        hosts.write_text(text)
        inode = hosts.stat().st_ino
        subprocess.run(["sh", "-c", script], env={**os.environ, "CHECK": str(check)}, check=True)
        assert hosts.stat().st_ino == inode, "a bind mount cannot be replaced"
        return hosts.read_text()

    return run


def test_the_apis_name_is_kept_in_etc_hosts(tmp_path: Path) -> None:
    run = hosts_script(tmp_path, [])
    written = "127.0.0.1 localhost\n127.0.1.1 host\n"
    assert run(written) == f"{written}10.0.0.3 demo-api\n"
    assert run(f"{written}10.0.0.3 demo-api\n") == f"{written}10.0.0.3 demo-api\n"
    assert run(f"10.0.0.9 demo-api\n{written}") == f"{written}10.0.0.3 demo-api\n", "an older address"
    assert run(f"10.0.0.9 my-demo-api demo-api2\n{written}").startswith("10.0.0.9 my-demo-api demo-api2\n")
    assert run("") == "10.0.0.3 demo-api\n"
    left = f"{written}10.0.0.3 demo-api\n10.0.0.4 demo-api\n10.0.0.5 demo-api\n"
    assert run(left) == f"{written}10.0.0.3 demo-api\n", "control planes that have left"
    assert run(left, check=True) == left, "check mode changes nothing"


def test_a_control_plane_knows_the_others_in_etc_hosts(tmp_path: Path) -> None:
    run = hosts_script(tmp_path, ["10.0.0.4", "10.0.0.5"])
    written = "127.0.0.1 localhost\n127.0.1.1 host\n"
    complete = f"{written}10.0.0.3 demo-api\n10.0.0.4 demo-api\n10.0.0.5 demo-api\n"
    assert run(written, check=True) == written, "check mode changes nothing"
    assert run(written) == run(complete) == run(f"{written}10.0.0.3 demo-api\n") == complete
    assert run(f"10.0.0.9 demo-api\n{written}10.0.0.3 demo-api\n10.0.0.5 demo-api\n") == complete, "others than before"
    assert run(f"10.0.0.9 my-demo-api demo-api2\n{written}").startswith("10.0.0.9 my-demo-api demo-api2\n")


def test_a_guest_that_runs_gets_new_name_servers_and_another_mtu(tmp_path: Path) -> None:
    unshare = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net", "--mount"]
    if subprocess.run([*unshare, "mount", "-t", "sysfs", "none", "/sys"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives this user no network of its own")
    put(tmp_path, "/etc/resolv.conf", "nameserver 10.0.0.2\n")
    script = (ROLES / "emulated_worker/files/network_live.sh").read_text().replace(" /etc/", f" {tmp_path}/etc/")
    mac = "52:54:00:fe:01:03"
    around = f"""\
mount -t sysfs none /sys
ip link add eth0 mtu 1500 address {mac} type bridge
ip link add cni0 mtu 1450 type bridge
sh -c "$SCRIPT"
echo again
sh -c "$SCRIPT"
cat /sys/class/net/eth0/mtu /sys/class/net/cni0/mtu
"""
    servers = "nameserver 10.0.0.3\nsearch example.org\n"
    given = {"SCRIPT": script, "MAC": mac, "MTU": "1400", "RESOLV_CONF": base64.b64encode(servers.encode()).decode()}
    done = subprocess.run(
        [*unshare, "sh", "-ec", around], env={**os.environ, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["servers", "mtu", "again", "1400", "1450"], "it says what has changed"
    assert (tmp_path / "etc/resolv.conf").read_text() == servers


@pytest.mark.parametrize(("found", "own"), [("/etc/resolv.conf", False), ("", True)])
def test_a_worker_host_says_when_it_knows_only_name_servers_of_its_own(found: str, own: bool) -> None:
    script = ROLES / "qemu_host/files/probe.sh"
    environment = {**os.environ, "PACKAGES": "dpkg", "RESOLV_CONF": f"echo {found}"}
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=True)
    assert ("own-name-server" in done.stdout.splitlines()) is own


@pytest.mark.parametrize(
    ("active", "exists", "said"),
    [
        ("libvirtd", True, []),
        ("libvirtd virtqemud", True, []),
        ("", True, []),
        ("virtqemud", True, ["libvirt modular"]),
        ("virtqemud", False, ["libvirt modular"]),
        ("", False, ["libvirt missing"]),
    ],
)
def test_a_worker_host_says_when_its_libvirt_has_no_libvirtd(
    active: str, exists: bool, said: list[str], tmp_path: Path
) -> None:
    state = "loaded" if exists else "not-found"
    text = f"""\
#!/bin/sh
for unit; do :; done
case "$*" in
    *is-active*) case " {active} " in *" ${{unit%.service}} "*) exit 0 ;; esac; exit 3 ;;
    show*) echo {state} ;;
    *) exit 1 ;;
esac
"""
    put(tmp_path, "/bin/systemctl", text)
    (tmp_path / "bin/systemctl").chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PACKAGES": "dpkg", "RESOLV_CONF": ""}
    script = ROLES / "qemu_host/files/probe.sh"
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("libvirt ")] == said


@pytest.mark.parametrize(
    ("wanted", "installed"), [("dpkg", True), ("dpkg libc-bin", True), ("dpkg no-such-package", False)]
)
def test_a_worker_host_says_whether_all_packages_are_installed(wanted: str, installed: bool) -> None:
    script = ROLES / "qemu_host/files/probe.sh"
    done = subprocess.run(
        ["sh", script],
        env={**os.environ, "PACKAGES": wanted, "RESOLV_CONF": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("packages" in done.stdout.splitlines()) is installed


def test_every_image_of_the_bundle_is_pinned(tmp_path: Path) -> None:
    names = ["ghcr.io/flannel-io/flannel:v0.26.7", "q8s.local/probe:1", "registry.k8s.io/pause:3.10.2"]
    manifest = {"images": names, "kubernetes_version": "v1.36.3", "pod_images": {"probe": "not:this"}, "versions": {}}
    put(tmp_path, "/var/lib/q8s/manifest.json", json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    script = (ROLES / "k8s_common/templates/q8s-pin-images.j2").read_text()
    for folder in ("/etc/", "/var/"):
        script = script.replace(folder, f"{tmp_path}{folder}")
    for _ in range(2):
        subprocess.run(["sh", "-c", script], check=True)
    (written,) = (tmp_path / "etc/containerd/conf.d").iterdir()
    found = tomllib.loads(written.read_text())
    assert list(found["plugins"]["io.containerd.cri.v1.images"]["pinned_images"].values()) == names


@pytest.fixture
def early(tmp_path: Path) -> Callable[[], set[str]]:
    """Boot a guest: run the part of q8s-early that creates containerd's root; returns the options of its mounts."""
    text = (ROLES / "emulated_worker/templates/q8s-early.j2").read_text()
    script = (
        (text.partition("ip link")[0] + "wait\n")
        .replace("/var/", f"{tmp_path}/var/")
        .replace("/etc/", f"{tmp_path}/etc/")
    )
    put(tmp_path, "/bin/mount", f'#!/bin/sh\necho "$2" >> {tmp_path}/mounts\n')
    put(tmp_path, "/bin/mountpoint", "#!/bin/sh\nexit 1\n")
    put(tmp_path, "/bin/sync", "#!/bin/sh\n")  # it takes seconds on a busy disk
    for name in ("mount", "mountpoint", "sync"):
        (tmp_path / "bin" / name).chmod(0o755)
    bundle = "/var/lib/q8s/containerd/io.containerd"
    put(tmp_path, f"{bundle}.content.v1.content/blobs/sha256/a", "manifest")
    put(tmp_path, f"{bundle}.grpc.v1.introspection/uuid", "first build")
    put(tmp_path, f"{bundle}.metadata.v1.bolt/meta.db", "images")
    put(tmp_path, f"{bundle}.snapshotter.v1.overlayfs/metadata.db", "snapshots")
    put(tmp_path, f"{bundle}.snapshotter.v1.overlayfs/snapshots/1/fs/pause", "program")
    (tmp_path / "var/lib/q8s/containerd/io.containerd.runtime.v2.task").mkdir()

    def run() -> set[str]:
        (tmp_path / "mounts").unlink(missing_ok=True)
        environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", script], env=environment, check=True)
        return set((tmp_path / "mounts").read_text().split())

    return run


def test_containerd_keeps_its_data_on_the_root_disk(tmp_path: Path, early: Callable[[], set[str]]) -> None:
    assert early() == {"ro,noatime"}
    root = tmp_path / "var/lib/containerd"
    config = tomllib.loads((tmp_path / "etc/containerd/conf.d/55-q8s-root.toml").read_text())
    assert config["root"] == str(root)
    for name in (
        "content.v1.content/blobs/sha256/a",
        "metadata.v1.bolt/meta.db",
        "snapshotter.v1.overlayfs/metadata.db",
    ):
        copied = root / f"io.containerd.{name}"
        assert copied.is_file()
        assert copied.resolve() == copied, "containerd writes to it"
    layer = root / "io.containerd.snapshotter.v1.overlayfs/snapshots/1"
    assert layer.is_symlink()
    assert (layer / "fs/pause").read_text() == "program"

    layer.unlink()  # containerd has removed the image
    (root / "io.containerd.metadata.v1.bolt/meta.db").write_text("other images")
    early()
    assert not layer.is_symlink()
    assert (root / "io.containerd.metadata.v1.bolt/meta.db").read_text() == "other images"


def test_a_boot_that_was_interrupted_is_repeated(tmp_path: Path, early: Callable[[], set[str]]) -> None:
    put(tmp_path, "/bin/sync", "#!/bin/sh\nexit 1\n")
    early()
    database = tmp_path / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
    database.write_text("")
    early()
    assert database.read_text() == "images"


def test_layers_of_another_build_are_not_mixed_with_the_first_ones_databases(
    tmp_path: Path, early: Callable[[], set[str]]
) -> None:
    early()
    put(tmp_path, "/var/lib/q8s/containerd/io.containerd.grpc.v1.introspection/uuid", "second build")
    put(tmp_path, "/var/lib/q8s/containerd/io.containerd.metadata.v1.bolt/meta.db", "new images")
    early()
    assert (tmp_path / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db").read_text() == "new images"


def test_a_guest_of_an_earlier_release_keeps_its_containers(tmp_path: Path, early: Callable[[], set[str]]) -> None:
    (tmp_path / "var/lib/q8s/containerd/io.containerd.grpc.v1.cri").mkdir()
    assert early() == {"ro,noatime", "remount,rw"}
    assert not (tmp_path / "var/lib/containerd").exists()
    assert not list((tmp_path / "etc/containerd/conf.d").iterdir())


class Clock:
    """A guest's clocks, in seconds, and the script that looks at them."""

    def __init__(self, folder: Path, rtc_ahead: int) -> None:
        self.folder, self.now, self.up, self.rtc = folder, 1000.0, 100.0, 1000.0 + rtc_ahead
        self.script = (ROLES / "emulated_worker/templates/q8s-clock.j2").read_text()
        for name in ("/run/", "/sys/", "/proc/"):
            self.script = self.script.replace(name, f"{folder}{name}")
        put(folder, "/run/systemd/timesync/synchronized")

    def runs(self, seconds: float) -> None:
        self.now, self.up, self.rtc = self.now + seconds, self.up + seconds, self.rtc + seconds

    def stands_still(self, seconds: float) -> None:
        self.rtc += seconds

    def is_set_by(self, seconds: float) -> None:
        """A time server corrects it."""
        self.now += seconds
        put(self.folder, "/run/systemd/timesync/synchronized")

    def look(self) -> None:
        put(self.folder, "/sys/class/rtc/rtc0/since_epoch", f"{int(self.rtc)}\n")
        put(self.folder, "/proc/uptime", f"{self.up:.2f} 7.11\n")
        written = self.folder / "set"
        put(self.folder, "/bin/date", f'#!/bin/sh\n[ $1 = +%s ] && echo {int(self.now)} || echo "$1" > {written}\n')
        (self.folder / "bin/date").chmod(0o755)
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", self.script], env=environment, check=True, capture_output=True)
        if written.exists():
            self.now = float(written.read_text().removeprefix("--set=@"))
            written.unlink()


@pytest.mark.parametrize("rtc_ahead", [0, 3, -460])
@pytest.mark.parametrize(
    ("happens", "behind"),
    [
        ([("stands_still", 460)], 0),
        ([("stands_still", 1)], 1),
        ([], 0),
        # a time server set it back, forward, or forward after the standstill
        ([("is_set_by", -460)], 460),
        ([("is_set_by", 460)], -460),
        ([("stands_still", 460), ("is_set_by", 460)], 0),
        # a time server was asked just before the machine stood still
        ([("is_set_by", 0), ("stands_still", 460)], 0),
        ([("is_set_by", -100), ("stands_still", 460)], 100),
    ],
)
def test_a_clock_that_stood_still_is_set_forward(
    tmp_path: Path, rtc_ahead: int, happens: list[tuple[str, float]], behind: int
) -> None:
    clock = Clock(tmp_path, rtc_ahead)
    clock.look()
    clock.runs(30)
    for what, seconds in happens:
        getattr(clock, what)(seconds)
    clock.runs(30)
    clock.look()
    assert clock.rtc - rtc_ahead - clock.now == behind
    clock.runs(60)
    clock.look()
    assert clock.rtc - rtc_ahead - clock.now == behind, "it is set once"


def test_a_clock_that_loses_a_little_each_minute_is_set_forward(tmp_path: Path) -> None:
    clock = Clock(tmp_path, 0)
    for _ in range(20):
        clock.look()
        clock.runs(59)
        clock.stands_still(1.4)
        clock.look()
        assert clock.rtc - clock.now < 5


def test_what_a_time_server_made_up_for_is_not_added_up(tmp_path: Path) -> None:
    clock = Clock(tmp_path, 0)
    for _ in range(10):
        clock.look()
        clock.runs(30)
        clock.stands_still(2)
        clock.is_set_by(2)
        clock.runs(28)
    clock.is_set_by(-15)
    clock.look()
    assert clock.rtc - clock.now == 15, "it was ahead, and the time server knows best"


@pytest.mark.parametrize("check", [False, True])
def test_the_node_of_an_earlier_server_is_removed_before_its_successor_registers(check: bool, tmp_path: Path) -> None:
    """The new kubelet would ask for a certificate with the earlier address: kubelet.go takes it from the node."""
    for name in ("admin.conf", "bin/kubectl", "calls"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    kubectl = tmp_path / "bin/kubectl"
    listed = "cp=10.0.0.2\nlost-1=10.0.0.3\nkept-10=10.0.0.4\nnew-1=\nother=10.0.0.9\n"
    kubectl.write_text(
        f"#!/bin/sh\nshift 2\n[ $1 = get ] && printf %s '{listed}' && exit\necho \"$@\" >> {tmp_path}/calls\n"
    )
    kubectl.chmod(0o755)
    script = (ROLES / "control_plane/files/earlier_nodes.sh").read_text()
    script = script.replace("/var/lib/q8s/", f"{tmp_path}/").replace("/etc/kubernetes/", f"{tmp_path}/")
    nodes = "cp=10.0.0.2 lost-1=10.0.0.7 kept-1=10.0.0.8 kept-10=10.0.0.4 new-1=10.0.0.5"
    environment = {**os.environ, "NODES": nodes, "CHECK": str(check)}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["the node lost-1 of the earlier server 10.0.0.3"]
    assert (tmp_path / "calls").read_text() == ("" if check else "delete node lost-1 --ignore-not-found\n")
