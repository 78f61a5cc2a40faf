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
    sleep 1
    claim "no process is left in any of its cgroups" '=0' \
        sh -c 'cat /sys/fs/cgroup/conti-*/cgroup.procs /sys/fs/cgroup/conti-*/*/cgroup.procs 2>/dev/null; true'
}

echo "== Linux $(uname -r), cgroup version 2 alone, root on an initramfs"
export CONTI_HOST=unix:///run/contid.sock
start_agent
contictl info | grep -E '^Cgroups|^device_policy|^prepared_slots|^user_namespaces'
claim "a container on the host's root runs" '=0' contictl run --rm -- true
contictl run -d --name a --rootfs dir:/rootfs --overlay -- \
    sh -c 'until [ -e /tmp/go ]; do sleep 0.1; done; exec tail /dev/zero' >/dev/null
cgroup=$(grep -l . /sys/fs/cgroup/conti-*/*/cgroup.procs | head -n 1)
cgroup=${cgroup%/cgroup.procs}
claim "one on a directory under an overlay too, in a cgroup of its own" '0::/
=0' contictl exec a -- cat /proc/self/cgroup
claim "it has every controller" 'cpu io memory pids
=0' sh -c "cat $cgroup/cgroup.controllers | tr ' ' '\n' | grep -E '^(cpu|io|memory|pids)\$' | xargs"
claim "a container that joins its pid namespace shares its proc" '=0' \
    contictl run --rm --rootfs dir:/rootfs --overlay --ns pid=container:a -- sh -c 'test -e /proc/1 -a $$ -gt 1'
claim "and cannot write to the kernel by it" '=1' \
    contictl run --rm --rootfs dir:/rootfs --overlay --ns pid=container:a -- sh -c '(echo 1 >/proc/sys/kernel/panic) 2>/dev/null'
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
stop_agent

echo "== user namespaces, with programs and layers on a disk: a tmpfs takes no id map here"
insmod /lib/loop.ko
dd if=/dev/zero of=/disk.img bs=1M count=96 2>/dev/null
losetup /dev/loop0 /disk.img
mke2fs /dev/loop0 >/dev/null 2>&1
mkdir /disk
mount -t ext4 /dev/loop0 /disk
mkdir /disk/data /disk/shared
cp -a /bin /lib /rootfs /disk/
for name in bin lib; do mount --bind "/disk/$name" "/$name"; done
data=/disk/data
start_agent
contictl info | grep -E '^user_namespaces'
for root in "" "--rootfs dir:/disk/rootfs" "--rootfs dir:/disk/rootfs --overlay"; do
    claim "a container has ids of its own (${root:-the default root})" '0 65536
=0' contictl run --rm $root -- sh -c 'set -- $(cat /proc/self/uid_map); test "$2" -ge 1000000 && echo "$1 $3"'
done
contictl run -d --name u -v /disk/shared:/shared --mount type=tmpfs,dst=/memory -- sleep 1000 >/dev/null
claim "files in its layer are its own" '0 0
=0' contictl exec u -- sh -c 'touch /bin/mine && mkdir /etc/mine && stat -c "%u %g" /bin/mine'
claim "what it binds keeps its owners on both sides" '0 0
=0' sh -c 'contictl exec u -- touch /shared/new && stat -c "%u %g" /disk/shared/new'
claim "it has a tmpfs, devices, and proc" '=0' \
    contictl exec u -- sh -c 'touch /memory/x /dev/shm/x && echo x >/dev/null && test -e /proc/1/maps'
pid=$(contictl inspect u | grep -oE '"pid": *[0-9]+' | head -n 1 | grep -oE '[0-9]+')
claim "its root is nobody outside" '=0' sh -c "test \$(awk '/^Uid/ {print \$2}' /proc/$pid/status) -ge 1000000"
mkdir /disk/more
claim "what is mounted into it keeps its owners too" '0
=0' sh -c 'contictl mount u /disk/more:/more --mkdir >/dev/null && contictl exec u -- stat -c %u /more'
kill -9 "$agent"
wait "$agent" 2>/dev/null
start_agent
claim "it outlives its agent" '0 0
=0' contictl exec u -- stat -c "%u %g" /bin/mine
claim "and is started again" '0 0
=0' sh -c 'contictl stop -t 0 u >/dev/null 2>&1; contictl start u >/dev/null && contictl exec u -- stat -c "%u %g" /bin/mine'
claim "debug brings tools along" '0
=0' contictl debug u -- id -u
contictl rm -f u >/dev/null
stop_agent
data=/run/data

echo "== vsock(7), over the kernel's loopback: this machine is number 1 to itself"
for module in vsock vmw_vsock_virtio_transport_common vsock_loopback; do insmod "/lib/$module.ko"; done
# Certificates name it, and what it is called without this is no name.
hostname vm
contid --data-dir /run/data pki init >/dev/null
start_agent --listen vsock://any:7443 --userns host
# From here on contictl is on another machine, and knows what joining tells it.
unset CONTI_HOST
there=vsock://1:7443
claim "whose certificate is not for clients is refused, and told so" \
    "contictl: cannot connect to $there: the agent refused this client's certificate (UnsupportedCertificate); \
is it one for clients?
=125" contictl --host "$there" --tls-ca /run/data/pki/ca.pem \
    --tls-cert /run/data/pki/server.pem --tls-key /run/data/pki/server.key ps
code=$(contid --data-dir /run/data invite --role operator --name alice --address "$there")
claim "an invitation leads there and makes a context" 'vsock-1
=0' sh -c "contictl join $code 2>/dev/null"
claim "once" 'contictl: the invitation cannot be used: it was used before, was revoked, has expired, or the code is wrong; ask for another
=125' contictl join --context again "$code"
claim "who calls is known, and from which machine" 'alice operator vsock:1:
=0' sh -c 'contictl whoami | grep -oE "alice|operator|vsock:1:" | xargs'
claim "a command's output and exit code come from there" 'there
=7' contictl run --rm -- sh -c 'echo there; exit 7'
contictl run -d --name c -- sleep 1000 >/dev/null
head -c 16777216 /dev/urandom >/tmp/sent
claim "16 MiB go there and come back" "$(sha256sum </tmp/sent)
=0" sh -c 'contictl exec -i c -- cat </tmp/sent | sha256sum'
claim "the audit log says who sent them, and from which machine" \
    'alice vsock:1 /conti.v1.SessionService/Stream
=0' sh -c 'grep "\"stdout_bytes\":16777216" /run/audit/audit.jsonl |
        grep -oE "\"(identity|address|method)\":\"[^\"]*" | cut -d "\"" -f 4 | sed "s/:[0-9]*$//" | xargs'
timeout 60 contictl exec c -- sh -c 'echo before; until [ -e /tmp/go ]; do sleep 0.1; done; echo after' \
    >/tmp/shown 2>/tmp/noted &
stream=$!
for _ in $(seq 100); do
    grep -q before /tmp/shown && break
    sleep 0.1
done
kill -9 "$agent"
wait "$agent" 2>/dev/null
start_agent --listen vsock://any:7443 --userns host --metrics-listen tcp://127.0.0.1:9100
contictl exec c -- touch /tmp/go
wait "$stream"
ended=$?
claim "a session whose agent was killed goes on with the next one" 'before
after
contictl: resumed at byte 7 of the output
=0' sh -c "cat /tmp/shown; grep resumed /tmp/noted; exit $ended"
claim "the container is removed from there" '=0' contictl rm -f c
claim "where nobody listens is told" "contictl: cannot connect to vsock://1:7444: nobody listens there; does contid \
run on that machine with --listen vsock://any:PORT, and is this the port?
=125" contictl --context vsock-1 --host vsock://1:7444 ps
claim "so is a machine that is not there" "contictl: cannot connect to vsock://7:7443: there is no machine of this \
number, or nothing that leads to it
=125" contictl --context vsock-1 --host vsock://7:7443 ps
contid --data-dir /run/data pki revoke alice >/dev/null
# The agent looks at its files each second.
sleep 2
claim "who was revoked is refused, and told so" "contictl: cannot connect to $there: this client's certificate was \
revoked; who manages the agent can invite you again
=125" contictl ps
claim "no connection is open to the agent any more" 'conti_connections_open{transport="vsock"} 0
=0' sh -c 'wget -qO- http://127.0.0.1:9100/metrics | grep "^conti_connections_open{transport=\"vsock\"}"'
stop_agent
claim "no agent is left, no client, and nothing that sleeps" '=1' pidof contid contictl sleep
# A socket that was closed stays for up to 8 seconds where the other end has not answered.
claim "no socket is left: the kernel lets go of vsock" '=0' sh -c 'for _ in $(seq 15); do
        for module in vsock_loopback vmw_vsock_virtio_transport_common vsock; do rmmod $module; done
        [ -e /sys/module/vsock ] || exit 0
        sleep 1
    done 2>/dev/null; exit 1'

if [ "$failed" = 0 ]; then
    echo 'Every claim held.'
else
    echo 'A claim did not hold. The log of the agent:'
    cat /tmp/log
fi
poweroff -f
