#!/bin/sh
# Installs what the checks and tests need and the machine has not: Debian packages, and into .tools
# and node_modules of the repository the rest. Says only what it installs; a second run does nothing.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh

quietly() {
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        echo "this failed: $*" >&2
        exit 1
    fi
    rm -f "$log"
}

packages=
need() {
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
need cc "gcc libc6-dev"
need npm "nodejs npm"
need python3 python3
need mkfs.ext4 e2fsprogs
need ip iproute2
need setpriv util-linux
need hostname hostname
need losetup mount
need ssh openssh-client
# sshd is not in everybody's PATH.
[ -x /usr/sbin/sshd ] || packages="$packages openssh-server"
# Whether python3 can make virtual environments is not told by a command's name.
python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
if [ -n "$packages" ]; then
    echo "installing$packages"
    # shellcheck disable=SC2086 # a list of names
    apt_install $packages
fi

mkdir -p .tools/bin
# The versions are pinned, so that a new release of a tool cannot break a build.
cargo_tool() {
    command -v "$1" >/dev/null 2>&1 && return
    [ -x ".tools/bin/$1" ] && return
    echo "installing $1 $2"
    quietly cargo install --quiet --locked --root .tools --target-dir .tools/build "$1" --version "$2"
    rm -rf .tools/build
}
cargo_tool cargo-nextest "$(sed -n 's/^cargo-nextest //p' scripts/tool-versions)"
cargo_tool cargo-deny "$(sed -n 's/^cargo-deny //p' scripts/tool-versions)"

if ! cmp -s package-lock.json .tools/package-lock.json || [ ! -x node_modules/.bin/buf ]; then
    echo "installing buf"
    quietly npm ci --no-audit --no-fund
    cp package-lock.json .tools/package-lock.json
fi

requirements=tests/python/requirements.txt
if ! cmp -s "$requirements" .tools/venv/requirements.txt; then
    echo "installing grpcio-tools for Python"
    rm -rf .tools/venv
    quietly python3 -m venv .tools/venv
    quietly .tools/venv/bin/pip install --quiet --requirement "$requirements"
    cp "$requirements" .tools/venv/requirements.txt
fi

# The C parts of the client are compiled for other systems by zig.
zig=$(sed -n 's/^ziglang //p' scripts/tool-versions)
if ! command -v zig >/dev/null 2>&1 &&
    [ "$(.tools/venv/bin/python -m ziglang version 2>/dev/null)" != "$zig" ]; then
    echo "installing zig $zig"
    quietly .tools/venv/bin/pip install --quiet "ziglang==$zig"
fi

# What this host may not show is checked in a virtual machine with Debian's kernel for x86_64.
[ "$(uname -m)" != x86_64 ] || scripts/vm/setup.sh
