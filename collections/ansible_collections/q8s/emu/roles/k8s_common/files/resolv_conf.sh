# shellcheck shell=sh
# Prints the file with the name servers that pods and guests ask, which are this host's. A stub on loopback (of systemd-resolved, NetworkManager, dnsmasq
# or unbound) is no such server: a guest does not reach it, and CoreDNS would send its own questions to itself in a circle. Nor is one of IPv6, which
# guests and pods do not have. Prints an empty line if there are only such.
servers() { sed -n 's/^[[:space:]]*nameserver[[:space:]][[:space:]]*//p' "$1" 2>/dev/null; }
usable() { servers "$1" | grep -qv -e '^127\.' -e ':'; }
found=
if [ -z "$(servers /etc/resolv.conf)" ]; then found=/etc/resolv.conf; fi
if usable /etc/resolv.conf && ! servers /etc/resolv.conf | grep -q -e '^127\.' -e '^::1'; then found=/etc/resolv.conf; fi
for file in /run/systemd/resolve/resolv.conf /run/NetworkManager/no-stub-resolv.conf /etc/resolv.conf; do
    if [ -z "$found" ] && usable "$file"; then found=$file; fi
done
echo "$found"
