# Read by the demos: sections, and claims that hold or do not. Gives: $failed.

failed=0

section() {
    printf '\n== %s\n' "$*"
}

# claim TEXT CONDITION...: a condition as test(1) takes it.
claim() {
    local text=$1
    shift
    if test "$@"; then
        printf '  ok: %s\n' "$text"
    else
        printf '  NOT TRUE: %s (test %s)\n' "$text" "$*"
        failed=1
    fi
}

# mentioning TEXT: the processes whose command line mentions it.
mentioning() {
    local file
    for file in /proc/[0-9]*/cmdline; do
        if tr '\0' ' ' 2>/dev/null <"$file" | grep -qF "$1"; then
            echo "$file"
        fi
    done 2>/dev/null
}

# conclude LOG: ends the demo; with the agent's log where a claim did not hold.
conclude() {
    if [ "$failed" -ne 0 ]; then
        printf '\nA claim did not hold. The log of the agent:\n'
        cat "$1"
        exit 1
    fi
    printf '\nEvery claim held.\n'
}
