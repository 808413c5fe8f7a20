"""The seed of a guest that installs itself by cloud-init, as the paper's does."""

from __future__ import annotations

import json
from typing import Final

from benchmarks.deployed import Api
from benchmarks.paper_way.packages import IMAGES
from q8s_bundle.node import images

PORT: Final = 8099  # of the server on the host, as the guest sees it
_SERVER: Final = f"http://10.0.2.2:{PORT}"

_CONTAINERD: Final = f"""\
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{images.PAUSE}'
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = '/etc/containerd/certs.d'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = true
"""
_CNI: Final = {
    "name": "cbr0",
    "cniVersion": "0.3.1",
    "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
# Upstream's Flannel puts its CNI configuration in place by an init container, just before flanneld starts. Q8S's
# Flannel has none: a unit does it as soon as flanneld runs, as in Q8S's guest.
_CNI_PATH: Final = """\
[Path]
PathExists=/run/flannel/subnet.env
Unit=cni.service
"""
_CNI_SERVICE: Final = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/install -D -m 0644 /etc/10-flannel.conflist /etc/cni/net.d/10-flannel.conflist
"""


def seed(name: str, api: Api, token: str, proxy: str = "") -> dict[str, str]:
    """Return the files of a NoCloud seed: packages, system configuration, images, `kubeadm join`.

    The steps are those of Kubernetes' guide "Bootstrapping clusters with kubeadm". A taint keeps other pods away;
    Flannel and kube-proxy tolerate it.

    :param name: name of the node
    :param token: bootstrap token
    :param proxy: URL of apt's proxy, as on the host; "" without one
    """
    hosts = f"server = '{_SERVER}'\n[host.'{_SERVER}']\ncapabilities = ['pull', 'resolve']\n"
    registries = sorted({image.partition("/")[0] for image in IMAGES})
    config = {
        "hostname": name,
        "manage_etc_hosts": False,
        "write_files": [
            _file("/etc/modules-load.d/k8s.conf", "overlay\nbr_netfilter\n"),
            _file("/etc/sysctl.d/k8s.conf", "net.ipv4.ip_forward = 1\nnet.bridge.bridge-nf-call-iptables = 1\n"),
            _file("/etc/containerd/config.toml", _CONTAINERD),
            *(_file(f"/etc/containerd/certs.d/{registry}/hosts.toml", hosts) for registry in registries),
            _file("/etc/crictl.yaml", "runtime-endpoint: unix:///run/containerd/containerd.sock\n"),
            _file("/etc/10-flannel.conflist", json.dumps(_CNI)),
            _file("/etc/systemd/system/cni.path", _CNI_PATH),
            _file("/etc/systemd/system/cni.service", _CNI_SERVICE),
            _file("/etc/kubernetes/join.json", json.dumps(_join_configuration(name, api, token)), "0600"),
        ],
        "bootcmd": [_phase("cloud_init")],
        # cloud-init reads the package lists because there is a new source: no need for `package_update`
        "apt": {
            "conf": _proxy(proxy),
            "sources": {"kubernetes": {"source": f"deb [trusted=yes] {_SERVER}/apt ./"}},
        },
        "packages": ["containerd.io", "kubelet", "kubeadm"],
        "runcmd": [
            _phase("installed"),
            f"echo '{api.address} {api.name}' >> /etc/hosts",
            "modprobe overlay && modprobe br_netfilter && sysctl --quiet --system",
            "systemctl daemon-reload && systemctl start cni.path",
            # the pod says `imagePullPolicy: Never`; the kubelet pulls the others
            f"crictl pull {images.FLANNEL}",
            _phase("pulled"),
            "kubeadm join --config /etc/kubernetes/join.json && " + _phase("joined"),
        ],
    }
    return {
        "user-data": f"#cloud-config\n{json.dumps(config)}\n",
        "meta-data": f"instance-id: {name}\nlocal-hostname: {name}\n",
    }


def _file(path: str, content: str, mode: str = "0644") -> dict[str, str]:
    return {"path": path, "content": content, "permissions": mode}


def _proxy(url: str) -> str:
    return f'Acquire::http::Proxy "{url}";\nAcquire::http::Proxy::10.0.2.2 "DIRECT";\n' if url else ""


def _phase(name: str) -> str:
    return f"echo 'q8s-phase {name}' > /dev/console"


def _join_configuration(name: str, api: Api, token: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "token": token,
                "apiServerEndpoint": f"{api.name}:6443",
                "caCertHashes": [f"sha256:{api.ca_hash}"],
            }
        },
        "nodeRegistration": {
            "name": name,
            "criSocket": "unix:///run/containerd/containerd.sock",
            "imagePullPolicy": "IfNotPresent",
            "taints": [{"key": "q8s.local/benchmark", "effect": "NoSchedule"}],
        },
    }
