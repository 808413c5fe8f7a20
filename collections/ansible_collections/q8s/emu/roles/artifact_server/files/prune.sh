# shellcheck shell=sh
# Removes the artifacts that are not served any more, and prints their names. Other files in the folder stay.
# Parameters, as environment variables: FOLDER, SERVED (words)
set -eu
cd "$FOLDER"
find . -maxdepth 1 -type f -regextype posix-extended \
    -regex '\./(root|kernel|initrd|bundle|control-plane|addon|bench|conformance)-[a-z0-9_-]+-[0-9a-f]{12}(\.qcow2|\.tar\.gz)?' -printf '%f\n' |
    while read -r file; do
        case " $SERVED " in
            *" $file "*) ;;
            *)
                rm "$file"
                echo "$file"
                ;;
        esac
    done
