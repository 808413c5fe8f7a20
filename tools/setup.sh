#!/usr/bin/env bash
# make setup: everything that Q8S, its lab and its tests need on this machine. Quick when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# as in q8s_bundle/cache.py
case ${XDG_CACHE_HOME:-} in /*) cache=$XDG_CACHE_HOME/q8s ;; *) cache=$HOME/.cache/q8s ;; esac
cache=${Q8S_CACHE:-$cache}
uv_version=$(sed -n '/"uv==/{s/.*"uv==\([0-9.]*\)".*/\1/p;q}' pyproject.toml)
uv=$cache/uv-$uv_version/bin/uv

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'Failed to set up: %s\n' "$1" >&2; [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2; exit 1; }

# Debian packages, each with its reason in packages.txt
mapfile -t wanted < <(sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' tools/packages.txt q8s_lab/packages.txt q8s_bundle/packages.txt | sort -u)
missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || die "Debian packages are missing: ${missing[*]}" "run as root: apt-get install ${missing[*]}"
    say "installing ${#missing[@]} Debian packages: ${missing[*]}"
    apt-get update -qq || say "apt-get update had errors; continuing with the existing lists"
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
        || die "apt-get could not install ${missing[*]}"
fi

# Python 3.13 and the locked environment. Debian 12 has no Python 3.13: there, uv downloads one.
is_wanted() { [ -x "$1" ] && "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; }
python=
for candidate in "$(command -v pyenv >/dev/null && pyenv root)"/versions/3.13*/bin/python3 "$(command -v python3.13 || true)"; do
    if is_wanted "$candidate"; then python=$candidate; break; fi
done
if [ ! -x "$uv" ]; then
    say "installing uv $uv_version"
    # uv, which checks the hashes of all that it installs, is one of them. It is no Python package: an older Python's pip will do.
    locked=$(sed -n "/^uv==$uv_version /,/[^\\\\]$/p" requirements.lock)
    if [ -z "$python" ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        [ "$(id -u)" = 0 ] || die "no Python 3.13 on this machine, nor python3-venv to install uv with" "run as root: apt-get install python3-venv"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null || die "apt-get could not install python3-venv"
    fi
    "${python:-python3}" -m venv "$cache/uv-$uv_version"
    "$cache/uv-$uv_version/bin/pip" install -q --require-hashes --requirement /dev/stdin <<< "$locked" || die "pip could not install uv $uv_version"
fi
if [ -z "$python" ]; then
    find_managed() { "$uv" python find --managed-python --no-python-downloads 3.13 2>/dev/null || true; }
    python=$(find_managed)
    if ! is_wanted "$python"; then
        say "downloading Python 3.13, which this machine does not have"
        ways="install one (pyenv install 3.13, or your distribution's python3.13), or set UV_PYTHON_INSTALL_MIRROR to a mirror of python-build-standalone's"
        "$uv" python install --no-progress 3.13 || die "no Python 3.13 on this machine, and uv could not download it" "$ways releases; then run make setup again"
        python=$(find_managed)
        is_wanted "$python" || die "the Python 3.13 that uv downloaded does not start"
    fi
fi
stamp=$(cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)-$("$python" -c 'import sys; print(sys.version_info[:3])')
if [ "$(cat .venv/.q8s-stamp 2>/dev/null)" != "$stamp" ]; then
    say "creating .venv (Python $("$python" -c 'import platform; print(platform.python_version())'))"
    [ -x .venv/bin/python ] || "$uv" venv -q --python "$python" .venv
    "$uv" pip sync -q --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock || die "uv could not install the locked packages"
    # the project itself, from this checkout: no build isolation, so that nothing but the lock decides what is installed
    "$uv" pip install -q --python .venv/bin/python --no-deps --no-build-isolation --editable . || die "uv could not install the project"
    echo "$stamp" > .venv/.q8s-stamp
fi
# A Go toolchain, which builds what nodes run: one of this machine, else fetched from the Go module proxy into the cache.
# Where GOPROXY is not set, Debian's Go, however old, knows Go's own proxy.
if ! go=$(.venv/bin/python tools/go_toolchain.py 2>&1 >/dev/null); then
    [ "$(id -u)" = 0 ] || die "${go#error: }"
    say "installing Debian's Go, for the Go module proxy that it knows"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends golang-go >/dev/null || die "apt-get could not install golang-go"
    .venv/bin/python tools/go_toolchain.py >/dev/null || die "there is no Go toolchain"
fi
say "ready"
