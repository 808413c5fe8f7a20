#!/bin/sh
# Removes what the network of pods leaves on a host that stays, and prints it: interfaces, rules, and the plugins' configuration and records.
# Other rules stay. Kubernetes, Flannel and the CNI plugins give their chains names of their own.
# Parameter, as environment variable: ROOT (for tests)
set -eu
ROOT=${ROOT:-}
for link in cni0 flannel.1; do
    if ip link show "$link" > /dev/null 2>&1; then
        ip link delete "$link"
        echo "$link"
    fi
done
for family in iptables ip6tables; do
    rules=$($family-save --counters 2>/dev/null) || continue
    others=$(echo "$rules" | grep -v -e '^:\(KUBE\|FLANNEL\|CNI\)-' -e ' -A \(KUBE\|FLANNEL\|CNI\)-' -e ' -[jg] \(KUBE\|FLANNEL\|CNI\)-') || :
    if [ "$others" != "$rules" ]; then
        echo "$others" | $family-restore --counters --wait
        echo "rules of $family"
    fi
done
for path in /etc/cni/net.d/10-flannel.conflist /var/lib/cni/cache /var/lib/cni/flannel /var/lib/cni/results /var/lib/cni/networks/cbr0; do
    if [ -e "$ROOT$path" ]; then
        rm -r "$ROOT$path"
        echo "$path"
    fi
done
for path in /var/lib/cni/networks /var/lib/cni /etc/cni/net.d /etc/cni; do
    if rmdir "$ROOT$path" 2>/dev/null; then echo "$path"; fi
done
