#!/bin/bash
# Times Conti against its peers in one run and writes docs/benchmarks.md. Takes some minutes; a
# machine with nothing else to do gives better figures.
#
# BENCH_ROUNDS (100), BENCH_STREAM_ROUNDS (7), BENCH_IDLE (40) set how much is measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/apt.sh

packages=()
need() {
    command -v "$1" >/dev/null 2>&1 || [ -x "$2" ] || packages+=("$3")
}
need python3 /usr/bin/python3 python3
need crun /usr/bin/crun crun
need runc /usr/sbin/runc runc
need lsns /usr/bin/lsns util-linux
need ssh /usr/bin/ssh openssh-client
need sshd /usr/sbin/sshd openssh-server
if [ "${#packages[@]}" -gt 0 ]; then
    echo "installing ${packages[*]}"
    apt_install "${packages[@]}"
fi

# What makes calls of the API without a client, to be timed.
cargo build --quiet --release --locked -p conti-tests --bin api_worker
api_worker=$(realpath "${CARGO_TARGET_DIR:-target}/release/api_worker")

. scripts/agent.sh
start_agent
mkdir -p docs

# The default system call filter of podman, in the form that crun and runc read. Only this file is
# wanted of its package.
(
    cd "$dir"
    apt-get download -q golang-github-containers-common >apt.log 2>&1 ||
        { apt-get update -q && apt-get download -q golang-github-containers-common; } >apt.log 2>&1
    dpkg-deb -x golang-github-containers-common_*.deb containers-common
)
python3 scripts/bench/bench.py --contictl "$contictl" --agent-pid "$agent_pid" \
    --api-worker "$api_worker" \
    --seccomp "$dir/containers-common/usr/share/containers/seccomp.json" \
    --dir "$dir" --report docs/benchmarks.md \
    --rounds "${BENCH_ROUNDS:-100}" --stream-rounds "${BENCH_STREAM_ROUNDS:-7}" \
    --idle "${BENCH_IDLE:-40}"
