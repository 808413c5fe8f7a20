# shellcheck shell=sh
# Keeps the cluster's DNS on control planes, on different ones where there are several. Prints what it changes, or would change.
# Parameters, as environment variables: KUBECTL, a command; PATCH, of CoreDNS's deployment; CHECK, not empty to change nothing;
# NODES and PODS, the JSONPath of a line for each: READY UNSCHEDULABLE, and NAME NODE
set -eu
ask="$KUBECTL --namespace=kube-system --request-timeout=30s"
case $($ask patch deployment coredns --patch="$PATCH" ${CHECK:+--dry-run=server}) in
    *"(no change)"*) ;;
    # Its new pods look for different nodes themselves.
    *) echo "deployment coredns"; exit 0 ;;
esac
# All pods were started on the first control plane, if the others have joined since then.
states=$($ask get nodes --selector=node-role.kubernetes.io/control-plane --output=jsonpath="$NODES")
places=$($ask get pods --selector=k8s-app=kube-dns --output=jsonpath="$PODS")
able=$(echo "$states" | grep -c '^True $' || :)
used=$(echo "$places" | cut -d ' ' -f 2 | sort -u | wc -l)
if [ "$able" -gt 1 ] && [ "$used" -eq 1 ] && [ "$(echo "$places" | wc -l)" -gt 1 ]; then
    pod=$(echo "$places" | head -n 1 | cut -d ' ' -f 1)
    [ -n "${CHECK:-}" ] || $ask delete pod "$pod" --wait=false > /dev/null
    echo "pod $pod"
fi
