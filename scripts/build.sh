#!/bin/sh
# Builds the release binaries into target/bin, or $INTO: contid, contictl, conti-runtime. What is given goes to cargo.
#
# They are linked statically, which makes each start cheaper (no dynamic loader) and lets them run
# on any Linux. That needs --target, so that build scripts and macros stay dynamic.
set -eu
cd "$(dirname "$0")/.."

if ! command -v cc >/dev/null 2>&1; then
    echo "installing a linker (gcc)" >&2
    . scripts/apt.sh
    apt_install gcc libc6-dev
fi

host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="${RUSTFLAGS-} -C target-feature=+crt-static" \
    cargo build --release --locked --target "$host" -p contid -p contictl -p conti-runtime "$@"

target=${CARGO_TARGET_DIR:-target}
into=${INTO:-$target/bin}
mkdir -p "$into"
for name in contid contictl conti-runtime; do
    # A running agent keeps the file that it was started from.
    cp "$target/$host/release/$name" "$into/.$name.new"
    mv -f "$into/.$name.new" "$into/$name"
done
