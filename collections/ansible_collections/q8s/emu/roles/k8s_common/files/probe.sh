# shellcheck shell=sh
# Prints what this host has already, one word or "key value" a line. Changes nothing.
# Parameters, as environment variables: ROOT, ARCHIVE, PACKAGES (words), RESOLV_CONF (resolv_conf.sh)

[ ! -e "$ROOT/.unpacked-$ARCHIVE" ] || echo unpacked
for record in "$ROOT"/.unpacked-*; do
    if [ -e "$record" ]; then
        sed -n 's/^ *"kubernetes_version": "\(.*\)".*/bundle \1/p' "$ROOT/manifest.json" 2>/dev/null
        break
    fi
done
# shellcheck disable=SC2086 # words
[ "$(dpkg-query --show --showformat='${db:Status-Status}\n' $PACKAGES 2>/dev/null | grep -c '^installed$')" != "$(echo $PACKAGES | wc -w)" ] || echo packages
[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo bridge-netfilter
(echo -999 > /proc/self/oom_score_adj) 2>/dev/null && echo oom-score
for unit in q8s-rules.service q8s-rules-check.timer q8s-hosts.service q8s-containerd.service q8s-cni.path; do
    if [ "$(systemctl is-active $unit 2>/dev/null; systemctl is-enabled $unit 2>/dev/null)" = "$(printf 'active\nenabled')" ]; then echo "$unit"; fi
done
# Before kubeadm has configured it, it cannot run.
if [ "$(systemctl is-enabled kubelet.service 2>/dev/null)" = enabled ]; then
    if [ ! -e /var/lib/kubelet/config.yaml ] || systemctl is-active --quiet kubelet.service; then echo kubelet.service; fi
fi
for setting in net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables; do
    [ "$(sysctl --values $setting 2>/dev/null)" != 1 ] || echo "$setting"
done

# Of this host's first kubelet on, its cgroup driver stays: containers that run would be lost to another.
node=
if [ -e /var/lib/kubelet/config.yaml ]; then node=yes; echo node; fi
driver=$(sed -n 's/^ *SystemdCgroup = true$/systemd/p; s/^ *SystemdCgroup = false$/cgroupfs/p' /etc/containerd/conf.d/50-q8s-cgroup.toml 2>/dev/null)
if [ -z "$driver" ]; then
    if [ -z "$node" ] && [ -e /sys/fs/cgroup/cgroup.controllers ] && [ -d /run/systemd/system ]; then driver=systemd; else driver=cgroupfs; fi
fi
echo "cgroup-driver $driver"

echo "resolv-conf $(sh -c "$RESOLV_CONF")"
# Files and links of the user's own where Q8S would put a link.
for path in /etc/crictl.yaml /opt/cni/bin /usr/local/bin/kubeadm /usr/local/bin/kubectl /usr/local/bin/kubelet /usr/local/bin/crictl /usr/local/bin/ctr \
    /etc/systemd/system/containerd.service; do
    case $(readlink "$path") in "$ROOT"/* | /dev/null) continue ;; esac
    if [ -e "$path" ] || [ -L "$path" ]; then echo "own $path"; fi
done
[ ! -e /etc/q8s/containerd.env ] || echo proxy
if [ -x /usr/local/sbin/q8s-rules ]; then
    /usr/local/sbin/q8s-rules --check | sed 's/^/rules /'
else
    echo "rules are missing"
fi
exit 0
