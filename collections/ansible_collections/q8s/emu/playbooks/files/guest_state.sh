# shellcheck shell=sh
# Prints how a worker's host has its guest: what `virsh domstate --reason` prints, then one fact a line. Changes nothing. Exit code: virsh's.
#   now SECONDS, started SECONDS    Unix time; libvirt writes the file when it starts the guest
#   qemu                            the guest's process runs, perhaps without libvirt
#   definition is missing           libvirt would forget the guest when it ends
#   autostart is off                libvirt would not start the guest at the host's boot
#   network is cut                  the guest runs, and its network interface is in no bridge
#   kubelet refuses                 the guest answers, and nobody on the kubelet's port
# Parameters, as environment variables: NAME and ADDRESS of the guest
virsh --connect qemu:///system domstate --reason "$NAME"
code=$?
date +'now %s'
date --reference="/run/libvirt/qemu/$NAME.pid" +'started %s' 2>/dev/null
if pgrep --full "[g]uest=$NAME," >/dev/null 2>&1; then echo qemu; fi
if [ $code = 0 ]; then
    [ -e "/etc/libvirt/qemu/$NAME.xml" ] || echo "definition is missing"
    [ -e "/etc/libvirt/qemu/autostart/$NAME.xml" ] || echo "autostart is off"
fi
if [ -e "/run/libvirt/qemu/$NAME.pid" ]; then
    tap=$(sed -n "s/.*<target dev='\(vnet[0-9]*\)'\/>.*/\1/p" "/run/libvirt/qemu/$NAME.xml" 2>/dev/null)
    if [ -n "$tap" ] && [ ! -e "/sys/class/net/$tap/master" ]; then echo "network is cut"; fi
    case $(LC_ALL=C timeout 1 bash -c ": < /dev/tcp/$ADDRESS/10250" 2>&1) in
        *"Connection refused"*) echo "kubelet refuses" ;;
    esac
fi
exit $code
