#!/bin/sh
# The direction of dependencies: contictl -> proto -> service -> engine -> runtime -> kernel. Nothing
# looks back up. Prints what breaks the rule and ends with 1.
set -eu
cd "$(dirname "$0")/.."
failed=0

complain() {
    echo "layers: $*" >&2
    failed=1
}

# All that a crate links, directly or not; what only its tests or its build script use is left out.
links() {
    cargo tree --quiet --locked --package "$1" --edges normal --prefix none --format '{p}' |
        cut -d ' ' -f 1 | sort -u
}

forbid() {
    crate=$1
    shift
    linked=$(links "$crate")
    for other in "$@"; do
        if printf '%s\n' "$linked" | grep -qx "$other"; then
            complain "$crate must not depend on $other"
        fi
    done
}

forbid conti-runtime tokio tonic prost conti-proto conti-shared contid contictl
forbid conti-shared tokio tonic prost conti-proto conti-runtime contid contictl
forbid conti-proto conti-shared conti-runtime contid contictl
forbid contid contictl conti-tests
forbid contictl contid conti-runtime conti-tests
forbid conti-tests contid conti-runtime contictl

# `use tonic::…`, `tonic::Status`, `conti_proto::v1` and the like; a word in a comment is no use.
mentions() {
    grep -rnE "$1" --include='*.rs' "$2" | grep -vE '^[^:]+:[0-9]+: *//' || true
}

found=$(mentions '\b(tonic|tonic_types|prost|prost_types|conti_proto)::' server/src/engine)
[ -z "$found" ] || complain "the engine must not name gRPC or its messages:
$found"

found=$(mentions '\b(service|contid::service)::' server/src/engine)
[ -z "$found" ] || complain "the engine must not look up to the service:
$found"

# The allocator that counts for fuzz targets, and the system calls that a container must not get away with.
found=$(mentions '\bunsafe( extern[^{]*)? *(\{|fn\b|impl\b)' . |
    grep -vE '^\./(target|server/runtime/src/sys|fuzz/src/memory\.rs|tests/src/bin/escape/sys\.rs|node_modules|\.tools)[/:]' || true)
[ -z "$found" ] || complain "unsafe code belongs into server/runtime/src/sys:
$found"

exit "$failed"
