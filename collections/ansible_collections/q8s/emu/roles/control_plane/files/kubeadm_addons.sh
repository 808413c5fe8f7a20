# shellcheck shell=sh
# Gives kube-proxy and CoreDNS the manifests of this kubeadm, as `kubeadm init` does.
# Parameters, as environment variables: PATH with kubeadm and kubectl
set -eu
config=/etc/kubernetes/q8s/kubeadm.yaml
kubectl="kubectl --kubeconfig=/etc/kubernetes/admin.conf --namespace=kube-system"
# kubeadm does not know the tag that CoreDNS has had meanwhile, and would not go on.
image=$(kubeadm config images list --config=$config | grep /coredns:)
$kubectl set image deployment/coredns "coredns=$image"
kubeadm init phase addon all --config=$config
$kubectl rollout status deployment/coredns --timeout=900s
$kubectl rollout status daemonset/kube-proxy --timeout=900s
