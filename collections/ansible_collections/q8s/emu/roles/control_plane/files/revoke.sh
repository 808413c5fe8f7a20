#!/bin/sh
# Removes what nodes have joined with, from Kubernetes and from this host: the bootstrap token, and the certificates for additional control planes.
# Prints what it removed. With CHECK=True it removes nothing.
set -eu
token=/etc/kubernetes/q8s/bootstrap-token
[ -e $token ] || exit 0
if [ "${CHECK:-}" != True ]; then
    kubectl() { /var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf --namespace=kube-system --request-timeout=10s "$@"; }
    # `kubeadm init phase upload-certs` creates a token of its own, which owns the certificates.
    owner=$(kubectl get secret kubeadm-certs --ignore-not-found --output='jsonpath={.metadata.ownerReferences[*].name}')
    # shellcheck disable=SC2086 # no word, or one
    kubectl delete secret --ignore-not-found "bootstrap-token-$(cut -c1-6 $token)" kubeadm-certs $owner > /dev/null
    rm $token
fi
echo "the bootstrap token"
