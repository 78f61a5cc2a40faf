"""Binds SOURCE on AT with an id map: what is root's there is 700000's."""

import ctypes
import os
import subprocess
import sys

source, at = sys.argv[1:]
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
MOUNT_ATTR_IDMAP = 0x100000

libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments):
    found = libc.syscall(*arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


holds = ["unshare", "--user", "sh", "-c", "echo; exec cat"]
held = subprocess.Popen(holds, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
held.stdout.readline()
for kind in ("uid", "gid"):
    open(f"/proc/{held.pid}/{kind}_map", "w").write("0 700000 65536")
user = os.open(f"/proc/{held.pid}/ns/user", os.O_RDONLY)
tree = call(OPEN_TREE, AT_FDCWD, source.encode(), OPEN_TREE_CLONE)
attr = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, user)
call(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, ctypes.byref(attr), ctypes.c_size_t(32))
call(MOVE_MOUNT, tree, b"", AT_FDCWD, at.encode(), MOVE_MOUNT_F_EMPTY_PATH)
held.stdin.close()
held.wait()
