#!/bin/bash
# Times Conti against its peers in one run and writes docs/benchmarks.md. Takes some minutes; a
# machine with nothing else to do gives better figures.
#
# BENCH_ROUNDS (100), BENCH_STREAM_ROUNDS (7), BENCH_IDLE (40), BENCH_FAR_ROUNDS (2) set how much is measured,
# BENCH_FAR (200) and BENCH_RATE (500) what the network is like, in milliseconds and megabits a second.
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

# What makes calls of the API without a client, to be timed; two hosts far from each other; and attacks.
cargo build --quiet --release --locked -p conti-tests --bin api_worker --bin two_hosts
api_worker=$(realpath "${CARGO_TARGET_DIR:-target}/release/api_worker")
two_hosts=$(realpath "${CARGO_TARGET_DIR:-target}/release/two_hosts")
attacks=(--release --locked -p conti-tests --test edge --test edge_calls --test flood)
cargo test --quiet "${attacks[@]}" --no-run

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
echo "1 GiB over a network: ${BENCH_FAR:=200} ms there and back, ${BENCH_RATE:=500} Mbit/s"
"$two_hosts" "$BENCH_FAR" "$BENCH_RATE" 0 python3 scripts/bench/far.py --contid "$contid" \
    --contictl "$contictl" --dir "$dir/far" --rounds "${BENCH_FAR_ROUNDS:-2}" >"$dir/far.json"
echo "a command of another client under attack"
CONTI_BIN_DIR="$bin" CONTI_SIEGE_TIMES="$dir/siege" \
    cargo test --quiet "${attacks[@]}" -- --test-threads 1
python3 scripts/bench/bench.py --contictl "$contictl" --agent-pid "$agent_pid" \
    --api-worker "$api_worker" \
    --seccomp "$dir/containers-common/usr/share/containers/seccomp.json" \
    --far "$dir/far.json" --way "$BENCH_FAR ms there and back and $BENCH_RATE Mbit/s" \
    --siege "$dir/siege" --dir "$dir" --report docs/benchmarks.md \
    --rounds "${BENCH_ROUNDS:-100}" --stream-rounds "${BENCH_STREAM_ROUNDS:-7}" \
    --idle "${BENCH_IDLE:-40}"
