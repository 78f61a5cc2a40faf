# shellcheck shell=sh disable=SC2154
# Read by ../init.sh, which has the functions and variables: the last one, since contictl is on another machine from here on.
echo "== vsock(7), over the kernel's loopback: this machine is number 1 to itself"
for module in vsock vmw_vsock_virtio_transport_common vsock_loopback; do insmod "/lib/$module.ko"; done
# Certificates name it, and what it is called without this is no name.
hostname vm
contid --data-dir /run/data pki init >/dev/null
start_agent --listen vsock://any:7443 --userns host
# From here on contictl is on another machine, and knows what joining tells it.
unset CONTI_HOST
there=vsock://1:7443
claim "whose certificate is not for clients is refused, and told so" \
    "contictl: cannot connect to $there: the agent refused this client's certificate (UnsupportedCertificate); \
is it one for clients?
=125" contictl --host "$there" --tls-ca /run/data/pki/ca.pem \
    --tls-cert /run/data/pki/server.pem --tls-key /run/data/pki/server.key ps
code=$(contid --data-dir /run/data invite --role operator --name alice --address "$there")
claim "an invitation leads there and makes a context" 'vsock-1
=0' sh -c "contictl join $code 2>/dev/null"
claim "once" 'contictl: the invitation cannot be used: it was used before, was revoked, has expired, or the code is wrong; ask for another
=125' contictl join --context again "$code"
claim "who calls is known, and from which machine" 'alice operator vsock:1:
=0' sh -c 'contictl whoami | grep -oE "alice|operator|vsock:1:" | xargs'
claim "a command's output and exit code come from there" 'there
=7' contictl run --rm -- sh -c 'echo there; exit 7'
contictl run -d --name c -- sleep 1000 >/dev/null
head -c 16777216 /dev/urandom >/tmp/sent
claim "16 MiB go there and come back" "$(sha256sum </tmp/sent)
=0" sh -c 'contictl exec -i c -- cat </tmp/sent | sha256sum'
claim "the audit log says who sent them, and from which machine" \
    'alice vsock:1 /conti.v1.SessionService/Stream
=0' sh -c 'grep "\"stdout_bytes\":16777216" /run/audit/audit.jsonl |
        grep -oE "\"(identity|address|method)\":\"[^\"]*" | cut -d "\"" -f 4 | sed "s/:[0-9]*$//" | xargs'
timeout 60 contictl exec c -- sh -c 'echo before; until [ -e /tmp/go ]; do sleep 0.1; done; echo after' \
    >/tmp/shown 2>/tmp/noted &
stream=$!
for _ in $(seq 100); do
    grep -q before /tmp/shown && break
    sleep 0.1
done
kill -9 "$agent"
wait "$agent" 2>/dev/null
start_agent --listen vsock://any:7443 --userns host --metrics-listen tcp://127.0.0.1:9100
contictl exec c -- touch /tmp/go
wait "$stream"
ended=$?
claim "a session whose agent was killed goes on with the next one" 'before
after
contictl: resumed at byte 7 of the output
=0' sh -c "cat /tmp/shown; grep resumed /tmp/noted; exit $ended"
claim "the container is removed from there" '=0' contictl rm -f c
claim "where nobody listens is told" "contictl: cannot connect to vsock://1:7444: nobody listens there; does contid \
run on that machine with --listen vsock://any:PORT, and is this the port?
=125" contictl --context vsock-1 --host vsock://1:7444 ps
claim "so is a machine that is not there" "contictl: cannot connect to vsock://7:7443: there is no machine of this \
number, or nothing that leads to it
=125" contictl --context vsock-1 --host vsock://7:7443 ps
contid --data-dir /run/data pki revoke alice >/dev/null
# The agent looks at its files each second.
sleep 2
claim "who was revoked is refused, and told so" "contictl: cannot connect to $there: this client's certificate was \
revoked; who manages the agent can invite you again
=125" contictl ps
claim "no connection is open to the agent any more" 'conti_connections_open{transport="vsock"} 0
=0' sh -c 'wget -qO- http://127.0.0.1:9100/metrics | grep "^conti_connections_open{transport=\"vsock\"}"'
stop_agent
claim "no agent is left, no client, and nothing that sleeps" '=1' pidof contid contictl sleep
# A socket that was closed stays for up to 8 seconds where the other end has not answered.
claim "no socket is left: the kernel lets go of vsock" '=0' sh -c 'for _ in $(seq 15); do
        for module in vsock_loopback vmw_vsock_virtio_transport_common vsock; do rmmod $module; done
        [ -e /sys/module/vsock ] || exit 0
        sleep 1
    done 2>/dev/null; exit 1'
