#!/bin/sh
# Records that this host belongs to a cluster, and which folders were here before, so that `reset` removes only what the cluster put here.
# Prints what it recorded, "refuse REASON" if it may not, or nothing where it was recorded before.
# Parameters, as environment variables: API_NAME (of the cluster), KNOWN (True: the cluster has been used), OTHERS (its other control planes),
# HOST (this server's name), CHECK (True: change nothing)
set -eu
record=/etc/q8s/cluster
own=/etc/kubernetes/q8s
ca=/etc/kubernetes/pki/ca.crt

if [ "${KNOWN:-}" = True ] && [ ! -e $ca ]; then
    lost="it no longer has the cluster's CA and etcd: was the server rebuilt?"
    if [ -n "${OTHERS:-}" ]; then
        echo "refuse $lost $OTHERS may have them: delete this server (openstack server delete ${HOST:-}), and the next deploy creates it anew" \
            "and joins it to them"
    else
        echo "refuse $lost Its workers cannot join another CA. Destroy the cluster and deploy it again"
    fi
    exit 0
fi
if [ -s $record ]; then
    owner=$(sed -n 's/^api //p' $record)
    if [ "$owner" != "$API_NAME" ]; then echo "refuse it belongs to the Q8S cluster with the API name $owner. Destroy that cluster first, or choose another name_of_initial_instance"; fi
    exit 0
fi
if [ -e $ca ] && [ ! -e $own ]; then
    echo "refuse it has a Kubernetes CA that Q8S did not create ($ca). Remove it (kubeadm reset), or choose another name_of_initial_instance"
    exit 0
fi
text=$(
    echo "api $API_NAME"
    # an earlier Q8S recorded nothing
    if [ ! -e $own ]; then
        for path in /etc/kubernetes /var/lib/etcd /var/lib/kubelet; do
            if [ -e $path ]; then echo "kept $path"; fi
        done
    fi
)
echo "$text"
[ "${CHECK:-}" != True ] || exit 0
mkdir -p "${record%/*}"
echo "$text" > $record.new
mv $record.new $record
