#!/bin/bash
# Does the main job for real, on a private agent, and checks each claim that it shows: a container
# on the default root, isolated; streams through it; a terminal; the namespaces of a plain process;
# and nothing left behind. Ends with 1 where a claim does not hold.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/agent.sh
. scripts/claims.sh

# show COMMAND...: prints a call of contictl as a user would type it, and its output, indented.
show() {
    local words
    words=$(printf ' %q' "$@")
    printf '$ contictl%s\n' "$words"
    "$contictl" "$@" | tee "$dir/shown" | sed 's/^/    /'
}

section "A private agent"
start_agent
echo "contid listens on a socket in a temporary directory"
show version

section "A container on the default root: the host's programs, read-only, under a layer of its own"
show run -d --name demo --hostname pluto -- sleep 100000
show ps
show exec demo -- sh -c 'hostname; cat /proc/1/comm; ls /proc | grep -c "^[0-9]*$"'
claim "it has its own host name, not $(uname -n)" "$(sed -n 1p "$dir/shown")" = pluto
claim "its PID 1 is its own command" "$(sed -n 2p "$dir/shown")" = sleep
claim "it sees only its own processes" "$(sed -n 3p "$dir/shown")" -le 6
for kind in mnt pid uts ipc net cgroup; do
    inside=$("$contictl" exec demo -- readlink "/proc/self/ns/$kind")
    claim "its $kind namespace is its own" "$inside" != "$(readlink "/proc/self/ns/$kind")"
done
show exec demo -- sh -c 'head -n 3 /proc/self/mountinfo; wc -l < /proc/self/mountinfo'
claim "its / is no mount of the host: the root was pivoted" \
    "$("$contictl" exec demo -- stat -c %d:%i /)" != "$(stat -c %d:%i /)"
hidden=$("$contictl" exec demo -- sh -c "ls -d '$dir' /etc/shadow 2>/dev/null || true")
claim "nothing of the host's /tmp or secrets shows" -z "$hidden"
"$contictl" exec demo -- sh -c 'echo mine > /usr/bin/conti-demo-file'
claim "it may write where it likes" "$("$contictl" exec demo -- cat /usr/bin/conti-demo-file)" = mine
claim "and the host never sees it" ! -e /usr/bin/conti-demo-file

section "Streams: 64 MiB through cat in the container, stdin and stdout at once"
head -c 67108864 /dev/urandom >"$dir/sent"
echo '$ contictl exec -i demo -- cat < sent > received'
"$contictl" exec -i demo -- cat <"$dir/sent" >"$dir/received"
claim "the same bytes came back" "$(sha256sum <"$dir/received")" = "$(sha256sum <"$dir/sent")"
code=0
"$contictl" exec demo -- sh -c 'echo to stdout; echo to stderr >&2; exit 42' >"$dir/out" 2>"$dir/err" || code=$?
claim "stdout and stderr stay apart" "$(cat "$dir/out") | $(cat "$dir/err")" = "to stdout | to stderr"
claim "the exit code is the command's own" "$code" -eq 42

section "A terminal: what is typed reaches a shell, as with -it at a keyboard"
echo '$ contictl exec -it demo -- sh'
# script(1) gives contictl a terminal; what it reads on stdin is what is typed.
(
    sleep 1
    printf 'tty; stty size; echo $((6 * 7))\r'
    sleep 1
    printf 'exit\r'
    sleep 1
) | script -qec "stty cols 100 rows 30; '$contictl' exec -it demo -- sh" /dev/null |
    tr -d '\r' | tee "$dir/shown" | sed 's/^/    /'
claim "the shell has a terminal of its own" -n "$(grep '/dev/pts/' "$dir/shown" || true)"
claim "of the size of the user's" -n "$(grep -x '30 100' "$dir/shown" || true)"
claim "and answers" -n "$(grep -x 42 "$dir/shown" || true)"

section "The namespaces of any process: one that Conti knows nothing of"
unshare --mount --uts --net --pid --fork --mount-proc \
    sh -c 'hostname plain-process; exec sleep 100000' </dev/null >/dev/null 2>&1 &
unshare_pid=$!
started_by_us="$started_by_us $unshare_pid"
plain=
for _ in $(seq 100); do
    plain=$(cat "/proc/$unshare_pid/task/$unshare_pid/children" 2>/dev/null | tr -d ' ')
    [ -n "$plain" ] && [ "$(cat "/proc/$plain/comm")" = sleep ] && break
    sleep 0.05
done
started_by_us="$plain $started_by_us"
show enter --target "$plain" -a -- sh -c 'hostname; cat /proc/1/comm; ls /sys/class/net'
claim "the command sees the host name of that process" "$(sed -n 1p "$dir/shown")" = plain-process
claim "and its processes" "$(sed -n 2p "$dir/shown")" = sleep

section "Seeing and mounting, with nothing inside: a container of one program"
show rootfs build --from-host sleep --out "$dir/root"
show run -d --name bare --rootfs "dir:$dir/root" -- sleep 100000
show ls bare /usr/bin
claim "there is no other program" "$(grep -c -e '^-' "$dir/shown")" -eq 1
show procs bare
claim "its process is seen all the same" -n "$(grep 'sleep 100000' "$dir/shown" || true)"
mkdir "$dir/files"
echo hello >"$dir/files/letter"
show mount bare "$dir/files:/mnt:ro"
show cat bare /mnt/letter
claim "what was mounted into it is there" "$(cat "$dir/shown")" = hello
show umount bare /mnt
show debug bare -- sh -c 'cat /proc/1/comm; ls /target/usr/bin'
claim "a shell of the host sees its processes" "$(sed -n 1p "$dir/shown")" = sleep
claim "and its files" "$(sed -n 2p "$dir/shown")" = sleep
claim "of which it sees nothing" ! -e "$dir/root/usr/bin/sh"
show rm -f bare

section "The agent may die: the container goes on"
kill -KILL "$agent_pid"
wait "$agent_pid" 2>/dev/null || true
start_agent
show exec demo -- echo still here
claim "the new agent found it" "$(cat "$dir/shown")" = "still here"

section "Nothing is left behind"
show rm -f demo
kill -KILL "$plain" 2>/dev/null || true
wait "$unshare_pid" 2>/dev/null || true
started_by_us=
stop_agent
for _ in $(seq 100); do
    [ -n "$(mentioning "$dir")" ] || break
    sleep 0.05
done
claim "no process" -z "$(mentioning "$dir")"
claim "no mount" -z "$(grep "$dir" /proc/self/mountinfo || true)"
claim "no loop device" -z "$(losetup -a 2>/dev/null | grep "$dir" || true)"

conclude "$dir/contid.log"
