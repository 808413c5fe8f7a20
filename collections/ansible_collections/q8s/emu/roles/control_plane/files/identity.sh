#!/bin/sh
# Makes what is missing of a cluster's identity, each part in one step, and prints all of it as JSON.
set -eu
umask 077
pki=/etc/kubernetes/pki
own=/etc/kubernetes/q8s
changed=false
mkdir -p $pki $own

if [ ! -s $pki/ca.crt ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=kubernetes \
        -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign -addext subjectAltName=DNS:kubernetes \
        -keyout $pki/ca.key -out $pki/ca.crt.new 2>/dev/null
    mv $pki/ca.crt.new $pki/ca.crt
    changed=true
fi
if [ ! -s $own/bootstrap-token ]; then
    # the form that kubeadm asks for: [a-z0-9]{6}.[a-z0-9]{16}
    hex=$(openssl rand -hex 11)
    printf '%s.%s' "$(printf %s "$hex" | cut -c1-6)" "$(printf %s "$hex" | cut -c7-22)" > $own/bootstrap-token.new
    mv $own/bootstrap-token.new $own/bootstrap-token
    changed=true
fi
if [ ! -s $own/certificate-key ]; then
    openssl rand -hex 32 | tr -d '\n' > $own/certificate-key.new
    mv $own/certificate-key.new $own/certificate-key
    changed=true
fi

hash=$(openssl x509 -in $pki/ca.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum | cut -d' ' -f1)
printf '{"changed": %s, "ca": "%s", "ca_hash": "%s", "token": "%s", "certificate_key": "%s"}\n' \
    $changed "$(base64 -w0 $pki/ca.crt)" "$hash" "$(cat $own/bootstrap-token)" "$(cat $own/certificate-key)"
