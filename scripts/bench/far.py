"""A stream to and from an agent on the other end of a long way, against plain TCP on the same way.

Started by two_hosts (tests/src/bin), which joins two network namespaces by a cable with a delay and a rate.
Prints the seconds of each contender, round by round, as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time

GIB = 1 << 30
PIECE = 1 << 20
# What one end of the plain stream does, with its address, port and size.
SEND = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
piece = bytes(1 << 20)
while True:
    connection = server.accept()[0]
    for _ in range(int(sys.argv[3]) >> 20):
        connection.sendall(piece)
    connection.close()
"""
RECEIVE = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
count = 0
while piece := connection.recv(1 << 20):
    count += len(piece)
sys.exit(count != int(sys.argv[3]))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contid", required=True)
    parser.add_argument("--contictl", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", type=int, default=GIB)
    args = parser.parse_args()
    near, far = os.environ["NEAR"].split(), os.environ["FAR"].split()
    address = os.environ["FAR_ADDRESS"]
    os.makedirs(args.dir)
    environment = {**os.environ, "XDG_CONFIG_HOME": f"{args.dir}/config"}
    environment.pop("CONTI_HOST", None)
    for host in (near, far):
        # As an administrator of hosts that are far apart has set it: the buffers hold what is under way.
        for name in ("rmem", "wmem"):
            setting = f"echo 4096 1048576 67108864 > /proc/sys/net/ipv4/tcp_{name}"
            subprocess.run([*host, "sh", "-c", setting], check=True)
    data, socket = f"{args.dir}/data", f"unix://{args.dir}/contid.sock"
    contid = [*far, args.contid, "--data-dir", data]
    subprocess.run([*contid, "pki", "init", "--name", address], check=True, stdout=sys.stderr)
    agent = subprocess.Popen(
        [*contid, "--state-dir", f"{args.dir}/state", "--audit-log", f"{args.dir}/audit/audit.jsonl", "--listen", socket, "--listen", f"tcp://{address}:7443"],
        stderr=subprocess.DEVNULL,
    )
    plain = subprocess.Popen(
        [*far, sys.executable, "-c", SEND, address, "7000", str(args.size)], stdout=subprocess.PIPE
    )
    try:
        plain.stdout.readline()
        invite = [*contid, "invite", "--role", "operator", "--name", "alice", "--address", address]
        code = subprocess.run(invite, check=True, capture_output=True, text=True).stdout.strip()

        def client(*words, **more):
            argv = [*near, args.contictl, *words]
            return subprocess.run(argv, env=environment, check=True, **more)

        for _ in range(100):
            joined = subprocess.run(
                [*near, args.contictl, "join", code], env=environment, stdout=sys.stderr
            )
            if joined.returncode == 0:
                break
            time.sleep(0.1)
        client("run", "-d", "--name", "far", "--", "sleep", "100000", stdout=sys.stderr)
        zeros = f"{args.dir}/zeros"
        with open(zeros, "wb") as file:
            file.truncate(args.size)

        def stdout():
            words = ["exec", "far", "--", "head", "-c", str(args.size), "/dev/zero"]
            client(*words, stdout=subprocess.DEVNULL)

        def stdin():
            with open(zeros, "rb") as file:
                client("exec", "-i", "far", "--", "sh", "-c", "cat > /dev/null", stdin=file)

        def tcp():
            receive = [*near, sys.executable, "-c", RECEIVE, address, "7000", str(args.size)]
            subprocess.run(receive, check=True)

        contenders = [("plain TCP", tcp), ("contictl exec", stdout), ("contictl exec -i", stdin)]
        times = {name: [] for name, _ in contenders}
        for _ in range(args.rounds):
            for name, run in contenders:
                begin = time.monotonic()
                run()
                times[name].append(time.monotonic() - begin)
        client("rm", "-f", "far", stdout=sys.stderr)
        print(json.dumps(times))
    finally:
        plain.kill()
        agent.terminate()
        agent.wait()


if __name__ == "__main__":
    main()
