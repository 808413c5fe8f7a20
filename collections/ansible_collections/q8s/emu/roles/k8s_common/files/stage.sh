# shellcheck shell=sh
# Unpacks a bundle into the folder NEXT/bundle. One that is complete there stays.
# Parameters, as environment variables: ARCHIVE, NEXT, SHA256
set -eu
[ ! -e "$NEXT/.unpacked-$SHA256" ] || exit 0
rm -rf "$NEXT/bundle" "$NEXT"/.unpacked-*
mkdir "$NEXT/bundle"
tar --use-compress-program='zstd -d -T0' --xattrs '--xattrs-include=*' --numeric-owner -xpf "$ARCHIVE" -C "$NEXT/bundle"
: > "$NEXT/.unpacked-$SHA256"
echo unpacked
