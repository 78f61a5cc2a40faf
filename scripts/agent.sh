# Read by other scripts: a private agent in a temporary directory, gone at the end of the script
# however that comes.
#
# Gives: $contictl, $contid, $dir, $agent_pid; CONTI_HOST is set.

if [ "$(id -u)" != 0 ]; then
    echo "containers are made by root: run this as root" >&2
    exit 1
fi

bin=${CONTI_BIN_DIR:-${CARGO_TARGET_DIR:-target}/bin}
bin=$(realpath "$bin")
contid=$bin/contid
contictl=$bin/contictl
dir=$(mktemp -d "${TMPDIR:-/tmp}/conti.XXXXXX")
agent_pid=
started_by_us=

start_agent() {
    "$contid" --listen "unix://$dir/contid.sock" --state-dir "$dir/state" \
        --data-dir "$dir/data" --audit-log "$dir/audit/audit.jsonl" >"$dir/contid.log" 2>&1 </dev/null &
    agent_pid=$!
    CONTI_HOST=unix://$dir/contid.sock
    export CONTI_HOST
    tries=0
    until "$contictl" info >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 200 ] || ! kill -0 "$agent_pid" 2>/dev/null; then
            cat "$dir/contid.log" >&2
            echo "the agent does not answer; its log stands above" >&2
            exit 1
        fi
        sleep 0.05
    done
}

stop_agent() {
    [ -n "$agent_pid" ] || return 0
    for container in $("$contictl" ps -a -q 2>/dev/null); do
        "$contictl" rm -f "$container" >/dev/null 2>&1 || true
    done
    kill -TERM "$agent_pid" 2>/dev/null || true
    wait "$agent_pid" 2>/dev/null || true
    agent_pid=
}

clean_up() {
    status=$?
    trap - EXIT INT TERM HUP
    stop_agent
    for pid in $started_by_us; do
        kill -KILL "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
