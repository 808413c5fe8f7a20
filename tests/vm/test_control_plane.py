"""A control plane on a virtual machine with a cloud's image, and reboots of it. Part of ``make test-vm``.

What needs no API server comes first: it takes long to start on an emulated machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from q8s_lab import hosts, settings
from tests.vm.machines import IMAGES, Host, bundle, host, require_virtual_machines, served

pytestmark = pytest.mark.vm

API_NAME: Final = "api.vm.test"
NODE: Final = "vm-control-plane"
API_SECONDS: Final = 1800  # from a login after a reboot until the API server answers: all programs are emulated
_SWAP: Final = "/swap"
# Published images leave it to the user's user-data.
MANAGE_HOSTS: Final = "echo 'manage_etc_hosts: true' > /etc/cloud/cloud.cfg.d/90-q8s-test.cfg"
ADD_SWAP: Final = (
    f"fallocate -l 64M {_SWAP} && chmod 600 {_SWAP} && mkswap {_SWAP} && swapon {_SWAP}"
    f" && echo '{_SWAP} none swap sw 0 0' >> /etc/fstab"
)
# An emulated machine takes longer than kubeadm waits by default, which is 4 minutes. The API server ends itself when it
# has not created its roles within 30 s, and goes on with the others after its restart.
_TIMEOUTS: Final = "controlPlaneComponentHealthCheck kubeletHealthCheck kubernetesAPICall etcdAPICall"
TIMEOUTS: Final = dict.fromkeys(_TIMEOUTS.split(), "60m")


@pytest.fixture(scope="module", params=IMAGES)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    require_virtual_machines()
    with host("control-plane", request.param, tmp_path_factory.mktemp("vm"), memory=4096) as found:
        found.read(ADD_SWAP)
        found.read(f"grep -rqs 'manage_etc_hosts: true' /etc/cloud/cloud.cfg.d || {MANAGE_HOSTS}")
        yield found


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    return bundle()


@pytest.fixture(scope="module")
def prepared(
    machine: Host, answer: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """Apply the role of every node that is no guest."""
    archive = answer["artifacts"]["control-plane-x86_64"]
    folder = tmp_path_factory.mktemp("served") / "files"
    folder.mkdir()
    (folder / archive["name"]).symlink_to(archive["path"])
    with served(folder, str(hosts.beside(settings.load()).gateway)) as url:
        variables = {
            "k8s_common_proxy": {"http_proxy": machine.proxy},
            "k8s_common_archive": f"{url}/{archive['name']}",
            "k8s_common_archive_sha256": archive["sha256"],
            "k8s_common_api_name": API_NAME,
            "k8s_common_api_address": machine.address,
        }
        return machine.play("k8s_common.yml", variables)


@pytest.fixture(scope="module")
def rebooted(machine: Host, prepared: subprocess.CompletedProcess[str]) -> Host:
    assert prepared.returncode == 0, prepared.stdout[-3000:]
    machine.reboot()
    return machine


@pytest.fixture(scope="module")
def created(rebooted: Host, answer: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Apply the role of a control plane."""
    variables = {
        "control_plane_node_name": NODE,
        "control_plane_api_name": API_NAME,
        "control_plane_kubernetes_version": answer["kubernetes_version"],
        "control_plane_flannel_image": answer["pod_images"]["flannel"],
        "control_plane_timeouts": TIMEOUTS,
        "control_plane_nodes": {NODE: rebooted.address},
    }
    return rebooted.play("control_plane.yml", variables)


def api_answers(machine: Host) -> bool:
    """Whether the API server is ready, asked by its name and with the CA's certificate."""
    end = time.monotonic() + API_SECONDS
    ask = "kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=60s get --raw /readyz"
    while machine.ssh(ask).stdout.strip() != "ok":
        if time.monotonic() > end:
            return False
        time.sleep(10)
    return True


def test_the_host_is_set_up_for_cgroup_v2_systemd_and_swap(
    machine: Host, prepared: subprocess.CompletedProcess[str]
) -> None:
    assert prepared.returncode == 0, prepared.stdout[-3000:]
    assert machine.read("stat --file-system --format=%T /sys/fs/cgroup").strip() == "cgroup2fs"
    assert "SystemdCgroup = true" in machine.read("cat /etc/containerd/conf.d/50-q8s-cgroup.toml")
    kubelet = machine.read("cat /etc/q8s/kubelet.conf.d/10-host.conf")
    assert "cgroupDriver: systemd" in kubelet and "failSwapOn: false" in kubelet
    # systemd-resolved's stub would be asked in a circle
    [resolver] = re.findall(r"(?m)^resolvConf: *(\S+)", kubelet)
    assert not re.search(r"(?m)^nameserver\s+127\.", machine.read(f"cat {resolver}"))
    assert machine.read("swapon --noheadings --show=NAME").strip() == _SWAP


def test_the_apis_name_survives_a_reboot(rebooted: Host) -> None:
    text = rebooted.read("cat /etc/hosts")
    assert re.search(rf"(?m)^{re.escape(rebooted.address)}\s+{re.escape(API_NAME)}$", text), text
    managed = rebooted.read("cat /etc/cloud/cloud.cfg.d/*.cfg")
    assert "manage_etc_hosts: true" in managed, "the image does not try the case"


def test_modules_are_loaded_at_boot(rebooted: Host) -> None:
    loaded = rebooted.read("cat /proc/modules /lib/modules/$(uname -r)/modules.builtin")
    for module in ("br_netfilter", "overlay", "nf_conntrack"):
        assert re.search(rf"(?m)^{module} |/{module}\.ko$", loaded), f"{module} is not loaded"


def test_the_rules_come_before_the_network(rebooted: Host) -> None:
    show = "systemctl show --property=ActiveEnterTimestampMonotonic --value"
    rules, network = (int(rebooted.read(f"{show} {unit}")) for unit in ("q8s-rules.service", "network-pre.target"))
    assert 0 < rules <= network
    assert rebooted.read("/usr/local/sbin/q8s-rules --check").strip() == ""


def test_the_roles_create_a_control_plane(machine: Host, created: subprocess.CompletedProcess[str]) -> None:
    assert created.returncode == 0, created.stdout[-3000:]
    assert api_answers(machine)
    server = machine.read("grep -h server: /etc/kubernetes/admin.conf").split()[-1]
    assert server == f"https://{API_NAME}:6443"


def test_limits_are_kept_by_systemd(machine: Host, created: subprocess.CompletedProcess[str]) -> None:
    ask = f"kubectl --kubeconfig=/etc/kubernetes/admin.conf get --raw /api/v1/nodes/{NODE}/proxy/configz"
    assert json.loads(machine.read(ask))["kubeletconfig"]["cgroupDriver"] == "systemd"
    assert "kubepods.slice" in machine.read("systemctl list-units --type=slice --plain --no-legend")


def test_swap_stays_and_pods_do_not_use_it(machine: Host, created: subprocess.CompletedProcess[str]) -> None:
    assert machine.read("swapon --noheadings --show=NAME").strip() == _SWAP
    ask = f"kubectl --kubeconfig=/etc/kubernetes/admin.conf get --raw /api/v1/nodes/{NODE}/proxy/configz"
    config = json.loads(machine.read(ask))["kubeletconfig"]
    assert not config["failSwapOn"] and config.get("memorySwap", {}).get("swapBehavior", "NoSwap") == "NoSwap"


def test_the_api_answers_after_a_reboot(machine: Host, created: subprocess.CompletedProcess[str]) -> None:
    assert created.returncode == 0, created.stdout[-3000:]
    machine.reboot()
    assert api_answers(machine)
