"""A busy host for the benchmark: processes with namespaces of their own, and one with many mounts.

Prints a line when all is there: the pid of the process with the mounts. All of it goes with this process's stdin.
"""

import argparse
import ctypes
import os
import signal
import sys

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000


def check(result):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def child(work, ready):
    """A child that does some work, says so, and waits for its end."""
    pid = os.fork()
    if pid:
        return pid
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it goes with its parent.
    work()
    os.write(ready, b".")
    while True:
        signal.pause()


def namespaces():
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC))


def mounts(directory, count):
    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    check(libc.mount(b"busy", directory.encode(), b"tmpfs", 0, None))
    for number in range(count):
        point = f"{directory}/{number}".encode()
        os.mkdir(point)
        check(libc.mount(directory.encode(), point, None, MS_BIND, None))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespaces", type=int, required=True)
    parser.add_argument("--mounts", type=int, required=True)
    parser.add_argument("directory")
    arguments = parser.parse_args()
    read, write = os.pipe()
    mounted = child(lambda: mounts(arguments.directory, arguments.mounts), write)
    # Four of them for each process.
    processes = [child(namespaces, write) for _ in range(arguments.namespaces // 4)]
    for _ in [mounted, *processes]:
        if not os.read(read, 1):
            raise SystemExit("a child has ended")
    print(mounted, flush=True)
    sys.stdin.read()
    for pid in [mounted, *processes]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
