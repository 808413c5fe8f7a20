#!/bin/sh
# Restarts parts of this control plane one after the other, each when the one before runs again, and waits until the API server is ready.
# crictl gives up after 2 s by itself, which is little for a machine that is busy.
# Parameters, as environment variables: PARTS (container names of static pods), ADDRESS (the API server's), SECONDS_TO_WAIT
set -eu
# /etc/crictl.yaml may be a user's own.
ask() { crictl --config /var/lib/q8s/etc/crictl.yaml --timeout 30s "$@"; }
running() { ask ps --quiet --label "io.kubernetes.container.name=$1"; }
deadline=$(($(date +%s) + SECONDS_TO_WAIT))
until_true() {
    what=$1
    shift
    until "$@" > /dev/null 2>&1; do
        if [ "$(date +%s)" -gt $deadline ]; then
            echo "$what does not run $SECONDS_TO_WAIT s after its certificate was renewed" >&2
            exit 1
        fi
        sleep 1
    done
}
other() { found=$(running "$1") && [ -n "$found" ] && [ "$found" != "$2" ]; }
ready() { kubectl --kubeconfig=/etc/kubernetes/admin.conf --server="https://$ADDRESS:6443" --request-timeout=5s get --raw /readyz; }
for part in $PARTS; do
    before=$(running "$part")
    # shellcheck disable=SC2086 # words
    if [ -n "$before" ]; then ask stop --timeout=20 $before > /dev/null; fi
    until_true "$part" other "$part" "$before"
    if [ "$part" = kube-apiserver ]; then until_true "the API server" ready; fi
done
