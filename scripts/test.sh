#!/bin/sh
# Installs what is needed, then runs every check and every test. The last lines are nextest's own
# summary.
set -eu
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "the tests make real containers: run them as root" >&2
    exit 1
fi

scripts/setup-test.sh
PATH="$PWD/.tools/bin:$PATH"
export PATH
scripts/lint.sh
printf '== release build\n'
scripts/build.sh --quiet
CONTI_BIN_DIR=$(realpath "${CARGO_TARGET_DIR:-target}/bin")
export CONTI_BIN_DIR
printf '== tests\n'
filter=$(scripts/host-needs.sh)
# Tests inside of contid are built with all of its features; the black-box tests run the release as it is.
exec cargo nextest run --locked --workspace --features contid/otel --cargo-quiet -E "$filter" "$@" </dev/null
