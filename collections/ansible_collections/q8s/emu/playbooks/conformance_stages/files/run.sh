#!/bin/sh
# run.sh FOLDER TAINTS: run the tests of each NUMBER.focus in a folder at the same time, and wait for no node that has one of
# these taints, keys with commas between them. Each process writes NUMBER/junit_01.xml and NUMBER.log.
# The controller touches the file `asked` as long as it waits. When it has not for two minutes, all processes are stopped.
set -eu
cd "$1"
pids=
for focus in *.focus; do
    number=${focus%.focus}
    ../e2e.test --kubeconfig=/etc/kubernetes/admin.conf --kubectl-path=/var/lib/q8s/bin/kubectl --provider=skeleton \
        --node-os-distro=debian --disable-log-dump --non-blocking-taints="$2" \
        --ginkgo.no-color --ginkgo.silence-skips --ginkgo.timeout=2h --ginkgo.focus="$(cat "$focus")" \
        --report-dir="$PWD/$number" >"$number.log" 2>&1 &
    pids="$pids $!"
done
main=$$
(
    while sleep 5; do
        [ $(($(date +%s) - $(stat -c %Y asked))) -lt 120 ] || kill "$main"
    done
) &
watch=$!
for pid in $pids; do
    wait "$pid" || true
done
kill "$watch"
