#!/bin/busybox sh
# The first process of the virtual machine: see run.sh. Makes a small root filesystem, and checks what is claimed in
# /claims, one file after the other.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
ifconfig lo up
insmod /lib/overlay.ko
echo 'root:x:0:0::/root:/bin/sh' >/etc/passwd
echo 'root:x:0:' >/etc/group
mkdir -p /rootfs/bin /rootfs/proc /rootfs/dev /rootfs/sys /rootfs/tmp /rootfs/etc
cp /bin/busybox /rootfs/bin
for name in sh sleep cat tail true echo ls mknod touch; do ln -s busybox "/rootfs/bin/$name"; done

failed=0
data=/run/data

# claim TEXT EXPECTED COMMAND...: the command's output, and its exit code behind it.
claim() {
    text=$1 expected=$2
    shift 2
    found=$(timeout 60 "$@" 2>&1 </dev/null; echo "=$?")
    if [ "$found" = "$expected" ]; then
        echo "  ok: $text"
    else
        echo "  NOT TRUE: $text: wanted $expected, not $found"
        failed=1
    fi
}

# start_agent ARGUMENT...: beside those that it always has.
start_agent() {
    contid --listen unix:///run/contid.sock --state-dir /run/state --data-dir "$data" --audit-log /run/audit/audit.jsonl "$@" >>/tmp/log 2>&1 &
    agent=$!
    for _ in $(seq 100); do
        contictl --host unix:///run/contid.sock info >/dev/null 2>&1 && break
        sleep 0.1
    done
}

stop_agent() {
    kill -TERM "$agent"
    wait "$agent" 2>/dev/null
    # What was killed may take a moment.
    claim "no process is left in any of its cgroups" '=0' sh -c 'for _ in $(seq 300); do
            left=$(cat /sys/fs/cgroup/conti-*/cgroup.procs /sys/fs/cgroup/conti-*/*/cgroup.procs 2>/dev/null)
            [ -n "$left" ] || exit 0
            sleep 0.1
        done; echo "$left"; exit 1'
}

# What the files of claims share: where the agent is, and what is made while they run.
export CONTI_HOST=unix:///run/contid.sock
echo "== Linux $(uname -r)"
for part in cgroups own-ids vsock; do
    # shellcheck source=/dev/null
    [ ! -e "/claims/$part.sh" ] || . "/claims/$part.sh"
done

if [ "$failed" = 0 ]; then
    echo 'Every claim held.'
else
    echo 'A claim did not hold. The log of the agent:'
    cat /tmp/log
fi
poweroff -f
