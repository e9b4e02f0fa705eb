"""Lock this process in, for good: Landlock, no privileges, resource limits, a seccomp filter. Standard library only.

    confine(job) -> names of the layers now in force; raises OSError where one that was asked for is refused

Runs inside the child, before any foreign code (see `bootstrap`). Nothing here can be undone by the process itself.
Numbers are the kernel's (include/uapi/linux/landlock.h, seccomp.h, bpf_common.h; asm/unistd.h of x86_64 and aarch64).
Not here: the decision which layers are asked for (`isolate`).
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

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SIGKILL, SIGSTOP = 9, 19
EPERM, ENOSYS = 1, 38
OWN_UIDS = 1_900_000_000  # plus the child's pid: a user that no other process has
NOBODY = 65534  # where user ids end at 65535 (a container with mapped ids)

# Landlock rights by the ABI that brought them: 1 the first thirteen, 2 refer, 3 truncate, 5 ioctl on devices
_RIGHTS_BY_ABI = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_SCRATCH = (
    _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13
)  # remove, make, move; no links or devices
_DEVICES = {"/dev/null": _READ_FILE | _WRITE_FILE, "/dev/zero": _READ_FILE, "/dev/random": _READ_FILE, "/dev/urandom": _READ_FILE}

# Refused with EPERM whatever the arguments: (x86_64, aarch64), None where the machine has no such call.
# chmod, chown, times and attributes are here because Landlock does not know them: without this, files outside could be changed.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "kcmp": (312, 272),
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
    "mq_open": (240, 180), "mq_unlink": (241, 181), "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "syslog": (103, 116),
}  # fmt: skip
# From 424 on the numbers are the same on both machines. Only these are let through; others are ENOSYS, so that libc falls back.
NEW_ALLOWED = {
    "close_range": 436, "openat2": 437, "faccessat2": 439, "epoll_pwait2": 441, "futex_waitv": 449, "cachestat": 451,
    "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "mseal": 462,
}  # fmt: skip
FIRST_NEW = 424
# Calls whose arguments decide, same order of machines
ARGUED = {
    "clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122), "fcntl": (72, 25), "ioctl": (16, 29), "socketpair": (53, 199), "sendto": (44, 206),
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def confine(job: dict[str, Any]) -> str:
    """Apply every layer of `job` (see `isolate.Child`) and name them. Where `job["unsafe"]`, Landlock and seccomp may be missing."""
    die_with(job["parent"])
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    uid = {"own": OWN_UIDS + os.getpid(), "nobody": NOBODY, "same": None}[job["user"]]
    if uid is not None:
        os.chown(".", uid, uid)
    layers = [_tried(job, "landlock", lambda: restrict_files(job["read"]))]
    layers.append(drop_privileges(uid))
    die_with(job["parent"])  # a change of uid clears it
    _prctl(PR_SET_DUMPABLE, 0)
    for path in job["read"]:  # an interpreter in somebody's private home is not readable once the uid is another
        if not os.access(path, os.R_OK):
            raise PermissionError(f"{path} cannot be read after the change of user")
    limit_resources(job)
    layers.append(_tried(job, "seccomp", lambda: filter_calls(os.uname().machine)))
    return " ".join([*layers, "rlimits"])


def _tried(job: dict[str, Any], name: str, layer: Any) -> str:
    try:
        return str(layer())
    except OSError as error:
        if not job["unsafe"]:
            raise OSError(error.errno, f"{name}: {error.strerror}") from error
        return f"no-{name}"


def die_with(parent: int) -> None:
    """SIGKILL this process when the thread that started it ends, even if that one is itself killed."""
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


def drop_privileges(uid: int | None) -> str:
    """Become `uid` (None: stay) and lose every capability, whoever we were."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _check(_libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)))
    return "same-user" if uid is None else "nobody" if uid == NOBODY else "own-user"


def limit_resources(job: dict[str, Any]) -> None:
    """CPU is a back-stop for a grader that hangs: the grader itself ends the program at the exact limit."""
    _limit(resource.RLIMIT_AS, job["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, job["output_bytes"])
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(
        resource.RLIMIT_NPROC, 256 if job["user"] == "own" else 16384
    )  # counts all threads of the user: tight only for a user of our own
    _limit(resource.RLIMIT_CPU, job["cpu_backstop"], job["cpu_backstop"] + 1)
    _limit(resource.RLIMIT_STACK, 64 << 20, resource.RLIM_INFINITY)  # grows on demand; recursion through C needs more than the usual 8 MiB


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(kind)[1]
    ceiling = float("inf") if most == resource.RLIM_INFINITY else most
    hard = soft if hard is None else hard
    resource.setrlimit(kind, (int(min(soft, ceiling)), most if hard == resource.RLIM_INFINITY else int(min(hard, ceiling))))


def filter_calls(machine: str) -> str:
    """Install the seccomp filter for every call this process makes from now on."""
    if machine not in _AUDIT_ARCH:
        raise OSError(ENOSYS, f"no system call table for {machine}")
    code = assemble(machine, os.getpid())
    lines = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(lines)))
    _prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))
    return "seccomp"


def assemble(machine: str, pid: int) -> bytes:
    """The filter as BPF: one block a call, each falling through to the next, the last line allows."""
    column = ("x86_64", "aarch64").index(machine)
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 twins of all calls
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | ENOSYS)]
    for number in NEW_ALLOWED.values():
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code += [(_AT_LEAST, 0, 1, FIRST_NEW), (_RETURN, 0, 0, _ERRNO | ENOSYS)]
    for numbers in DENIED.values():
        if (denied := numbers[column]) is not None:
            code += [(_EQUAL, 0, 1, denied), (_RETURN, 0, 0, _ERRNO | EPERM)]
    for name, argument, verb, values in _argument_rules(pid):
        code += _block(ARGUED[name][column], argument, verb, values)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in code)


def _argument_rules(pid: int) -> list[tuple[str, float, str, tuple[int, ...]]]:
    """(call, argument, rule, values); 0.5 added means the argument's upper half. Ids and commands are 32 bits wide in the kernel."""
    return [
        ("clone", 0, "bits", (0x10000,)),  # threads only
        ("kill", 0, "only", (pid,)),
        ("kill", 1, "not", (SIGKILL, SIGSTOP)),  # a program must not be able to look like one that was killed from outside
        ("tgkill", 0, "only", (pid,)),
        ("tgkill", 2, "not", (SIGKILL, SIGSTOP)),
        ("prctl", 0, "not", (PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP)),
        ("prlimit64", 0, "only", (0,)),
        ("sched_setaffinity", 0, "only", (0,)),
        ("fcntl", 1, "not", (8, 10, 15, 1024, 1026)),  # SETOWN, SETSIG, SETOWN_EX, SETLEASE, NOTIFY: signals to others
        ("ioctl", 1, "not", (0x8901, 0x8902, 0x5452, 0x5412)),  # FIOSETOWN, SIOCSPGRP, FIOASYNC, TIOCSTI
        ("socketpair", 1, "only", (0x1, 0x801, 0x80001, 0x80801)),  # streams: a datagram pair could send to any address
        ("sendto", 4, "only", (0,)),
        ("sendto", 4.5, "only", (0,)),
    ]


def _block(number: int, argument: float, rule: str, values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    offset = 16 + int(argument * 8)  # little-endian: the lower half first
    refuse = (_RETURN, 0, 0, _ERRNO | EPERM)
    body = [(_LOAD, 0, 0, offset)]
    if rule == "bits":
        body += [(_ANY_BIT, 1, 0, values[0]), refuse]
    elif rule == "only":
        body += [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)] + [refuse]
    else:
        body += [line for value in values for line in ((_EQUAL, 0, 1, value), refuse)]
    body.append((_LOAD, 0, 0, 0))
    return [(_EQUAL, 0, len(body), number), *body]


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _syscall(number: int, *arguments: Any) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
