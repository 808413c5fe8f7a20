# shellcheck shell=sh
# Prints when the certificates of this control plane end: "now SECONDS", "kubelet notAfter=…", and kubeadm's JSON.
# Prints nothing on a host that is not a control plane yet. Changes nothing, asks no API server, and needs no Python.
# q8s.emu.certificates reads the lines.
LC_ALL=C; export LC_ALL
kubeadm=/var/lib/q8s/bin/kubeadm
if [ -e /etc/kubernetes/q8s/initialised ] && [ -x $kubeadm ]; then
    [ ! -e /etc/kubernetes/q8s/restart-due ] || echo restart-due
    echo "now $(date +%s)"
    echo "kubelet $(openssl x509 -noout -enddate -in /var/lib/kubelet/pki/kubelet-client-current.pem 2>/dev/null)"
    # Without a configuration, kubeadm asks the API server.
    printf 'apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: %s\n' "$($kubeadm version --output=short)" |
        $kubeadm certs check-expiration --output=json --config=/dev/stdin
fi
