# shellcheck shell=sh
# Removes the images, kernels and bundles that the guest no longer uses, and what interrupted downloads left (.part). Prints the names.
# What somebody else put there stays.
# Parameters, as environment variables: FOLDER, NAME
set -eu
cd "$FOLDER"
used=$(
    for disk in "$NAME.qcow2" "$NAME-bundle.qcow2"; do
        qemu-img info --force-share "$disk" | sed -n 's/^backing file: \([^ ]*\).*/\1/p'
    done
    sed -n 's/^ *<\(kernel\|initrd\)>\(.*\)<.*/\2/p' "$NAME.xml"
)
find . -maxdepth 1 -type f -regextype posix-extended -regex '\./(root|kernel|initrd|bundle)-[a-z0-9_]+-[0-9a-f]{12}(\.qcow2)?(\.part)?' -printf '%f\n' |
    while read -r file; do
        if ! echo "$used" | sed 's|.*/||' | grep -qxF "$file"; then
            rm "$file"
            echo "$file"
        fi
    done
