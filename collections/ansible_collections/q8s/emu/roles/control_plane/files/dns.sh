# shellcheck shell=sh
# Keeps the cluster's DNS on control planes, on different ones where there are several. Prints what it changes, or would change.
# Parameters, as environment variables: KUBECTL, a command; PATCH, of CoreDNS's deployment; CHECK, not empty to change nothing;
# NODES and PODS, the JSONPath of a line for each: READY UNSCHEDULABLE, and NAME NODE
set -eu
kubectl="$KUBECTL --namespace=kube-system --request-timeout=30s"
case $($kubectl patch deployment coredns --patch="$PATCH" ${CHECK:+--dry-run=server}) in
    *"(no change)"*) ;;
    # Its new pods look for different nodes themselves.
    *) echo "deployment coredns"; exit 0 ;;
esac
# All pods were started on the first control plane, if the others have joined since then.
nodes=$($kubectl get nodes --selector=node-role.kubernetes.io/control-plane --output=jsonpath="$NODES")
pods=$($kubectl get pods --selector=k8s-app=kube-dns --output=jsonpath="$PODS")
able=$(echo "$nodes" | grep -c '^True $' || :)
used=$(echo "$pods" | cut -d ' ' -f 2 | sort -u | wc -l)
if [ "$able" -gt 1 ] && [ "$used" -eq 1 ] && [ "$(echo "$pods" | wc -l)" -gt 1 ]; then
    pod=$(echo "$pods" | head -n 1 | cut -d ' ' -f 1)
    [ -n "${CHECK:-}" ] || $kubectl delete pod "$pod" --wait=false > /dev/null
    echo "pod $pod"
fi
