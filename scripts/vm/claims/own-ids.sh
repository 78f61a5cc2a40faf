# shellcheck shell=sh disable=SC2154
# Read by ../init.sh, which has the functions and variables: containers with ids of their own, on an old kernel.
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
claim "it cannot write to the kernel, neither by what it is given nor by a proc of its own" '1
1
=0' contictl exec --security no-new-privs=false u -- sh -c '(echo 1 >/proc/sys/kernel/panic) 2>/dev/null; echo $?
        mkdir -p /p && mount -t proc proc /p 2>/dev/null && { echo 1 >/p/sys/kernel/panic; } 2>/dev/null; echo $?'
claim "what takes no id map is refused by name, with the way around it" \
    'contictl: could not map the ids of the mount on "/taken": Invalid argument (os error 22); its source "/run/taken" is '\
'of type tmpfs, which supports no idmapped mounts; a container that is made with --userns host can have it
=125' sh -c 'mkdir -p /run/taken; NO_COLOR=1 exec contictl run --rm -v /run/taken:/taken -- true'
claim "debug brings tools along" '0
=0' contictl debug u -- id -u
contictl rm -f u >/dev/null
stop_agent
data=/run/data
