"""Lock a process in, for good: Landlock, no privileges, resource limits, seccomp filters. Standard library only.

    enter(settings) -> names of the layers     in the zygote, once: what it and all its children may never do
    lock(settings, zygote), Seal(unsafe)()     in each child, before any foreign code: what only the zygote still may

All raise OSError where a layer that was asked for is refused. Nothing here can be undone by the process itself.
Numbers are the kernel's (include/uapi/linux/landlock.h, seccomp.h, bpf_common.h; asm/unistd.h of x86_64 and aarch64).
The long filter is installed once and inherited: a filter of 110 rules costs 0.2 ms each time, the short one 0.05 ms.
Not here: the decision which layers are asked for (`layers`), namespaces (bubblewrap's work: `isolate`).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

TYPE_CHECKING = False  # the module typing itself costs 10 ms of each start
if TYPE_CHECKING:
    from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SIGKILL, SIGSTOP, SIGXCPU = 9, 19, 24
EPERM, ENOSYS = 1, 38
# What a zygote keeps whose children become another user: chown, override, fowner (to clear the scratch), kill, setgid, setuid
_KEPT = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7

# Landlock rights by the ABI that brought them: 1 the first thirteen, 2 refer, 3 truncate, 5 ioctl on devices
_RIGHTS_BY_ABI = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_SCRATCH = (
    _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13
)  # remove, make, move; no links or devices
_DEVICES = {"/dev/null": _READ_FILE | _WRITE_FILE, "/dev/zero": _READ_FILE, "/dev/random": _READ_FILE, "/dev/urandom": _READ_FILE}

# Refused with EPERM whatever the arguments: (x86_64, aarch64), None where the machine has no such call.
# Owners, times and attributes are here because Landlock does not know them: without this, files outside could be changed;
# timer_create because such a timer may send SIGKILL, which would look like something outside; io_setup and sync use up the machine's.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "kcmp": (312, 272),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "socket": (41, 198), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "bpf": (321, 280), "seccomp": (317, 277), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "memfd_create": (319, 279), "personality": (135, 92), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "inotify_init": (253, None), "inotify_init1": (294, 26), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semctl": (66, 191),
    "semop": (65, 193), "semtimedop": (220, 192), "msgget": (68, 186), "msgctl": (71, 187), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "truncate": (76, 45), "chown": (92, None), "lchown": (94, None),
    "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "syslog": (103, 116), "timer_create": (222, 107), "io_setup": (206, 0), "sync": (162, 81), "syncfs": (306, 267),
}  # fmt: skip
# The same for a child only: its zygote forks, watches, and clears up.
DENIED_TO_CHILDREN: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "pidfd_open": (434, 434), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
}  # fmt: skip
# Without a scratch in memory of a fixed size: a file whose name is gone could not be counted.
DENIED_ON_DISK: dict[str, tuple[int | None, int | None]] = {
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
}  # fmt: skip
# From 424 on the numbers are the same on both machines. Only these are let through; others are ENOSYS, so that libc falls back.
NEW_ALLOWED = {
    "pidfd_open": 434, "close_range": 436, "faccessat2": 439, "epoll_pwait2": 441, "futex_waitv": 449, "cachestat": 451,
    "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "mseal": 462,
}  # fmt: skip
FIRST_NEW = 424
# Calls whose arguments decide, same order of machines
ARGUED: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122), "fcntl": (72, 25), "ioctl": (16, 29), "socketpair": (53, 199), "sendto": (44, 206),
    "setrlimit": (160, 164), "open": (2, None), "openat": (257, 56),
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def enter(settings: dict[str, Any]) -> str:
    """Confine the zygote, and with it its children; name the layers. Where `settings["unsafe"]`, Landlock and seccomp may be missing."""
    die_with(settings["parent"])
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    uid = settings["uid"]
    if uid is not None:
        os.chown(".", uid, uid)
    layers = [_tried(settings, "landlock", lambda: restrict_files(settings["read"]))]
    _keep_capabilities(0 if uid is None else _KEPT)
    _prctl(PR_SET_DUMPABLE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NPROC, settings["threads"])
    _limit(resource.RLIMIT_STACK, 64 << 20, resource.RLIM_INFINITY)  # grows on demand; recursion through C needs more than the usual 8 MiB
    layers.append("same-user" if uid is None else "own-user" if settings["alone"] else "nobody")
    layers.append(_tried(settings, "seccomp", lambda: _install(base_filter(os.uname().machine))))
    return " ".join([*layers, "rlimits"])


def _tried(settings: dict[str, Any], name: str, layer: Any) -> str:
    try:
        return str(layer() or name)
    except OSError as error:
        if not settings["unsafe"]:
            raise OSError(error.errno, f"{name}: {error.strerror}") from error
        return f"no-{name}"


def lock(settings: dict[str, Any], zygote: int) -> None:
    """Make a child of pid `zygote` another user, whom no capability follows."""
    uid = settings["uid"]
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    die_with(zygote if settings["parent"] else None)  # after the change of uid, which clears it


class Seal:
    """The last step of a child: from here on no processes, no signals but to itself. Made ready in the zygote, it costs 0.05 ms."""

    def __init__(self, unsafe: bool, on_disk: bool):
        self._code = bytearray(child_filter(os.uname().machine, on_disk))
        self._pids = [slice(at, at + 4) for at in range(len(self._code)) if self._code.startswith(_ANY_PID, at)]  # where its own is due
        self._lines = (ctypes.c_char * len(self._code)).from_buffer(self._code)
        self._program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(self._code) // 8, ctypes.addressof(self._lines)))
        self._address = ctypes.addressof(self._program)
        self._unsafe = unsafe
        self._prctl = _libc.prctl

    def __call__(self) -> None:
        pid = os.getpid().to_bytes(4, "little")
        for place in self._pids:
            self._code[place] = pid
        if self._prctl(PR_SET_SECCOMP, 2, self._address, 0, 0) and not self._unsafe:
            raise OSError(ctypes.get_errno(), "seccomp refused")


def die_with(parent: int | None) -> None:
    """SIGKILL this process when the thread that started it ends, even if that one is itself killed. None: bubblewrap sees to it."""
    if parent is not None:
        _prctl(PR_SET_PDEATHSIG, SIGKILL)
        if os.getppid() != parent:
            raise ProcessLookupError("the grader is gone")


def restrict_files(read: list[str]) -> str:
    """Landlock: read below `read`, write below the working folder, nothing else; no TCP, no signals or abstract sockets beyond us."""
    abi = _syscall(444, None, 0, 1)
    rights = _RIGHTS_BY_ABI[min(abi, 5)]
    attributes = struct.pack("QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    ruleset = _syscall(444, attributes, 24 if abi >= 6 else 16 if abi >= 4 else 8, 0)
    rules = dict.fromkeys(read, _READ_FILE | _READ_DIR) | _DEVICES | {".": _SCRATCH}
    for path, wanted in rules.items():
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed = wanted & rights if os.path.isdir(path) else wanted & rights & ~_READ_DIR  # noqa: PTH112 (pathlib costs 5 ms here)
        _syscall(445, ruleset, 1, struct.pack("=Qi", allowed, parent), 0)
        os.close(parent)
    _syscall(446, ruleset, 0)
    os.close(ruleset)
    return f"landlock-{abi}"


def _keep_capabilities(mask: int) -> None:
    """Permitted and effective become `mask`, whoever we are; nothing is inheritable."""
    _check(_libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", mask, mask, 0, 0, 0, 0)))


def child_limits(memory_bytes: int, output_bytes: int, cpu_backstop: int) -> list[tuple[int, tuple[int, int]]]:
    """For setrlimit, CPU time last: it is a back-stop for a zygote that hangs, which ends the program itself at the exact limit."""
    wanted = {
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_FSIZE: (output_bytes, output_bytes),
        resource.RLIMIT_CPU: (cpu_backstop, cpu_backstop + 1),
    }
    return [(kind, within(kind, *pair)) for kind, pair in wanted.items()]


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    resource.setrlimit(kind, within(kind, soft, soft if hard is None else hard))


def within(kind: int, soft: int, hard: int) -> tuple[int, int]:
    """Not above the hard limit that is there."""
    most = resource.getrlimit(kind)[1]
    if most == resource.RLIM_INFINITY:
        return soft, hard
    return min(soft, most), most if hard == resource.RLIM_INFINITY else min(hard, most)


_Line = tuple[int, int, int, int]  # of BPF: operation, jump if true, jump if false, operand
_ANY_PID = b"\xfe\xca\xfe\xca"  # stands in the short filter for the child's own


def base_filter(machine: str) -> bytes:
    """The long filter, for the zygote and what it forks: what nobody may call, as BPF: one block a call, the last line allows."""
    column = _column(machine)
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 twins of all calls
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | ENOSYS)]
    for number in NEW_ALLOWED.values():
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code += [(_AT_LEAST, 0, 1, FIRST_NEW), (_RETURN, 0, 0, _ERRNO | ENOSYS)]
    return _assembled(code + _refusals(DENIED, column), _BASE_RULES, column)


def child_filter(machine: str, on_disk: bool) -> bytes:
    """The short filter, on top of the long one; `_ANY_PID` in it is to be replaced by the child's. `on_disk`: what the scratch lies on."""
    column = _column(machine)
    calls, rules = (DENIED_TO_CHILDREN | DENIED_ON_DISK, _CHILD_RULES + _DISK_RULES) if on_disk else (DENIED_TO_CHILDREN, _CHILD_RULES)
    return _assembled([(_LOAD, 0, 0, 0), *_refusals(calls, column)], rules, column)


def _column(machine: str) -> int:
    if machine not in _AUDIT_ARCH:
        raise OSError(ENOSYS, f"no system call table for {machine}")
    return list(_AUDIT_ARCH).index(machine)


def _refusals(calls: dict[str, tuple[int | None, int | None]], column: int) -> list[_Line]:
    numbers = [numbers[column] for numbers in calls.values()]
    return [line for number in numbers if number is not None for line in ((_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | EPERM))]


def _assembled(code: list[_Line], rules: tuple[_Rule, ...], column: int) -> bytes:
    blocks: list[_Line] = []
    for name, argument, verb, values in rules:
        if (number := ARGUED[name][column]) is not None:
            blocks += _block(number, argument, verb, values)
    return b"".join(struct.pack("HBBI", *line) for line in [*code, *blocks, (_RETURN, 0, 0, _ALLOW)])


# (call, argument, rule, values); 0.5 added means the argument's upper half. Ids and commands are 32 bits wide in the kernel.
_Rule = tuple[str, float, str, tuple[int, ...]]
_BASE_RULES: tuple[_Rule, ...] = (
    ("prlimit64", 0, "only", (0,)),
    ("sched_setaffinity", 0, "only", (0,)),
    ("fcntl", 1, "not", (8, 10, 15, 1024, 1026)),  # SETOWN, SETSIG, SETOWN_EX, SETLEASE, NOTIFY: signals to others
    ("ioctl", 1, "not", (0x8901, 0x8902, 0x5452, 0x5412)),  # FIOSETOWN, SIOCSPGRP, FIOASYNC, TIOCSTI
    ("socketpair", 1, "only", (0x1, 0x801, 0x80001, 0x80801)),  # streams: a datagram pair could send to any address
    ("sendto", 4, "only", (0,)),
    ("sendto", 4.5, "only", (0,)),
)
_PID = int.from_bytes(_ANY_PID, "little")
_CHILD_RULES: tuple[_Rule, ...] = (
    ("clone", 0, "bits", (0x10000,)),  # threads only
    ("kill", 0, "only", (_PID,)),
    ("kill", 1, "not", (SIGKILL, SIGSTOP, SIGXCPU)),  # a program must not be able to look like one that was ended from outside
    ("tgkill", 0, "only", (_PID,)),
    ("tgkill", 2, "not", (SIGKILL, SIGSTOP, SIGXCPU)),
    ("prctl", 0, "not", (PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP)),
    ("prlimit64", 1, "not", (resource.RLIMIT_CPU,)),  # the kernel kills at its end
    ("setrlimit", 0, "not", (resource.RLIMIT_CPU,)),
)
_O_TMPFILE = 0x400000
_DISK_RULES: tuple[_Rule, ...] = (("open", 1, "no bits", (_O_TMPFILE,)), ("openat", 2, "no bits", (_O_TMPFILE,)))


def _install(code: bytes) -> None:
    """Filter every call this process makes from now on."""
    lines = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(lines)))
    _prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


def _block(number: int, argument: float, rule: str, values: tuple[int, ...]) -> list[_Line]:
    offset = 16 + int(argument * 8)  # little-endian: the lower half first
    refuse = (_RETURN, 0, 0, _ERRNO | EPERM)
    body = [(_LOAD, 0, 0, offset)]
    if rule == "bits":
        body += [(_ANY_BIT, 1, 0, values[0]), refuse]
    elif rule == "no bits":
        body += [(_ANY_BIT, 0, 1, values[0]), refuse]
    elif rule == "only":
        body += [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)] + [refuse]
    else:
        body += [line for value in values for line in ((_EQUAL, 0, 1, value), refuse)]
    body.append((_LOAD, 0, 0, 0))
    return [(_EQUAL, 0, len(body), number), *body]


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    _check(_libc.prctl(option, value, pointer, 0, 0))


def _syscall(number: int, *arguments: Any) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
