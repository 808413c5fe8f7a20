# shellcheck shell=sh
# Lets nodes of two Kubernetes versions run beside one another, where each holds the images of its own version only.
# kube-proxy: a pod that runs stays, and a new node gets one of the new version. CoreDNS: with the tag that both bundles have.
# Parameters, as environment variables: VERSION, such as v1.36.3
set -eu
kubectl="/var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf --namespace=kube-system"
before=$($kubectl get daemonset/kube-proxy deployment/coredns --output=jsonpath='{.items[*].metadata.generation}')
$kubectl patch daemonset kube-proxy --patch='{"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}' > /dev/null
$kubectl set image daemonset/kube-proxy "kube-proxy=registry.k8s.io/kube-proxy:$VERSION" > /dev/null
tag=$(sed -n 's/^ *"coredns": "\(.*\)".*/v\1/p' /var/lib/q8s/manifest.json)
$kubectl set image deployment/coredns "coredns=registry.k8s.io/coredns/coredns:$tag" > /dev/null
[ "$before" = "$($kubectl get daemonset/kube-proxy deployment/coredns --output=jsonpath='{.items[*].metadata.generation}')" ] || echo changed
