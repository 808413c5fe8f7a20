# Keeps one machine of the lab: `runner.sh FOLDER`, in a mount namespace of its own, so that the overlay is gone with it.
# Writes run.pid ("pid starttime"), cgroups (those that it made) and generation (counts boots) for q8s_lab/machine.py.
set -u
cd "$1" || exit 3
. ./runner.env
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$PWD/upper,workdir=$PWD/work" root || exit 3

# A cgroup of its own in every hierarchy, below the caller's: without it all machines would share the caller's.
: > cgroups.new
while IFS=: read -r _ controllers path; do
    case $controllers in '') hierarchy=unified ;; name=systemd) hierarchy=systemd ;; *) hierarchy=$controllers ;; esac
    parent=/sys/fs/cgroup/$hierarchy${path%/}
    [ -d "$parent" ] || continue
    group=$parent/$NAME
    mkdir -p "$group" || continue
    echo "$group" >> cgroups.new
    case $hierarchy in
        cpuset)
            cat "$parent/cpuset.cpus" > "$group/cpuset.cpus"
            cat "$parent/cpuset.mems" > "$group/cpuset.mems"
            echo 1 > "$group/cgroup.clone_children" ;;
        memory) echo "$MEMORY" > "$group/memory.limit_in_bytes" ;;
        cpu) [ ! -e "$group/cpu.cfs_quota_us" ] || echo $((VCPUS * 100000)) > "$group/cpu.cfs_quota_us" ;;
    esac
done < /proc/self/cgroup
mv cgroups.new cgroups
while read -r group; do echo "$BASHPID" > "$group/cgroup.procs"; done < cgroups
read -r -a stat < "/proc/$BASHPID/stat"
echo "$BASHPID ${stat[21]}" > run.pid.new
mv run.pid.new run.pid

# systemd-nspawn connects the first network interface to the bridge, but not those of --network-veth-extra.
further=()
for link in $LINKS; do further+=("--network-veth-extra=$link:host$((${#further[@]} + 1))"); done
connect() {
    for link in $LINKS; do
        for _ in {1..300}; do ! ip link set "$link" master "$BRIDGE" up 2> /dev/null || break; sleep 0.1; done
    done
}

export SYSTEMD_NSPAWN_API_VFS_WRITABLE=1
generation=0
while :; do
    generation=$((generation + 1))
    echo $generation > generation.new
    mv generation.new generation
    connect &
    systemd-nspawn --boot --console=read-only --register=no --keep-unit --directory="$PWD/root" --machine="$NAME" --hostname="$HOST" \
        --network-bridge="$BRIDGE" "${further[@]}" --capability=all --system-call-filter='bpf keyctl add_key perf_event_open @memlock' \
        --resolv-conf=off --timezone=off --link-journal=no --bind="$PWD/var:/var" --bind=/dev/kmsg --bind=/dev/net/tun < /dev/null
    code=$?
    # 133: the machine asks for a reboot
    [ $code = 133 ] || break
    # what a kubelet left behind would hold up the next one
    while read -r group; do find "$group" -mindepth 1 -depth -type d -exec rmdir {} +; done < cgroups 2> /dev/null
done
rm -f run.pid
