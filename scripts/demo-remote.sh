#!/bin/bash
# Two hosts, made from network namespaces and a cable between them: `web` runs an agent, `laptop` has nothing
# but contictl and a user who is not root. Invites, joins, runs and execs across, and checks each claim.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/agent.sh
. scripts/claims.sh

web_address=10.77.0.1
laptop_address=10.77.0.2

# holder: a process that keeps a network namespace; its pid is in $holder.
holder() {
    unshare --net sleep 100000 </dev/null >/dev/null 2>&1 &
    holder=$!
    started_by_us="$started_by_us $holder"
    local own
    own=$(readlink /proc/self/ns/net)
    for _ in $(seq 200); do
        [ "$(readlink "/proc/$holder/ns/net")" = "$own" ] || return 0
        sleep 0.02
    done
    echo "no network namespace could be made" >&2
    exit 1
}

# on PID COMMAND...: in the network of a host.
on() {
    local pid=$1
    shift
    nsenter --net="/proc/$pid/ns/net" -- "$@"
}

# web COMMAND...: as root on the machine of the agent, shown as it would be typed.
web() {
    printf 'web# %s\n' "$*"
    case $1 in
        contid) shift && on "$web" "$contid" --data-dir "$dir/data" "$@" ;;
        contictl) shift && on "$web" "$contictl" "$@" ;;
    esac | tee "$dir/shown" | sed 's/^/    /'
}

# laptop COMMAND...: as a plain user on the other machine. The code of an invitation stands for CODE.
laptop() {
    printf 'laptop$ %s\n' "$*"
    quietly "${@:2}" | tee "$dir/shown" | sed 's/^/    /'
}

# quietly ARGUMENT...: the same of contictl, without a word about it.
quietly() {
    local words=("${@/#CODE/${code-}}")
    on "$laptop" setpriv --reuid=65534 --regid=65534 --clear-groups \
        env -i HOME="$home" PATH="$home/bin:/usr/bin:/bin" contictl "${words[@]}" 2>&1
}

section "Two hosts and a cable"
holder
web=$holder
holder
laptop=$holder
on "$web" ip link add cable type veth peer name cable netns "$laptop"
on "$web" ip address add "$web_address/24" dev cable
on "$laptop" ip address add "$laptop_address/24" dev cable
for host in "$web" "$laptop"; do
    on "$host" ip link set lo up
    on "$host" ip link set cable up
done
# The user of the laptop reaches its own home and nothing else of this demo.
chmod 711 "$dir"
home=$dir/laptop
mkdir -p "$home/bin"
cp "$contictl" "$home/bin/contictl"
chown -R 65534:65534 "$home"
echo "web is $web_address, laptop is $laptop_address"

section "An agent that listens to other machines, with an authority of its own"
web contid pki init
claim "the agent's certificate names its address" -n "$(grep -F "$web_address" "$dir/shown" || true)"
echo 'web# contid --listen unix:///run/conti/contid.sock --listen tcp://0.0.0.0:7443 &'
# Not through a function, so that the pid is the agent's.
nsenter --net="/proc/$web/ns/net" -- "$contid" --listen "unix://$dir/contid.sock" --listen tcp://0.0.0.0:7443 \
    --state-dir "$dir/state" --data-dir "$dir/data" --audit-log "$dir/audit/audit.jsonl" \
    >"$dir/contid.log" 2>&1 </dev/null &
agent_pid=$!
CONTI_HOST=unix://$dir/contid.sock
export CONTI_HOST
for _ in $(seq 200); do
    "$contictl" info >/dev/null 2>&1 && break
    sleep 0.05
done
refused=$(quietly --host "tcp://$web_address" ps || true)
claim "who is not invited learns nothing" -z "$(grep CONTAINER <<<"$refused" || true)"
claim "and is told why" -n "$(grep -iE 'certificate|join' <<<"$refused" || true)"

section "An invitation, and a client that joins"
web contid invite --role operator --name alice
code=$(cat "$dir/shown")
laptop contictl join CODE
claim "the key is the user's alone" \
    "$(find "$home" -name client.pem -type f -exec stat -c %a {} + | sort -u)" = 600
used=$(quietly join CODE --context again || true)
claim "the same code is refused a second time" -n "$(grep -i invitation <<<"$used" || true)"
laptop contictl whoami
claim "the agent knows alice as operator" -n "$(grep -i operator "$dir/shown" || true)"

section "Containers on the other machine"
laptop contictl run -d --name db --hostname db -- sleep 100000
laptop contictl ps
laptop contictl exec db -- hostname
claim "the command ran over there" "$(cat "$dir/shown")" = db
head -c 16777216 /dev/urandom >"$dir/sent"
echo 'laptop$ contictl exec -i db -- cat < sent > received'
quietly exec -i db -- cat <"$dir/sent" >"$dir/received"
claim "16 MiB went there and came back" "$(sha256sum <"$dir/received")" = "$(sha256sum <"$dir/sent")"
privileged=$(quietly run --rm --privileged -- true || true)
claim "an operator gets no privileged container" -n "$(grep -i 'may not' <<<"$privileged" || true)"
host=$(quietly ls host / || true)
claim "nor the files of the host" -n "$(grep -i 'may not' <<<"$host" || true)"

section "A client that is to go"
web contid pki revoke alice
gone=
for _ in $(seq 200); do
    gone=$(quietly ps || true)
    grep -qi revoked <<<"$gone" && break
    sleep 0.05
done
claim "a revoked client is refused, and told so" -n "$(grep -i revoked <<<"$gone" || true)"

section "Nothing is left behind"
web contictl rm -f db
stop_agent
for pid in "$laptop" "$web"; do
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
done
started_by_us=
for _ in $(seq 100); do
    [ -n "$(mentioning "$dir")" ] || break
    sleep 0.05
done
claim "no process" -z "$(mentioning "$dir")"
claim "no mount" -z "$(grep "$dir" /proc/self/mountinfo || true)"

conclude "$dir/contid.log"
