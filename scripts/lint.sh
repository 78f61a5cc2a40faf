#!/bin/sh
# The checks that need neither root nor a build of the release: format, clippy, the API's style,
# licenses and sources of dependencies, the direction of dependencies.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.tools/bin:$PATH"
export PATH

section() {
    printf '== %s\n' "$*"
}

section "rustfmt"
cargo fmt --all --check
section "clippy"
cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
section "clippy, with what is left out of the usual build"
cargo clippy --quiet --locked --package contid --package contictl --all-features --all-targets -- -D warnings
section "rustdoc"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --workspace --no-deps
section "buf lint"
(cd proto && ../node_modules/.bin/buf lint)
section "cargo deny"
cargo deny --log-level error check bans licenses sources
section "layers"
scripts/check-layers.sh
section "other systems"
scripts/check-targets.sh
