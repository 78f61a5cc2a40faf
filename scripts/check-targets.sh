#!/bin/sh
# Checks that the client compiles for the systems where people sit. Only targets can be checked whose
# standard library the toolchain has (`rustup target add TARGET`); the others are named on stderr, loudly.
#
# ring has parts in C: they are compiled by zig, which knows all targets, where scripts/setup-test.sh or
# somebody else has put one (`pip install ziglang`, or zig in the PATH).
set -eu
cd "$(dirname "$0")/.."
libraries=$(rustc --print sysroot)/lib/rustlib
wrappers=$(mktemp -d)
trap 'rm -rf "$wrappers"' EXIT

unchecked() {
    echo "NOT CHECKED: that contictl compiles for $1: $2" >&2
}

if command -v zig >/dev/null 2>&1; then
    zig=zig
elif .tools/venv/bin/python -m ziglang version >/dev/null 2>&1; then
    zig="$PWD/.tools/venv/bin/python -m ziglang"
else
    zig=
fi

# check TARGET ZIG-TARGET
check() {
    if [ ! -d "$libraries/$1/lib" ]; then
        unchecked "$1" "this toolchain has no standard library for it"
        return
    elif [ -z "$zig" ]; then
        unchecked "$1" "there is no zig to compile ring's C parts with"
        return
    fi
    # zig has names of its own for targets, so it is not told the one that the build script knows.
    cat >"$wrappers/cc" <<EOF
#!/bin/sh
for word; do
    shift
    case \$word in --target=*) ;; *) set -- "\$@" "\$word" ;; esac
done
exec $zig cc -target $2 "\$@"
EOF
    printf '#!/bin/sh\nexec %s ar "$@"\n' "$zig" >"$wrappers/ar"
    chmod +x "$wrappers/cc" "$wrappers/ar"
    name=$(printf %s "$1" | tr - _)
    env "CC_$name=$wrappers/cc" "AR_$name=$wrappers/ar" \
        cargo check --quiet --locked --target "$1" -p contictl
    echo "contictl compiles for $1"
}

check aarch64-unknown-linux-gnu aarch64-linux-gnu
check aarch64-apple-darwin aarch64-macos
check x86_64-apple-darwin x86_64-macos
check x86_64-pc-windows-gnu x86_64-windows-gnu
