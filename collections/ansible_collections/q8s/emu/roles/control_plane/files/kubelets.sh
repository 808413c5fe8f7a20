#!/bin/sh
# Prints what the kubelets of NODES (NAME=ADDRESS ...) serve:
#   now SECONDS           the time, as Unix time
#   ends SECONDS NAME     when its certificate ends, which the cluster's CA has signed for its name and address
#   other NAME            its certificate is another one, such as one of its own
#   without NAME          it answers, and has no certificate yet
#   silent NAME           it does not answer
# Parameters, as environment variables: NODES, SECONDS_TO_ANSWER (for each, default 10), SECONDS_TO_WAIT (for those that are
# without a certificate; 60 s at most for those that are silent; default 0: each is asked once)
set -u
export LC_ALL=C
export CA="${ROOT:-}/etc/kubernetes/pki/ca.crt"
begin=$(date +%s)
date +'now %s'
# In quotes: Ansible's command module puts the value here.
left="$NODES"
while :; do
    # shellcheck disable=SC2016 # for the other shell
    answers=$(echo "$left" | tr ' ' '\n' | xargs -r -n 1 -P 32 sh -c '
        name=${1%%=*} address=${1#*=}
        answer=$(timeout "${SECONDS_TO_ANSWER:-10}" openssl s_client -connect "$address:10250" -CAfile "$CA" \
            -verify_hostname "$name" -verify_ip "$address" < /dev/null 2> /dev/null)
        end=$(echo "$answer" | openssl x509 -noout -enddate 2> /dev/null)
        if [ -z "$end" ]; then
            if echo "$answer" | grep -q "^CONNECTED("; then echo "without $1"; else echo "silent $1"; fi
        elif echo "$answer" | grep -qxE "Verification: OK|Verification error: certificate has expired"; then
            echo "ends $(date --date="${end#notAfter=}" +%s) $name"
        else
            echo "other $name"
        fi' sh)
    echo "$answers" | grep -E '^(ends|other) '
    rest=$(echo "$answers" | grep -E '^(without|silent) ')
    left=$(echo "$rest" | cut -d ' ' -f 2)
    elapsed=$(($(date +%s) - begin))
    if [ -z "$rest" ] || [ $elapsed -ge "${SECONDS_TO_WAIT:-0}" ]; then break; fi
    if [ $elapsed -ge 60 ] && ! echo "$rest" | grep -q '^without '; then break; fi
    sleep 2
done
if [ -n "$rest" ]; then echo "$rest" | cut -d = -f 1; fi
