#!/bin/sh
# Creates what is missing of a cluster's identity, each part in one step, and prints all of it as JSON.
# With CHECK=True it creates nothing, and what is missing is empty.
# The bootstrap token is created where a node joins (JOINS=True), and removed by revoke.sh.
set -eu
umask 077
pki=/etc/kubernetes/pki
own=/etc/kubernetes/q8s
changed=false

missing() {
    [ ! -s "$1" ] || return 1
    changed=true
    [ "${CHECK:-}" != True ]
}

if missing $pki/ca.crt; then
    mkdir -p $pki
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=kubernetes \
        -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign -addext subjectAltName=DNS:kubernetes \
        -keyout $pki/ca.key -out $pki/ca.crt.new 2>/dev/null
    mv $pki/ca.crt.new $pki/ca.crt
fi
# A run that was interrupted left its token, which guests may have. Kubernetes forgets it after a day.
old=$(find $own/bootstrap-token -mmin +1380 2>/dev/null || true)
if [ "${JOINS:-}" = True ] && { [ -n "$old" ] || [ ! -s $own/bootstrap-token ]; }; then
    changed=true
    create=true
fi
if [ "${create:-}" = true ] && [ "${CHECK:-}" != True ]; then
    old=
    mkdir -p $own
    # the form that kubeadm asks for: [a-z0-9]{6}.[a-z0-9]{16}
    hex=$(openssl rand -hex 11)
    printf '%s.%s' "$(printf %s "$hex" | cut -c1-6)" "$(printf %s "$hex" | cut -c7-22)" > $own/bootstrap-token.new
    mv $own/bootstrap-token.new $own/bootstrap-token
fi
if missing $own/certificate-key; then
    mkdir -p $own
    openssl rand -hex 32 | tr -d '\n' > $own/certificate-key.new
    mv $own/certificate-key.new $own/certificate-key
fi

show() { [ ! -s "$1" ] || cat "$1"; }
token=
if [ -z "$old" ]; then token=$(show $own/bootstrap-token); fi
hash=
if [ -s $pki/ca.crt ]; then
    hash=$(openssl x509 -in $pki/ca.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum | cut -d' ' -f1)
fi
printf '{"changed": %s, "ca": "%s", "ca_hash": "%s", "token": "%s", "certificate_key": "%s"}\n' \
    $changed "$(show $pki/ca.crt | base64 -w0)" "$hash" "$token" "$(show $own/certificate-key)"
