# shellcheck shell=sh
# The links of the guest's next boot, those in force, its files' checksum, and how many netems it has: a line each.
for f in /etc/q8s/links.json /run/q8s/links.json; do base64 --wrap=0 $f 2>/dev/null || :; echo; done
cat /usr/local/sbin/q8s-links /etc/systemd/system/q8s-links.service 2>/dev/null | sha256sum
tc qdisc show | grep -c '^qdisc netem' || :
