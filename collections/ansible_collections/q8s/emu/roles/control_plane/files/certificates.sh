#!/bin/sh
# Prints what there is to know of this control plane's certificates:
#   now SECONDS           the time, as Unix time
#   ends SECONDS NAME     when a certificate ends that renew.sh renews (not those of the CAs)
#   lacks NAME            which of NAMES (environment variable) the API server's certificate does not have
set -u
pki=${ROOT:-}/etc/kubernetes/pki
ends() {
    date=$(openssl x509 -noout -enddate 2>/dev/null) || return 0
    echo "ends $(date --date="${date#notAfter=}" +%s) $1"
}
date +'now %s'
for path in "$pki"/*.crt "$pki"/etcd/*.crt; do
    case $path in */ca.crt | */front-proxy-ca.crt) continue ;; esac
    name=${path#"$pki/"}
    if [ -e "$path" ]; then ends "${name%.crt}" < "$path"; fi
done
for name in admin super-admin controller-manager scheduler; do
    conf=${ROOT:-}/etc/kubernetes/$name.conf
    if [ -e "$conf" ]; then sed -n 's/^ *client-certificate-data: *//p' "$conf" | base64 -d | ends "$name.conf"; fi
done
# The kubelet renews it, unless it is switched off for too long.
client=${ROOT:-}/var/lib/kubelet/pki/kubelet-client-current.pem
if [ -e "$client" ]; then ends kubelet-client < "$client"; fi
has=$(openssl x509 -in "$pki/apiserver.crt" -noout -ext subjectAltName 2>/dev/null | tr ',' '\n' | sed -n 's/^ *\(DNS\|IP Address\)://p')
for name in ${NAMES:-}; do
    echo "$has" | grep -qxF -e "$name" || echo "lacks $name"
done
