#!/bin/busybox sh
# The first process of the virtual machine: see run.sh. Makes a small root filesystem, starts an
# agent, and checks its claims.
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

start_agent() {
    contid --listen unix:///run/contid.sock --state-dir /run/state --data-dir /run/data >>/tmp/log 2>&1 &
    agent=$!
    for _ in $(seq 100); do
        contictl info >/dev/null 2>&1 && break
        sleep 0.1
    done
}

echo "== Linux $(uname -r), cgroup version 2 alone, root on an initramfs"
export CONTI_HOST=unix:///run/contid.sock
start_agent
contictl info | grep -E '^Cgroups|^device_policy|^prepared_slots'
claim "a container on the host's root runs" '=0' contictl run --rm -- true
contictl run -d --name a --rootfs dir:/rootfs --overlay -- \
    sh -c 'until [ -e /tmp/go ]; do sleep 0.1; done; exec tail /dev/zero' >/dev/null
cgroup=$(grep -l . /sys/fs/cgroup/conti-*/*/cgroup.procs | head -n 1)
cgroup=${cgroup%/cgroup.procs}
claim "one on a directory under an overlay too, in a cgroup of its own" '0::/
=0' contictl exec a -- cat /proc/self/cgroup
claim "it has every controller" 'cpu io memory pids
=0' sh -c "cat $cgroup/cgroup.controllers | tr ' ' '\n' | grep -E '^(cpu|io|memory|pids)\$' | xargs"
claim "devices beyond the policy do not open, not even with a node" '=1' \
    contictl exec a -- sh -c 'mknod /tmp/kmem c 1 1; cat /tmp/kmem 2>/dev/null'
claim "those within it do" '=0' contictl exec a -- sh -c 'echo lost >/dev/null'
echo 33554432 >"$cgroup/memory.max"
claim "an exec that takes too much memory is told so" \
    "contictl: the kernel's out-of-memory killer ended the command
=137" env NO_COLOR=1 contictl exec a -- tail /dev/zero
claim "and ends alone" '=0' contictl exec a -- touch /tmp/go
claim "so is a main process" '=0' \
    sh -c 'contictl wait a >/dev/null 2>&1; contictl ps -a | grep -q "out of memory"'
contictl run -d --name b --rootfs dir:/rootfs -- sleep 1000 >/dev/null
kill -9 "$agent"
wait "$agent" 2>/dev/null
start_agent
claim "a container outlives its agent" 'still here
=0' contictl exec b -- echo 'still here'
contictl exec -d b -- sh -c 'sleep 1000 & sleep 1000' >/dev/null
claim "it is removed with all that runs in it" '=0' contictl rm -f b
claim "the other too" '=0' contictl rm -f a
claim "and nothing sleeps any more" '=1' pidof sleep
kill -TERM "$agent"
wait "$agent" 2>/dev/null
sleep 1
claim "no process is left in any of its cgroups" '=0' \
    sh -c 'cat /sys/fs/cgroup/conti-*/cgroup.procs /sys/fs/cgroup/conti-*/*/cgroup.procs 2>/dev/null; true'

if [ "$failed" = 0 ]; then
    echo 'Every claim held.'
else
    echo 'A claim did not hold. The log of the agent:'
    cat /tmp/log
fi
poweroff -f
