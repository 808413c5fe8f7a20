#!/bin/sh
# Renews the certificates of kubeadm on this control plane, except those of the CAs, and the client certificate of its kubelet. They keep their names.
# Parameter, as environment variable: NODE (name of the control plane's node)
set -eu
umask 077
ca=/etc/kubernetes/pki/ca
kubelet=/var/lib/kubelet/pki
conf=/etc/kubernetes/kubelet.conf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# kubeadm would ask the API server for its configuration, which does not answer where its certificates have ended.
printf 'apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: %s\n' "$(kubeadm version --output=short)" > "$work/config"
kubeadm certs renew all --config="$work/config"

# kubeadm leaves this one to the kubelet, which asks the API server for a new one in time. A kubelet whose certificate ended while the server was
# switched off does not start, and without it no API server.
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$work/key"
printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n' > "$work/extensions"
openssl req -new -key "$work/key" -subj "/O=system:nodes/CN=system:node:$NODE" -out "$work/request"
openssl x509 -req -in "$work/request" -CA $ca.crt -CAkey $ca.key -set_serial "0x1$(openssl rand -hex 8)" -days 365 -extfile "$work/extensions" \
    -out "$work/certificate" 2> "$work/errors" || { cat "$work/errors" >&2; exit 1; }
# As the kubelet keeps it: it renews only what a symbolic link leads to.
name=kubelet-client-$(date +%Y-%m-%d-%H-%M-%S).pem
mkdir -p "$kubelet"
cat "$work/certificate" "$work/key" > "$kubelet/$name.new"
sync "$kubelet/$name.new"
mv "$kubelet/$name.new" "$kubelet/$name"
ln -sfn "$kubelet/$name" "$kubelet/kubelet-client-new"
mv -T "$kubelet/kubelet-client-new" "$kubelet/kubelet-client-current.pem"
# kubeadm init wrote the first certificate into this file, and leads it to the link only if the kubelet has had another one by then.
if grep -q 'client-certificate-data:' "$conf"; then
    sed -i "s|client-certificate-data:.*|client-certificate: $kubelet/kubelet-client-current.pem|
        s|client-key-data:.*|client-key: $kubelet/kubelet-client-current.pem|" "$conf"
fi
# A kubelet waits up to five minutes before it starts a program again that failed often, as with certificates that have ended.
systemctl restart kubelet.service
