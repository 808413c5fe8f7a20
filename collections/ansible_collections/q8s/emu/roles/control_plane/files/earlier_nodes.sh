#!/bin/sh
# Removes the nodes whose servers were lost and created again with another address. A new kubelet takes the earlier address from its node, asks for a
# serving certificate with it, and waits for that for a quarter of an hour.
# NODES has NAME=ADDRESS of each node of the cluster file. Prints what it removed. With CHECK=True it removes nothing.
set -eu
[ -e /etc/kubernetes/admin.conf ] || exit 0
kubectl() { /var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=10s "$@"; }
addresses='{range .items[*]}{.metadata.name}={.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}'
# Assigned: a failure in the list of a loop would be none.
found=$(kubectl get nodes --output="jsonpath=$addresses")
for node in $found; do
    name=${node%%=*}
    [ "$node" != "$name=" ] || continue
    case " $NODES " in
    *" $node "*) ;;
    *" $name="*)
        [ "${CHECK:-}" = True ] || kubectl delete node "$name" --ignore-not-found > /dev/null
        echo "the node $name of the earlier server ${node#*=}"
        ;;
    esac
done
