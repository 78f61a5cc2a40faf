# shellcheck shell=sh disable=SC2154
# Read by ../init.sh, which has the functions and variables: what a host with cgroup version 1 cannot show.
echo "== cgroup version 2 alone, root on an initramfs"
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
