# shellcheck shell=sh
# Prints what of Q8S is not in force on this host, one finding a line; nothing where all is well. Changes nothing.
#   rules TEXT                  what q8s-rules --check says
#   unit NAME ACTIVE ENABLED    a unit that is not active, or not enabled, in systemd's words; "missing" for both where there is none
# Parameters, as environment variables: UNITS (words)
if [ -x /usr/local/sbin/q8s-rules ]; then
    /usr/local/sbin/q8s-rules --check | sed 's/^/rules /'
else
    echo "rules q8s-rules is not installed"
fi
# Where several API servers are, the rules lead the guest to a proxy.
if grep -qse '-i virbr0 .* --dport 6443 ' /etc/q8s/iptables.rules; then UNITS="$UNITS haproxy.service"; fi
# shellcheck disable=SC2086 # words
systemctl show --property=Id,LoadState,ActiveState,UnitFileState $UNITS | awk -F= '
    function tell() {
        if (name == "") return
        if (load == "not-found") { active = "missing"; enabled = "missing" }
        # one that starts or reloads is on its way
        well = active == "active" || active == "activating" || active == "reloading"
        if (!well || enabled != "enabled") print "unit", name, active, enabled == "" ? "unknown" : enabled
        name = ""; load = ""; active = ""; enabled = ""
    }
    $1 == "Id" { name = $2 }
    $1 == "LoadState" { load = $2 }
    $1 == "ActiveState" { active = $2 }
    $1 == "UnitFileState" { enabled = $2 }
    NF == 0 { tell() }
    END { tell() }'
