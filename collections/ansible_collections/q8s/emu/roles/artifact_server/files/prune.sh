# shellcheck shell=sh
# Removes the artifacts that are not served any more, and what uploads of them left (.part). Prints the names. Other files stay.
# Parameters, as environment variables: FOLDER, SERVED (words)
set -eu
cd "$FOLDER"
find . -maxdepth 1 -type f -regextype posix-extended \
    -regex '\./(root|kernel|initrd|bundle|control-plane|addon|bench|conformance)-[a-z0-9_-]+-[0-9a-f]{12}(\.qcow2|\.tar\.gz)?(\.part)?' -printf '%f\n' |
    while read -r file; do
        case " $SERVED " in
            *" ${file%.part} "*) ;; # it is served, or will be when its upload has ended
            *)
                rm "$file"
                echo "$file"
                ;;
        esac
    done
