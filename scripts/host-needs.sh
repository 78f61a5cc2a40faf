#!/bin/sh
# Finds out which needs of tests this host cannot meet. Says so on stderr, loudly, and prints a
# nextest filter that leaves such tests out, so that they are counted as skipped.
#
# A test with a need lives in a module `needs_NAME` (or, for what is slow, is called `heavy_…`).
set -eu
cd "$(dirname "$0")/.."
filter='all()'

skip() {
    echo "SKIPPED: tests that need $2: $3" >&2
    filter="$filter - test(/(^|::)needs_$1(::|\$)/)"
}

if [ ! -e /dev/loop-control ] || ! losetup -f >/dev/null 2>&1; then
    skip loop_device "a loop device" "this host has none"
elif ! command -v mkfs.ext4 >/dev/null 2>&1 || ! grep -qw ext4 /proc/filesystems; then
    skip loop_device "ext4" "this host's kernel or tools have it not"
fi

found=
for device in /dev/loop-control /dev/fuse /dev/net/tun; do
    # Opened read-only in a subshell: a node without a driver does not open.
    if [ -c "$device" ] && (: <"$device") 2>/dev/null; then
        found=$device
        break
    fi
done
[ -n "$found" ] || skip device "a device that opens" "of loop-control, fuse and tun this host has none"

if ! unshare --user --map-root-user true 2>/dev/null; then
    skip user_namespaces "user namespaces" "this host does not allow them"
fi

if ! unshare --net ip link add conti0 type veth peer name conti1 2>/dev/null; then
    skip veth "virtual Ethernet" "this kernel has it not"
fi

if ! unshare --net ip tuntap add dev conti0 mode tun 2>/dev/null; then
    skip tun "TUN devices" "this host has them not"
fi

if ! grep -qE '^memory	.*	1$' /proc/cgroups; then
    skip memory_cgroup "the memory controller" "this kernel has it not"
fi

if ! grep -q ' - cgroup ' /proc/self/mountinfo; then
    skip forkers "cgroups of version 1" "this host has those of version 2 alone"
fi

if [ "$(printf '6.15\n%s\n' "$(uname -r)" | sort -V | head -n 1)" != 6.15 ]; then
    skip detached_layers "overlays on mounts attached nowhere" "they came with Linux 6.15"
fi

if [ ! -x /usr/sbin/sshd ] || ! command -v ssh >/dev/null 2>&1; then
    skip sshd "OpenSSH's server and client" "this host has them not"
fi

if [ ! -x .tools/venv/bin/python ]; then
    skip python_client "a Python with grpcio-tools" "scripts/setup-test.sh was not run"
fi

if [ ! -e .tools/vm/kernel ]; then
    skip virtual_machine "Debian's kernel in a virtual machine" "it is there on x86_64, once scripts/setup-test.sh was run"
fi

printf '%s\n' "$filter"
