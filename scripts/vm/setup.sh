#!/bin/sh
# Fetches what run.sh needs into .tools/vm: qemu, busybox, cpio, and Debian's cloud kernel. Nothing is installed, as these
# may not go together with what is installed. Says only what it fetches; a second run does nothing.
set -eu
cd "$(dirname "$0")/../.."

tools=$PWD/.tools/vm
[ ! -e "$tools/kernel" ] || exit 0
echo "fetching a virtual machine and its kernel"
rm -rf "$tools"
mkdir -p "$tools"
cd "$tools"

fail() {
    cat apt.log >&2
    echo "apt-get could not fetch them" >&2
    exit 1
}
# What is installed already is wanted as well, with all that it needs.
packages() {
    apt-get install -s -q --no-install-recommends --reinstall qemu-system-x86 cpio busybox-static 2>/dev/null |
        awk '/^Inst/ {print $2}'
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}'
}
fetch() {
    # shellcheck disable=SC2046 # a list of names
    apt-get download -q $(packages) >>apt.log 2>&1
}
apt-get update -q >apt.log 2>&1 || fail
fetch || fail
for package in *.deb; do
    case $package in
    linux-image-*) dpkg-deb -x "$package" unpacked ;;
    *) dpkg-deb -x "$package" . ;;
    esac
done
# A few modules are all that is wanted of it.
mkdir modules
for module in overlay loop vsock vmw_vsock_virtio_transport_common vsock_loopback; do
    find unpacked/lib/modules -name "$module.ko" -exec cp {} modules/ \;
done
mv unpacked/boot/vmlinuz-* kernel.new
rm -rf -- *.deb unpacked apt.log
# Last: it says that all is there.
mv kernel.new kernel
