# shellcheck shell=sh
# Gives a guest that runs the name servers and the MTU that it would boot with. Prints what has changed, one word a line: servers, mtu.
# Parameters, as environment variables: RESOLV_CONF (the text of /etc/resolv.conf, in Base64), MAC and MTU (of the guest's interface)
set -eu
if [ "$(base64 --wrap=0 /etc/resolv.conf 2>/dev/null)" != "$RESOLV_CONF" ]; then
    echo "$RESOLV_CONF" | base64 --decode > /etc/resolv.conf
    echo servers
fi
for link in /sys/class/net/*; do
    if [ "$(cat "$link/address")" = "$MAC" ] && [ "$(cat "$link/mtu")" != "$MTU" ]; then
        ip link set dev "${link##*/}" mtu "$MTU"
        echo mtu
    fi
done
