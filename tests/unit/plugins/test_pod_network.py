"""What ``destroy`` removes of pods' network from a server that stays, and what it leaves."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.unit.plugins.network_namespace import namespace

SCRIPT = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane/files/pod_network.sh"
OWN = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:MINE - [0:0]
[7:420] -A INPUT -p tcp -m tcp --dport 22 -m comment --comment "not KUBE-SERVICES" -j MINE
[7:420] -A MINE -j ACCEPT
COMMIT
"""
# As kube-proxy, Flannel and the plugin for host ports write them.
THEIRS = """
*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:FLANNEL-POSTRTG - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -j MASQUERADE
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-I INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP
COMMIT
"""


def test_pods_network_goes_and_everything_else_stays(tmp_path: Path) -> None:
    for folder in ("var/lib/cni/networks/cbr0", "var/lib/cni/networks/podman", "var/lib/cni/results", "etc/cni/net.d"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/cni/net.d/10-flannel.conflist").touch()
    with namespace() as holder:
        enter = ["nsenter", f"--net=/proc/{holder}/ns/net"]

        def run(*command: str, text: str = "") -> str:
            done = subprocess.run([*enter, *command], input=text, capture_output=True, text=True, check=True)
            return done.stdout

        def rules(table: str) -> list[str]:
            lines = run("iptables-save", "--counters", "--table", table).splitlines()
            return [line for line in lines if not line.startswith("#")]

        run("iptables-restore", "--counters", text=OWN)
        own = rules("filter")
        run("iptables-restore", "--noflush", text=THEIRS)
        for link in ("cni0", "other0"):
            run("ip", "link", "add", link, "type", "bridge")
        said = run("env", f"ROOT={tmp_path}", "sh", str(SCRIPT)).splitlines()
        assert rules("filter") == own
        assert not [line for line in rules("nat") if "KUBE" in line or "FLANNEL" in line or "CNI" in line]
        assert "other0" in run("ip", "-brief", "link") and "cni0" not in run("ip", "-brief", "link")
        cni = [
            "/etc/cni/net.d/10-flannel.conflist",
            "/var/lib/cni/results",
            "/var/lib/cni/networks/cbr0",
            "/etc/cni/net.d",
            "/etc/cni",
        ]
        assert said == ["cni0", "rules of iptables", *cni]
        assert run("env", f"ROOT={tmp_path}", "sh", str(SCRIPT)) == "", "nothing is left to remove"
    assert (tmp_path / "var/lib/cni/networks/podman").exists(), "of another runtime"
