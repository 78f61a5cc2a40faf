#!/bin/sh
# Fuzzes with libFuzzer, guided by coverage: scripts/fuzz.sh [TARGET] [SECONDS], by default each target for ten minutes.
# New inputs are gathered in target/fuzz/corpus; one that fails lies in target/fuzz/failed, with the command that
# runs it again. Put it into fuzz/corpus/TARGET under a name that says what it was, and `make test` tries it for ever.
#
#   scripts/fuzz.sh --list    the names of all targets
#   scripts/fuzz.sh --seeds   take the real samples of fuzz/corpus anew, from this machine
#
# The compiler is the stable one: it is told by -C passes and -C llvm-args what nightly has a flag for.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.tools/bin:$PATH"
export PATH

crates="conti-runtime contid contictl conti-shared"
packages=$(printf -- '--package %s ' $crates)

if [ "${1:-}" = --seeds ]; then
    # The kernel is asked about a network namespace that holds nothing of this machine.
    # shellcheck disable=SC2016,SC2086 # expanded by the inner shell; a list of arguments
    exec unshare --net sh -euc '
        ip link set lo up
        ip link add veth0 type veth peer name veth1
        ip address add 192.0.2.1/24 dev veth0
        ip address add 2001:db8::1/64 dev veth0 nodad
        ip link set veth0 up
        ip link set veth1 up
        ip route add 198.51.100.0/24 via 192.0.2.2
        ip neighbour add 192.0.2.2 lladdr 02:00:00:00:00:01 dev veth0
        CONTI_FUZZ_SEEDS=1 exec cargo nextest run --locked --offline --cargo-quiet "$@" -E "test(/(^|::)fuzz_/)"
    ' sh $packages --lib --bins --features contid/otel
fi

command -v c++ >/dev/null 2>&1 || { echo "libFuzzer needs a C++ compiler: install g++" >&2; exit 1; }
host=$(rustc -vV | sed -n 's/^host: //p')
out="$PWD/target/fuzz"
mkdir -p "$out/failed"
coverage="-Cpasses=sancov-module"
for argument in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$argument"
done
# Only with --target are build scripts left as they are. Checks of overflow and assertions stay in.
# shellcheck disable=SC2086 # a list of arguments
RUSTFLAGS="--cfg fuzzing --cfg fuzzing_libfuzzer $coverage -Cdebug-assertions -Coverflow-checks" \
    CARGO_PROFILE_DEV_DEBUG=line-tables-only CARGO_PROFILE_DEV_OPT_LEVEL=1 \
    cargo test --locked --quiet --no-run --target "$host" --target-dir "$out" $packages --features contid/otel \
    --lib --bins --message-format json >"$out/built.json"
programs=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$out/built.json")

# Lines of a program and a test in it.
targets() {
    for program in $programs; do
        "$program" --list --format terse 2>/dev/null | sed -n 's/: test$//p' | grep -E '(^|::)fuzz_' |
            sed "s|^|$program |"
    done
}

wanted=
[ "${1:-}" = --list ] || wanted=${1:-}
all=$(targets | grep -E "::fuzz_${wanted:-.*}\$" || true)
if [ "${1:-}" = --list ]; then
    printf '%s\n' "$all" | sed 's/.*fuzz_//' | sort
    exit 0
fi
[ -n "$all" ] || { echo "there is no target $wanted: see scripts/fuzz.sh --list" >&2; exit 1; }

failed=0
while read -r program test; do
    name=${test##*fuzz_}
    printf '== %s\n' "$name"
    mkdir -p "$out/corpus/$name"
    BOLERO_LIBFUZZER_ARGS="$out/corpus/$name fuzz/corpus/$name -artifact_prefix=$out/failed/$name- -max_total_time=${2:-600} -timeout=20 -max_len=65536 -print_final_stats=1 -verbosity=1" \
        "$program" "$test" --exact --nocapture --test-threads 1 </dev/null >"$out/$name.log" 2>&1 || failed=1
    grep -E '^(stat::number_of_executed_units|#[0-9]+\s+DONE)|SUMMARY|panicked|Test unit written' "$out/$name.log" || true
done <<EOF
$all
EOF
[ "$failed" = 0 ] || echo "some failed: their logs and inputs are in $out" >&2
exit "$failed"
