"""Times Conti against the peers that users would pick instead, interleaved in one run: one round
runs each of them once, in turn, so that what slows the machine down slows all of them down.

Started by run.sh, with an agent that is there already.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import oci

HERE = Path(__file__).parent
GIB = 1 << 30


class Worker:
    """A process that times commands, in a mount namespace that suits the peers or in ours."""

    def __init__(self, private=False, worker=None):
        worker = worker or [sys.executable, str(HERE / "worker.py")]
        if private:
            # crun refuses a hybrid host unless it does not see the unified hierarchy.
            script = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
            worker = ["unshare", "--mount", "sh", "-c", script, "sh", *worker]
        self.process = subprocess.Popen(
            worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def time(self, argv):
        self.process.stdin.write(json.dumps(argv) + "\n")
        self.process.stdin.flush()
        seconds, code = json.loads(self.process.stdout.readline())
        if code != 0:
            raise SystemExit(f"{' '.join(argv)} ended with {code}")
        return seconds

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Results:
    """The times of each contender, by round."""

    def __init__(self):
        self.times = {}

    def add(self, name, seconds):
        self.times.setdefault(name, []).append(seconds)

    def median(self, name):
        return statistics.median(self.times[name])

    def tenth(self, name):
        return sorted(self.times[name])[len(self.times[name]) // 10]

    def ratio(self, name, to):
        """The median of the ratios of each round."""
        pairs = zip(self.times[name], self.times[to])
        return statistics.median(mine / theirs for mine, theirs in pairs)


def interleaved(contenders, rounds, warm_up):
    """Runs each contender once a round. A contender is a name, a worker and a call for its argv."""
    results = Results()
    for number in range(rounds + warm_up):
        # Whoever follows the most expensive one may pay for its aftermath: turn the order.
        shift = number % len(contenders)
        for name, worker, argv in contenders[shift:] + contenders[:shift]:
            seconds = worker.time(argv(number))
            if number >= warm_up:
                results.add(name, seconds)
    return results


class Sshd:
    """An ssh server of the benchmark's own, on the loopback interface, with its own keys."""

    def __init__(self, directory):
        directory.mkdir(mode=0o700)
        for name in ["host", "user"]:
            generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name]
            subprocess.run(generate, check=True)
        shutil.copy(directory / "user.pub", directory / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Its privilege separation wants this directory.
        Path("/run/sshd").mkdir(exist_ok=True)
        config = directory / "config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host\nPidFile none\n"
            f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        )
        log = open(directory / "log", "w")
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
        self.process = subprocess.Popen([sshd, "-D", "-e", "-f", config], stderr=log)
        self.command = (
            f"ssh -F none -q -p {port} -i {directory}/user -o StrictHostKeyChecking=no "
            "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes root@127.0.0.1"
        )
        for _ in range(100):
            if subprocess.run(f"{self.command} true", shell=True).returncode == 0:
                return
            time.sleep(0.05)
        raise SystemExit(f"sshd does not answer: {(directory / 'log').read_text()}")

    def close(self):
        self.process.terminate()
        self.process.wait()


def runs(bench, ours, private):
    """A container for /bin/true, from nothing to nothing."""
    root, true = f"dir:{bench.root}", "/bin/true"
    contenders = [
        ("contictl run --rm", ours, lambda n: [bench.contictl, "run", "--rm", "--rootfs", root, "--", true]),
        ("crun run", private, lambda n: ["crun", "run", "--bundle", bench.true, f"bench-crun-{n}"]),
        ("runc run", private, lambda n: ["runc", "run", "--bundle", bench.true, f"bench-runc-{n}"]),
        ("unshare (namespaces alone)", ours, lambda n: ["unshare", "-muinpC", "--fork", true]),
    ]
    return interleaved(contenders, bench.rounds, 5)


def execs(bench, ours, private):
    """/bin/true in a container that runs."""
    contictl, true = bench.contictl, "/bin/true"
    sleeper = [contictl, "run", "-d", "--rootfs", f"dir:{bench.root}", "--name", "bench", "--"]
    subprocess.run([*sleeper, "/bin/sleep", "100000"], check=True, stdout=subprocess.DEVNULL)
    for runtime in ["crun", "runc"]:
        private.time([runtime, "run", "--detach", "--bundle", bench.sleep, f"bench-{runtime}"])
    inspected = subprocess.run([contictl, "inspect", "bench"], check=True, capture_output=True)
    pid = str(find(json.loads(inspected.stdout), "pid"))
    contenders = [
        ("contictl exec", ours, lambda n: [contictl, "exec", "bench", "--", true]),
        ("nsenter -a (no confinement)", ours, lambda n: ["nsenter", "-a", "-t", pid, true]),
        ("crun exec", private, lambda n: ["crun", "exec", "bench-crun", true]),
        ("runc exec", private, lambda n: ["runc", "exec", "bench-runc", true]),
    ]
    try:
        return interleaved(contenders, bench.rounds, 5)
    finally:
        for runtime in ["crun", "runc"]:
            private.time([runtime, "delete", "--force", f"bench-{runtime}"])


def find(value, key):
    """The first value of a key, however deep."""
    if isinstance(value, dict):
        if key in value:
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            found = find(item, key)
            if found is not None:
                return found
    return None


def streams(bench, ours, ssh):
    """1 GiB out of a running container and into it; all ends in `cat >/dev/null`."""
    make, sink = f"head -c {GIB} /dev/zero", "cat >/dev/null"
    out = f"{bench.contictl} exec bench -- {make}"
    into = f"{bench.contictl} exec -i bench -- sh -c '{sink}'"

    def shell(script):
        return lambda n: ["bash", "-o", "pipefail", "-c", script]

    stdout = [
        ("contictl exec", ours, shell(f"{out} | {sink}")),
        ("cat \\| cat (no container)", ours, shell(f"{make} | cat | {sink}")),
        ("ssh on loopback", ours, shell(f"{ssh.command} '{make}' </dev/null | {sink}")),
    ]
    stdin = [
        ("contictl exec -i", ours, shell(f"{make} | {into}")),
        ("cat \\| cat (no container)", ours, shell(f"{make} | cat | {sink}")),
        ("ssh on loopback", ours, shell(f"{make} | {ssh.command} '{sink}'")),
    ]
    return interleaved(stdout, bench.stream_rounds, 1), interleaved(stdin, bench.stream_rounds, 1)


def looks(bench, ours):
    """Listing the namespaces of a busy host, and the mounts of a process that has many."""
    busy = [sys.executable, str(HERE / "busy.py"), "--namespaces", str(bench.namespaces)]
    directory = bench.dir / "busy"
    directory.mkdir()
    busy = subprocess.Popen(
        [*busy, "--mounts", str(bench.mounts), str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    socket = os.environ["CONTI_HOST"].removeprefix("unix://")
    api = Worker(worker=[str(bench.api_worker), socket])
    try:
        pid = busy.stdout.readline().strip()
        if not pid:
            raise SystemExit("the busy host could not be made")
        namespaces = [
            ("the API", api, lambda n: ["namespaces"]),
            ("contictl ns ls", ours, lambda n: [bench.contictl, "ns", "ls"]),
            ("lsns", ours, lambda n: ["lsns"]),
        ]
        mounts = [
            ("the API", api, lambda n: ["mounts", pid]),
            ("contictl mounts", ours, lambda n: [bench.contictl, "mounts", "--no-usage", f"pid:{pid}"]),
            ("findmnt", ours, lambda n: ["findmnt", "--task", pid]),
        ]
        return interleaved(namespaces, bench.look_rounds, 3), interleaved(mounts, bench.look_rounds, 3)
    finally:
        api.close()
        busy.stdin.close()
        busy.wait()


def conti_processes(agent):
    """The agent and all of its own below it; the commands of containers are left out."""
    children = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
        except (OSError, IndexError):
            continue
    found, queue = [], [agent]
    while queue:
        pid = queue.pop()
        queue += children.get(pid, [])
        try:
            executable = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if "conti" in os.path.basename(executable.removesuffix(" (deleted)")):
            found.append(pid)
    return found


def proportional_kib(pids):
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total


def memory(bench):
    """What idle containers cost in processes of Conti: their share of memory (PSS), in KiB each."""
    time.sleep(2)
    before = proportional_kib(conti_processes(bench.agent_pid))
    names = [f"idle{n}" for n in range(bench.idle)]
    for name in names:
        start = [bench.contictl, "run", "-d", "--rootfs", f"dir:{bench.root}", "--name", name, "--"]
        subprocess.run([*start, "/bin/sleep", "100000"], check=True, stdout=subprocess.DEVNULL)
    time.sleep(3)
    after = proportional_kib(conti_processes(bench.agent_pid))
    subprocess.run([bench.contictl, "rm", "-f", *names], check=True, stdout=subprocess.DEVNULL)
    return before, (after - before) / bench.idle


def table(results, first, unit, scale):
    lines = [f"| | median {unit} | 10th percentile | {first} takes |", "|---|---:|---:|---:|"]
    for name in results.times:
        median, tenth = results.median(name) * scale, results.tenth(name) * scale
        ratio = "" if name == first else f"{results.ratio(first, name):.2f}x of it"
        lines.append(f"| {name} | {median:.2f} | {tenth:.2f} | {ratio} |")
    return "\n".join(lines)


def goals(run, execute, stdout, each, namespaces, mounts):
    """What was wanted, and what came out."""
    ssh = 1 / stdout.ratio("contictl exec", "ssh on loopback")
    rows = [
        ("`contictl run --rm` against `crun run`", run.ratio("contictl run --rm", "crun run"), "<= 1.0x", lambda v: v <= 1.0, "{:.2f}x"),
        ("`contictl exec` against `crun exec`", execute.ratio("contictl exec", "crun exec"), "<= 1.0x", lambda v: v <= 1.0, "{:.2f}x"),
        ("1 GiB of stdout, speed against ssh", ssh, ">= 3x", lambda v: v >= 3, "{:.1f}x"),
        ("memory of an idle container (PSS)", each, "<= 1024 KiB", lambda v: v <= 1024, "{:.0f} KiB"),
        ("namespaces of a busy host by the API, against lsns", namespaces.ratio("the API", "lsns"), "<= 1.0x", lambda v: v <= 1.0, "{:.2f}x"),
        ("`contictl ns ls` against `lsns`", namespaces.ratio("contictl ns ls", "lsns"), "<= 1.5x", lambda v: v <= 1.5, "{:.2f}x"),
        ("many mounts by the API, against findmnt", mounts.ratio("the API", "findmnt"), "<= 1.0x", lambda v: v <= 1.0, "{:.2f}x"),
        ("`contictl mounts` against `findmnt`", mounts.ratio("contictl mounts", "findmnt"), "<= 1.5x", lambda v: v <= 1.5, "{:.2f}x"),
    ]
    lines = ["| | wanted | measured | |", "|---|---:|---:|---|"]
    for name, value, wanted, holds, form in rows:
        lines.append(f"| {name} | {wanted} | {form.format(value)} | {'yes' if holds(value) else 'NO'} |")
    return "\n".join(lines)


def far(path):
    """What far.py has measured."""
    results = Results()
    results.times = json.loads(path.read_text())
    return results


def siege(path):
    """The longest command of another client during each attack, for each test."""
    worst = {}
    for line in path.read_text().splitlines():
        test, attack, quiet, longest = line.split("\t")
        quiet, longest = float(quiet), float(longest)
        bound = max(100, 3 * quiet)
        if test not in worst or longest / bound > worst[test][2] / worst[test][3]:
            worst[test] = (attack, quiet, longest, bound)
    lines = ["| attack | quiet ms | longest ms | |", "|---|---:|---:|---|"]
    for test, (attack, quiet, longest, bound) in worst.items():
        name = test.removeprefix("heavy_").replace("_", " ")
        name += "" if attack == "the attack" else f" ({attack})"
        lines.append(f"| {name} | {quiet:.1f} | {longest:.1f} | {'yes' if longest <= bound else 'NO'} |")
    return "\n".join(lines)


def version(command):
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def report(bench, run, execute, stdout, stdin, before, each, namespaces, mounts):
    over = far(bench.far)
    attacks = siege(bench.siege)
    uname = os.uname()
    return f"""# Benchmarks

Written by `make bench`. All contenders of a table were run in turn, round by round, on the same
machine, root filesystem and comparable confinement; the ratio is the median of the ratios of
each round, so that it holds where the machine's speed changes.

Machine: Linux {uname.release}, {uname.machine}, {os.cpu_count()} CPUs. Peers: {version(['crun', '--version'])},
{version(['runc', '--version'])}.

## Goals

{goals(run, execute, stdout, each, namespaces, mounts)}

## Run: a container for /bin/true, from nothing to nothing ({bench.rounds} rounds)

{table(run, "contictl run --rm", "ms", 1000)}

## Exec: /bin/true in a running container ({bench.rounds} rounds)

{table(execute, "contictl exec", "ms", 1000)}

## 1 GiB of stdout ({bench.stream_rounds} rounds)

{table(stdout, "contictl exec", "s", 1)}

## 1 GiB of stdin ({bench.stream_rounds} rounds)

{table(stdin, "contictl exec -i", "s", 1)}

## 1 GiB over a network: {bench.way}, mutual TLS

{table(over, "plain TCP", "s", 1)}

Both ends have TCP buffers of up to 64 MiB (`tcp_rmem`, `tcp_wmem`).

## Under attack

What another client's command takes, from its handshake to its end: before the attack, and the longest of four
during it. `yes`: within 100 ms, or 3 times the time before. Of tests with several attacks the worst is shown.
Attacker, bystander and agent share the CPUs.

{attacks}

## Looking: all namespaces of a host that has {bench.namespaces} more than it had ({bench.look_rounds} rounds)

{table(namespaces, "the API", "ms", 1000)}

## Looking: the mounts of a process that has {bench.mounts} of its own ({bench.look_rounds} rounds)

{table(mounts, "the API", "ms", 1000)}

How full they are is not asked for: findmnt does not either.

## Memory

PSS of all Conti processes: {before} KiB with no idle container, and {each:.0f} KiB more for each of
{bench.idle} idle ones.
"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contictl", required=True)
    parser.add_argument("--agent-pid", type=int, required=True)
    parser.add_argument("--api-worker", required=True)
    parser.add_argument("--look-rounds", type=int, default=30)
    parser.add_argument("--namespaces", type=int, default=1000)
    parser.add_argument("--mounts", type=int, default=5000)
    parser.add_argument("--seccomp", type=Path, required=True)
    parser.add_argument("--far", type=Path, required=True)
    parser.add_argument("--way", required=True)
    parser.add_argument("--siege", type=Path, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--stream-rounds", type=int, default=7)
    parser.add_argument("--idle", type=int, default=40)
    return parser.parse_args()


def main():
    bench = arguments()
    # A signal must not leave an sshd behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench.root = bench.dir / "bench-root"
    oci.build_root(bench.root)
    filters = oci.seccomp(bench.seccomp)
    for name, argv in [("true", ["/bin/true"]), ("sleep", ["/bin/sleep", "100000"])]:
        bundle = oci.bundle(bench.dir / f"bundle-{name}", bench.root, filters, argv)
        setattr(bench, name, str(bundle))
    ours, private = Worker(private=False), Worker(private=True)
    ssh = Sshd(bench.dir / "sshd")
    try:
        print("memory of idle containers", flush=True)
        before, each = memory(bench)
        print("run", flush=True)
        run = runs(bench, ours, private)
        print("exec", flush=True)
        execute = execs(bench, ours, private)
        print("looking at a busy host", flush=True)
        namespaces, mounts = looks(bench, ours)
        print("1 GiB of stdout and of stdin", flush=True)
        stdout, stdin = streams(bench, ours, ssh)
    finally:
        ssh.close()
        ours.close()
        private.close()
    text = report(bench, run, execute, stdout, stdin, before, each, namespaces, mounts)
    bench.report.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
