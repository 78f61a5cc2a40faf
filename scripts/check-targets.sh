#!/bin/sh
# Checks that the client compiles for the systems where people sit: for one target of each, or for those
# that are named. Linux itself is what all other checks are about.
#
# The toolchain that is installed does it for the targets whose standard library it has
# (`rustup target add TARGET`). For others Debian's does, which has the library's source and builds it
# first; it is installed if need be, and if it is new enough. What neither can check is named on stderr,
# loudly.
#
# ring has parts in C: they are compiled by zig, which knows all targets, where scripts/setup-test.sh or
# somebody else has put one (`pip install ziglang`, or zig in the PATH).
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh
needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
libraries=$(rustc --print sysroot)/lib/rustlib
build=$(realpath -m "${CARGO_TARGET_DIR:-target}")/other-systems
tried=
failed=0

unchecked() {
    echo "NOT CHECKED: that contictl compiles for $1: $2" >&2
}

# new_enough VERSION: whether such a toolchain compiles Conti.
new_enough() {
    printf '%s\n' "$needed" "$1" | sort -VC
}

debian_is_there() {
    [ -d /usr/lib/rustlib/src/rust/library ] && [ -x /usr/bin/cargo ] &&
        new_enough "$(/usr/bin/rustc --version | cut -d ' ' -f 2)"
}

# Installs Debian's toolchain, where it is missing and that is possible.
get_debian() {
    debian_is_there && return
    [ -z "$tried" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return
    tried=yes
    apt-get update -q >/dev/null 2>&1 </dev/null || return
    candidate=$(apt-cache policy rustc-web | sed -n 's/^ *Candidate: \([0-9]\)/\1/p')
    new_enough "$candidate" || return
    echo "installing Debian's Rust $candidate"
    apt_install rustc-web cargo-web rust-web-src && debian_is_there
}

if command -v zig >/dev/null 2>&1; then
    zig=zig
elif .tools/venv/bin/python -m ziglang version >/dev/null 2>&1; then
    zig="$PWD/.tools/venv/bin/python -m ziglang"
else
    zig=
fi

# tool TARGET NAME COMMAND: one for the C parts of a target.
tool() {
    mkdir -p "$build/tools/$1"
    printf '#!/bin/sh\n%s\n' "$3" >"$build/tools/$1/$2"
    chmod +x "$build/tools/$1/$2"
}

check() {
    target=$1
    if [ -z "$zig" ]; then
        unchecked "$target" "there is no zig to compile ring's C parts with"
        return
    elif [ -d "$libraries/$target/lib" ]; then
        deny="-D warnings"
        set -- cargo check
    elif get_debian; then
        # A newer one may warn of what ours does not.
        deny=
        set -- env RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo check -Zbuild-std=std
    else
        unchecked "$target" "this toolchain has no standard library for it, and Debian's is missing or older than $needed"
        return
    fi
    # zig has names of its own for targets, so it is not told the one that the build script knows.
    zig_target=$(printf %s "$target" | sed 's/-apple-darwin$/-macos/; s/-unknown-/-/; s/-pc-/-/')
    # shellcheck disable=SC2016 # expanded when it runs
    tool "$target" zig-cc 'for word; do
    shift
    case $word in --target=*) ;; *) set -- "$@" "$word" ;; esac
done
exec '"$zig cc -target $zig_target"' "$@"'
    tool "$target" zig-ar "exec $zig ar \"\$@\""
    # rustc itself looks for this one, to link with what Windows has.
    tool "$target" x86_64-w64-mingw32-dlltool "exec $zig dlltool \"\$@\""
    tools=$build/tools/$target
    name=$(printf %s "$target" | tr - _)
    if env PATH="$tools:$PATH" "CC_$name=$tools/zig-cc" "AR_$name=$tools/zig-ar" \
        ZIG_GLOBAL_CACHE_DIR="$build/zig" CARGO_TARGET_DIR="$build" \
        CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 RUSTFLAGS="${RUSTFLAGS-} $deny" \
        "$@" --quiet --locked --target "$target" -p contictl; then
        echo "contictl compiles for $target"
    else
        echo "contictl does not compile for $target" >&2
        failed=1
    fi
}

[ $# -gt 0 ] || set -- aarch64-apple-darwin x86_64-pc-windows-gnu
for target; do
    check "$target"
done
exit "$failed"
