"""Times commands that it reads from stdin, one JSON list a line, and answers with seconds.

The benchmark starts one in each mount namespace that it needs, so that a peer is timed where it
works and no command pays for getting there.
"""

import json
import os
import sys
import time


def run(argv, quiet):
    """Runs a command to its end: the seconds it took and its exit code."""
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    if quiet:
        actions.append((os.POSIX_SPAWN_DUP2, null, 2))
    begin = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    end = time.perf_counter()
    os.close(null)
    return end - begin, os.waitstatus_to_exitcode(status)


def main():
    for line in sys.stdin:
        argv = json.loads(line)
        seconds, code = run(argv, quiet=False)
        print(json.dumps([seconds, code]), flush=True)


if __name__ == "__main__":
    main()
