"""A server that is a virtual machine: one for each image of ``Q8S_VM_IMAGES``, seen through the API, ssh and QEMU.

Only the tests marked ``reboots`` boot it again; the others together take one boot. An image is a name that Q8S builds,
or a file.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from q8s_lab import cloud_image, hosts, settings
from q8s_lab.firewall import Port, link_of, port_chain
from q8s_lab.machine import start_time, wait
from tests.clouds import connect
from tests.integration.lab.boxes import VmBox, allow, boxes

pytestmark = [pytest.mark.lab, pytest.mark.vm]

IMAGES = shlex.split(os.environ.get("Q8S_VM_IMAGES", " ".join(cloud_image.STOCK_NAMES)))
FLAVOR, MEMORY, VCPUS, DISK = "v1.small", 2048, 2, 20
MTU = 1450  # another than the network's, which is everybody's default
USER_DATA = """\
#cloud-config
user: debian
write_files:
- {path: /var/lib/q8s-test, content: "from user data"}
"""


@pytest.fixture(scope="module")
def admin(lab: Mapping[str, str]) -> Iterator[Any]:
    place = {"OS_CLIENT_CONFIG_FILE": str(settings.load().admin_clouds_yaml), "OS_CLOUD": settings.ADMIN_CLOUD_NAME}
    with connect(place) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def mtu(admin: Any) -> Iterator[int]:
    """The private network has another MTU than NICs have by themselves."""
    network = admin.network.find_network("private", ignore_missing=False)
    admin.network.update_network(network, mtu=MTU)
    yield MTU
    admin.network.update_network(network, mtu=network.mtu)


def add_image(image: str) -> str:
    """Add an image to the cloud, unless it is there, and return its name."""
    file = [] if image in cloud_image.NAMES else [image]
    name = Path(image).stem if file else image
    program = Path(sys.executable).with_name("q8s-run")
    # its progress, when it is built first, is shown
    done = subprocess.run([program, "lab", "image", "add", name, *file], check=False)
    assert done.returncode == 0, "q8s-run lab image add failed; its message is above"
    return name


@pytest.fixture(scope="module", params=IMAGES)
def image(lab: Mapping[str, str], request: pytest.FixtureRequest) -> str:
    return add_image(request.param)


@pytest.fixture(scope="module")
def box(lab: Mapping[str, str], image: str, mtu: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmBox]:
    more = {"user_data": base64.b64encode(USER_DATA.encode()).decode(), "metadata": {"role": "test"}}
    with boxes(lab, tmp_path_factory.mktemp("vm"), flavor=FLAVOR, kind=VmBox, image=image, **more) as (one,):
        yield one


def port_of(box: VmBox) -> Any:
    (port,) = box.cloud.network.ports(device_id=box.id)
    return port


def test_it_boots_with_neutrons_address_mac_and_mtu(box: VmBox) -> None:
    box.wait_for_ssh()
    (link,) = [link for link in json.loads(box.ssh("ip -json address").stdout) if link["ifname"] != "lo"]
    assert link["address"] == port_of(box).mac_address
    assert link["mtu"] == MTU
    found = {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["family"] == "inet"}
    assert found == {f"{box.address}/{settings.load().subnet.prefixlen}"}
    route = box.ssh("ip -4 route show default").stdout
    assert f"via {settings.load().gateway} " in route, route
    resolvers = box.ssh("cat /etc/resolv.conf; resolvectl dns").stdout
    assert str(settings.load().gateway) in resolvers, resolvers


def test_its_kernel_is_its_own(box: VmBox) -> None:
    assert box.ssh("uname -r").stdout.strip() not in ("", os.uname().release)
    assert box.ssh("systemd-detect-virt").stdout.strip() == "qemu"


def test_cloud_init_used_the_config_drive(box: VmBox) -> None:
    done = box.ssh("cloud-init status --wait --long")
    assert "status: done" in done.stdout, done.stdout
    result = json.loads(box.ssh("cat /run/cloud-init/result.json").stdout)["v1"]
    assert result["datasource"].startswith("DataSourceConfigDrive ") and "source=/dev/vd" in result["datasource"]
    assert box.ssh("cat /var/lib/q8s-test").stdout == "from user data"
    metadata = json.loads(box.ssh("sudo cat /run/cloud-init/instance-data-sensitive.json").stdout)["ds"]["meta_data"]
    assert metadata["meta"] == {"role": "test"} and metadata["uuid"] == box.id
    assert box.ssh("hostname -s").stdout.strip() == box.name
    assert box.cloud.compute.get_server(box.id).has_config_drive


def test_packages_come_through_the_labs_proxy(box: VmBox) -> None:
    lab = settings.load()
    proxy = box.ssh("apt-config dump Acquire::http::Proxy").stdout
    assert f'"http://{lab.gateway}:{lab.proxy_port}"' in proxy, proxy


def test_apparmor_enforces(box: VmBox) -> None:
    assert box.ssh("cat /sys/module/apparmor/parameters/enabled").stdout.strip() == "Y"
    profiles = box.ssh("sudo cat /sys/kernel/security/apparmor/profiles").stdout
    assert "(enforce)" in profiles, profiles


def test_it_has_the_flavors_processors_memory_and_disk(box: VmBox) -> None:
    assert box.ssh("nproc").stdout.strip() == str(VCPUS)
    total = re.search(r"^MemTotal: +(\d+) kB", box.ssh("cat /proc/meminfo").stdout, re.MULTILINE)
    assert total and 0.9 < int(total[1]) / (MEMORY * 1024) <= 1
    root = box.ssh("df --output=size --block-size=1 / | tail -1").stdout
    assert 0.9 < int(root) / (DISK << 30) <= 1, "cloud-init grew the root's partition and file system"


def test_a_closed_port_opens_with_a_rule(box: VmBox) -> None:
    """Something listens on both ports; the group has a rule for neither, then for one."""
    for port in (8080, 8081):
        done = box.ssh("sudo", "systemd-run", f"--unit=web{port}", "python3", "-m", "http.server", str(port))
        assert done.returncode == 0, done.stderr
    # from inside both answer, so that it is the firewall that is tested
    listening = 'for port in 8080 8081; do timeout 5 bash -c "</dev/tcp/127.0.0.1/$port" || exit 1; done'
    assert wait(lambda: box.ssh(listening).returncode == 0, 120), box.ssh(listening).stderr
    assert not box.opens(8080) and not box.opens(8081)
    allow(box.cloud, box.group, 8080)
    assert wait(lambda: box.opens(8080), 30)
    assert not box.opens(8081)


def test_the_console_is_in_the_api(box: VmBox) -> None:
    output = box.cloud.compute.get_server_console_output(box.id)["output"]
    assert f"{box.name} login:" in output, output[-500:]


@pytest.mark.reboots
def test_a_soft_reboot_shuts_down_cleanly(box: VmBox) -> None:
    before = box.boot_id()
    assert before and box.ssh("echo kept > /var/tmp/note && sync").returncode == 0
    box.cloud.compute.reboot_server(box.id, "SOFT")
    assert box.booted_since(before)
    assert wait(lambda: box.status == "ACTIVE", 60)
    assert box.ssh("cat /var/tmp/note").stdout == "kept\n"
    journal = box.ssh("sudo journalctl --boot=-1 --output=cat --no-pager").stdout
    assert "Power key pressed" in journal and "System is powering down" in journal, journal[-3000:]


@pytest.mark.reboots
def test_a_reboot_from_inside_keeps_the_machine(box: VmBox) -> None:
    before, qemu = box.boot_id(), box.vm.process()
    box.ssh("sudo systemctl reboot")
    assert before and box.booted_since(before)
    assert qemu and box.vm.process() == qemu and box.status == "ACTIVE"


@pytest.mark.reboots
def test_stop_and_start(box: VmBox) -> None:
    before = box.boot_id()
    box.cloud.compute.stop_server(box.id)
    assert wait(lambda: box.status == "SHUTOFF", 480)
    assert box.ssh("true").returncode == 255 and not box.vm.running()
    box.cloud.compute.start_server(box.id)
    assert before and box.booted_since(before)
    assert box.status == "ACTIVE"


@pytest.mark.reboots
def test_a_hard_reboot_replaces_qemu(box: VmBox) -> None:
    before, qemu = box.boot_id(), box.vm.process()
    assert box.ssh("echo kept > /var/tmp/note && sync").returncode == 0
    box.cloud.compute.reboot_server(box.id, "HARD")
    assert before and box.booted_since(before)
    assert qemu and box.vm.process() != qemu
    assert box.ssh("cat /var/tmp/note").stdout == "kept\n"


def test_a_qemu_that_is_killed_shows(box: VmBox) -> None:
    qemu = box.vm.process()
    assert qemu and box.status == "ACTIVE"
    os.kill(qemu, signal.SIGKILL)
    assert wait(lambda: box.status == "SHUTOFF", 60)


def test_one_that_cannot_start_says_what_qemu_says(box: VmBox) -> None:
    (box.vm.folder / "disk.qcow2").write_bytes(b"not a disk")
    box.cloud.compute.reboot_server(box.id, "HARD")
    assert wait(lambda: box.status == "ERROR", 180)
    assert "Image is not in qcow2 format" in fault(box.cloud, box.id)


def test_delete_leaves_nothing(box: VmBox) -> None:
    folder, lab = box.vm.folder, settings.load()
    (port,) = box.vm.spec.ports
    assert folder.exists()
    box.cloud.compute.delete_server(box.id)
    assert wait(lambda: box.id not in {server.id for server in box.cloud.compute.servers()}, 60)
    assert not folder.exists() and not Path("/sys/class/net", port.link).exists()
    assert list(box.cloud.network.ports(device_id=box.id)) == []
    chain = port_chain(Port(port.link, box.address, ()), lab.bridge)
    assert wait(lambda: chain not in firewall(), 60)


# -- what needs no boot ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def any_image(lab: Mapping[str, str]) -> str:
    return add_image(IMAGES[0])


def fault(cloud: Any, server: str) -> str:
    return str(cloud.compute.get_server(server).fault["message"])


@pytest.fixture
def created(lab: Mapping[str, str]) -> Iterator[Any]:
    """Creates servers, and removes them afterwards."""
    servers: list[Any] = []
    with connect(lab) as cloud:

        def create(image: str, flavor: str, **more: Any) -> tuple[Any, Any]:
            where = more.pop("networks", [{"uuid": cloud.network.find_network("private").id}])
            server = cloud.compute.create_server(
                name="itest-vm",
                image_id=cloud.image.find_image(image, ignore_missing=False).id,
                flavor_id=cloud.compute.find_flavor(flavor).id,
                networks=where,
                **more,
            )
            servers.append(server)
            return cloud, server

        yield create
        for server in servers:
            cloud.compute.delete_server(server, ignore_missing=True)
        for server in servers:
            cloud.compute.wait_for_delete(server, interval=1, wait=60)


def test_a_containers_image_does_not_boot_a_machine(created: Any) -> None:
    cloud, server = created(settings.IMAGE_NAME, FLAVOR)
    assert wait(lambda: cloud.compute.get_server(server).status == "ERROR", 180)
    message = fault(cloud, server.id)
    assert f"image {settings.IMAGE_NAME} has the disk format raw" in message, message
    assert "take an image of the format qcow2" in message and "lab image add debian-13-cloud" in message


def test_a_disk_image_stands_for_a_container_too(lab: Mapping[str, str], any_image: str, tmp_path: Path) -> None:
    """One image for a whole cluster: containers are made of the one that its property names."""
    with boxes(lab, tmp_path, image=any_image) as (box,):
        box.wait_for_ssh()
        assert box.ssh("systemd-detect-virt").stdout.strip() == "systemd-nspawn"


def test_an_image_that_is_broken_says_so(admin: Any, created: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    with path.open("r+b") as stream:
        stream.seek(40)  # l1_table_offset
        stream.write((12345).to_bytes(8))
    options = {"container_format": "bare", "disk_format": "qcow2", "visibility": "public", "wait": True}
    image = admin.create_image("itest-broken", filename=str(path), **options)
    try:
        cloud, server = created("itest-broken", FLAVOR)
        assert wait(lambda: cloud.compute.get_server(server).status == "ERROR", 180)
        assert "L1 table offset" in fault(cloud, server.id), fault(cloud, server.id)
    finally:
        admin.image.delete_image(image)


def test_every_port_has_a_nic(created: Any, any_image: str, lab: Mapping[str, str]) -> None:
    with connect(lab) as cloud:
        second = cloud.network.create_network(name="itest-second", mtu=1400)
        try:
            cloud.network.create_subnet(network_id=second.id, ip_version=4, cidr="10.99.0.0/24", enable_dhcp=False)
            first = cloud.network.find_network("private")
            _, server = created(any_image, FLAVOR, networks=[{"uuid": first.id}, {"uuid": second.id}])
            cloud.compute.wait_for_server(server, interval=1, wait=120)
            ports = {port.network_id: port for port in cloud.network.ports(device_id=server.id)}
            links = {name: Path("/sys/class/net", link_of(port.id)) for name, port in ports.items()}
            assert all((link / "brport").exists() for link in links.values())
            assert (links[second.id] / "mtu").read_text() == "1400\n"
            bridge = settings.load().bridge
            chains = [port_chain(Port(link.name, "", ()), bridge) for link in links.values()]
            assert wait(lambda: all(chain in firewall() for chain in chains), 30)
            cloud.compute.delete_server(server)
            cloud.compute.wait_for_delete(server, interval=1, wait=60)
            assert not any(link.exists() for link in links.values())
        finally:
            cloud.network.delete_network(second)


def test_qemu_is_found_again_by_another_process(created: Any, any_image: str) -> None:
    """Nova knows a machine by what its folder says; so does a program that did not start it."""
    cloud, server = created(any_image, FLAVOR)
    cloud.compute.wait_for_server(server, interval=1, wait=120)
    pid, started = (settings.load().machines / server.id / "run.pid").read_text().split()
    assert start_time(int(pid)) == started
    assert b"qemu-system-x86_64" in Path(f"/proc/{pid}/cmdline").read_bytes()
    listed = subprocess.run(
        [Path(sys.executable).with_name("q8s-run"), "lab", "status", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    address = cloud.compute.get_server(server.id).addresses["private"][0]["addr"]
    (machine,) = [one for one in json.loads(listed.stdout)["machines"] if one["address"] == address]
    assert machine["running"] and machine["kind"] == "vm" and machine["memory"] == MEMORY


@pytest.mark.reboots
def test_a_host_without_openstack(tmp_path: Path) -> None:
    """What Molecule runs a role on: its host key is known beforehand, and nothing of it is left."""
    key, known = tmp_path / "key", tmp_path / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    lab = [Path(sys.executable).with_name("q8s-run"), "lab", "host"]
    try:
        options = ["--machine", "vm", "--image", IMAGES[0], "--key", f"{key}.pub", "--memory", "1536"]
        up = subprocess.run([*lab, "up", "itest-vm", *options], stdout=subprocess.PIPE, text=True, check=True)
        host = json.loads(up.stdout)
        known.write_text(f"{host['address']} {host['host_key']}\n")
        ssh = ["ssh", "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
        ssh += ["-o", "ConnectTimeout=60", "-i", str(key), f"debian@{host['address']}"]
        asked = "cloud-init status --wait >/dev/null; sudo id -u; systemd-detect-virt; hostname"
        done = subprocess.run([*ssh, asked], capture_output=True, text=True, check=False, timeout=900)
        assert done.stdout.split() == ["0", "qemu", "itest-vm"], done.stderr
    finally:
        subprocess.run([*lab, "down", "itest-vm"], check=True)
    beside = hosts.beside(settings.load())
    assert not beside.folder.exists() and not Path("/sys/class/net", beside.bridge).exists()


def firewall() -> str:
    return subprocess.run(["iptables", "-w", "-S"], capture_output=True, text=True, check=True).stdout
