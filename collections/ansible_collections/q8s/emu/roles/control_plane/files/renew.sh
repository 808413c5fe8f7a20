#!/bin/sh
# Renews the certificates of this control plane, and those in its kubeconfigs. Asks no API server.
# Parameters, as environment variables: NODE (its name in Kubernetes), KUBELET (True: renew the kubelet's client certificate, too)
set -eu
umask 077
kubeadm=/var/lib/q8s/bin/kubeadm
ca=/etc/kubernetes/pki/ca
kubelet=/etc/kubernetes/kubelet.conf
pki=/var/lib/kubelet/pki

# If the run is interrupted before the pods are restarted, the next one restarts them.
touch /etc/kubernetes/q8s/restart-due
# Without a configuration, kubeadm asks the API server.
printf 'apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: %s\n' "$($kubeadm version --output=short)" |
    $kubeadm certs renew all --config=/dev/stdin

# A kubelet renews its own certificate while it runs. One that was off for too long cannot: on a control plane it has no bootstrap token.
if [ "${KUBELET:-}" = True ] && [ -e $kubelet ]; then
    mkdir -p $pki
    new=$pki/kubelet-client-$(date --utc +%Y-%m-%d-%H-%M-%S).pem
    openssl ecparam -genkey -name prime256v1 -noout -out $new.key
    printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\nbasicConstraints=critical,CA:FALSE\n' > $new.ext
    openssl req -new -key $new.key -subj "/O=system:nodes/CN=system:node:$NODE" -out $new.csr
    openssl x509 -req -in $new.csr -CA $ca.crt -CAkey $ca.key -set_serial "0x$(openssl rand -hex 8)" -days 365 -extfile $new.ext -out $new.crt 2>/dev/null
    cat $new.crt $new.key > $new
    rm $new.key $new.ext $new.csr $new.crt
    ln -sfn $new $pki/kubelet-client-current.pem
    # An interrupted kubeadm init leaves the first certificate in the kubeconfig itself.
    sed -i -e "s|client-certificate-data: .*|client-certificate: $pki/kubelet-client-current.pem|" \
        -e "s|client-key-data: .*|client-key: $pki/kubelet-client-current.pem|" $kubelet
    echo "certificate for the kubelet renewed"
fi
