#!/bin/sh
# Renews the certificates of kubeadm on this control plane, except those of the CAs. They keep their names.
set -eu
config=$(mktemp)
trap 'rm -f "$config"' EXIT
# kubeadm would ask the API server for its configuration, which does not answer where its certificates have ended.
printf 'apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: %s\n' "$(kubeadm version --output=short)" > "$config"
kubeadm certs renew all --config="$config"
# A kubelet waits up to five minutes before it starts a program again that failed often, as with certificates that have ended.
systemctl restart kubelet.service
