#!/bin/sh
# Makes the API server's certificate again, with the names that it has and those of NAMES, and restarts the API server.
# Parameters, as environment variables: NAMES, ADDRESS (the API server's), SERVICES (the range of Services' addresses)
set -eu
pki=/etc/kubernetes/pki
for file in $pki/apiserver.crt $pki/apiserver.crt.old; do
    if [ -e "$file" ]; then break; fi
done
present=$(openssl x509 -in "$file" -noout -ext subjectAltName 2>/dev/null | tr ',' '\n' | sed -n 's/^ *\(DNS\|IP Address\)://p' || true)
# kubeadm leaves a certificate that is there as it is. The key is new, too; a run after an interrupted one reads the names of the old certificate.
for file in apiserver.crt apiserver.key; do
    if [ -e $pki/$file ]; then mv $pki/$file $pki/$file.old; fi
done
# shellcheck disable=SC2086 # words
if ! kubeadm init phase certs apiserver --kubernetes-version="$(kubeadm version --output=short)" --apiserver-advertise-address="$ADDRESS" \
    --service-cidr="$SERVICES" --apiserver-cert-extra-sans="$(echo $present $NAMES | tr ' ' ',')"; then
    for file in apiserver.crt apiserver.key; do mv $pki/$file.old $pki/$file; done
    exit 1
fi
rm -f $pki/apiserver.crt.old $pki/apiserver.key.old
