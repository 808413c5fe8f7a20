# shellcheck shell=sh
# Prints what decides how this host becomes a worker host, one word or "key value" a line. Changes nothing.
# Parameters, as environment variables: PACKAGES (words), RESOLV_CONF (resolv_conf.sh)

# shellcheck disable=SC2086 # words
installed=$(dpkg-query --show --showformat='${db:Status-Status}\n' $PACKAGES 2>/dev/null | grep -c '^installed$')
if [ "$installed" = "$(echo $PACKAGES | wc -w)" ]; then echo packages; fi
# Without dnsmasq, libvirtd 9.0 crashes when it starts with an active network (seen with 9.0.0-4+deb12u2).
# shellcheck source=/dev/null
. /etc/os-release
case "$ID $VERSION_ID" in "debian 12" | "ubuntu 22.04") [ -x /usr/sbin/dnsmasq ] || echo dnsmasq ;; esac
sed -n 's/^-A Q8S_PRE -i virbr0 -d \([0-9.]*\) -p tcp --dport 6443 .*/api-server \1/p' /etc/q8s/iptables.rules 2>/dev/null
# libvirt has one daemon, libvirtd, or one for each driver.
if ! systemctl --quiet is-active libvirtd.service 2>/dev/null; then
    if systemctl --quiet is-active virtqemud.service 2>/dev/null; then
        echo "libvirt modular"
    elif [ "$(systemctl show --property=LoadState --value libvirtd.service 2>/dev/null)" = not-found ]; then
        echo "libvirt missing"
    fi
fi
if [ -z "$(sh -c "$RESOLV_CONF")" ]; then echo own-name-server; fi

# q8s.emu.forward_drops reads these lines.
for action in is-active is-enabled; do
    if systemctl --quiet $action firewalld.service 2>/dev/null; then echo "unit firewalld"; break; fi
done
if command -v nft > /dev/null; then echo "nftables $(nft --json --stateless --terse list ruleset 2>/dev/null)"; fi
# iptables-legacy creates a table when it is asked for it. Where iptables is iptables-legacy, the rules of Q8S are ahead of the others.
if grep -qs '^filter$' /proc/net/ip_tables_names; then
    case $(iptables --version) in
        *nf_tables*)
            for chain in INPUT FORWARD; do iptables-legacy --list-rules $chain 2>/dev/null; done | sed 's/^/iptables-legacy /' ;;
    esac
fi
exit 0
