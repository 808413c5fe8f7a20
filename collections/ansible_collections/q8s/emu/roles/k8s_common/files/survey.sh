# shellcheck shell=sh
# Prints what decides whether this host can be a control plane, one "key value" a line. Changes nothing.
# Needs a POSIX shell only: Python may be missing. q8s.emu.host_problems reads the lines.
LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" = 0 ]; then sudo=; echo "root yes"
elif sudo -n true 2>/dev/null; then sudo="sudo -n"; echo "root yes"
else sudo=; echo "root no"; fi
echo "user $(id -un)"
echo "python $(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
echo "init $(cat /proc/1/comm 2>/dev/null)"
echo "architecture $(uname -m)"
echo "cpus $(getconf _NPROCESSORS_ONLN 2>/dev/null)"
echo "memory_mb $(awk '$1 == "MemTotal:" { print int($2 / 1024) }' /proc/meminfo)"
echo "disk_free_mb $(df -Pk /var/lib 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }')"
awk 'NR > 1 { print "swap " $1 }' /proc/swaps 2>/dev/null
for unit in docker containerd crio k3s k3s-agent rke2-server rke2-agent k0scontroller snap.microk8s.daemon-kubelite firewalld; do
    if systemctl is-active --quiet "$unit.service" 2>/dev/null || systemctl is-enabled --quiet "$unit.service" 2>/dev/null; then
        echo "unit $unit"
    fi
done
if grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf; then echo "unit ufw"; fi
for package in kubelet kubeadm; do
    if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ]; then echo "package $package"; fi
done
for chain in INPUT FORWARD; do $sudo iptables -S $chain 2>/dev/null | sed 's/^/iptables /'; done
if command -v nft > /dev/null; then echo "nftables $($sudo nft --json --stateless --terse list ruleset 2>/dev/null)"; fi
if $sudo test -e /etc/kubernetes/q8s; then echo "q8s yes"; fi
$sudo sed -n 's/^controlPlaneEndpoint: "\(.*\):[0-9]*"$/api_name \1/p' /etc/kubernetes/q8s/kubeadm.yaml 2>/dev/null
for path in /etc/kubernetes/admin.conf /etc/kubernetes/kubelet.conf /etc/kubernetes/pki/ca.crt /var/lib/etcd/member; do
    if $sudo test -e "$path"; then echo "kubernetes $path"; fi
done
for path in /etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist; do
    case $path in *'*'* | */10-flannel.conflist) ;; *) echo "cni $path" ;; esac
done
$sudo ss -Hltnp 2>/dev/null | awk '{
    port = $4; sub(/.*:/, "", port)
    program = $0; if (!sub(/.*users:\(\("/, "", program)) program = "\""
    sub(/".*/, "", program); print "port", port, program
}'
exit 0
