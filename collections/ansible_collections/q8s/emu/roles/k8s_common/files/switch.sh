# shellcheck shell=sh
# Gives a node that runs the programs of the bundle in NEXT, restarts containerd and the kubelet, and removes NEXT. Pods go on.
# Prints the time of the restart.
# Parameters, as environment variables: NEXT, ROOT, SHA256
set -eu
cd "$NEXT/bundle"
# One by one, each at once: what runs keeps its file.
find bin cni etc manifest.json -type f | while read -r file; do
    mkdir -p "$ROOT/$(dirname "$file")"
    cp --preserve=mode "$file" "$ROOT/$file.new"
    mv "$ROOT/$file.new" "$ROOT/$file"
done
date --utc +%Y-%m-%dT%H:%M:%SZ
systemctl restart q8s-containerd.service kubelet.service
# The record comes last, so that an interrupted switch is repeated.
: > "$ROOT/.unpacked-$SHA256"
find "$ROOT" -maxdepth 1 -name '.unpacked-*' ! -name ".unpacked-$SHA256" -delete
cd /
rm -rf "$NEXT"
