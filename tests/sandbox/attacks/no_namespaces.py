"""A machine that grants no namespaces, as many containers are: run a command under a filter that has the kernel refuse them.

python -m tests.sandbox.attacks.no_namespaces COMMAND ...
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

NEW_NAMESPACES = 0x7E020080  # user, mount, pid, network, ipc, uts, cgroup, time
CALLS = {"x86_64": (56, 272, 308), "aarch64": (220, 97, 268)}  # clone, unshare, setns
CLONE3 = 435
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def refuse() -> None:
    """For this process and what it starts."""
    clone, unshare, setns = CALLS[os.uname().machine]
    lines = [
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, REFUSE | 38),  # its arguments cannot be seen: ENOSYS, so that libc takes clone
        (EQUAL, 0, 1, setns), (RETURN, 0, 0, REFUSE | 1),
        (EQUAL, 1, 0, clone), (EQUAL, 0, 3, unshare),
        (LOAD, 0, 0, 16), (ANY_BIT, 0, 1, NEW_NAMESPACES), (RETURN, 0, 0, REFUSE | 1),
        (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0  # no new privileges
    assert libc.prctl(22, ctypes.c_ulong(2), program, zero, zero) == 0  # the filter


if __name__ == "__main__":
    refuse()
    os.execv(sys.argv[1], sys.argv[1:])
