"""The tables of attacks, read.

    == NAME -> WHAT MUST HOLD: what it tries
    : OPTION VALUE
    program, up to the next head

What must hold is a list of words. `refused`: every call that the program makes raises OSError (it then says "stopped", which is its
expected output, so "passed" is the verdict). `nothing`: it ends without a complaint, and says "stopped" likewise. `failed`: any failure,
but not "unknown". Others are the statuses that are allowed. A program that writes BREACH to stderr has won whatever its status.

Options: `function NAME` to be called; `inputs A B C` (7 8 9 10 if not said); `expected TEXT`, of each test (EXPECTED if not said), or of
each its own, with ` | ` between;
`limits short` or `hasty`; `only in LEVEL`, the one level of isolation that promises it.

Programs of the first two sorts find in their globals what PREAMBLE and CALL define. TOKEN becomes 16 random digits.
"""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from .bombs import BOMBS, READ

FAILED = frozenset({"wrong", "error", "timeout", "memory", "output_limit"})
EXPECTED = "expected-{TOKEN}"  # nobody can guess it, and one who finds it can recognise it

PREAMBLE = """
import os
SECRET, HOME, GRADER, PORT, ABSTRACT, SOCKET, SOURCE, TESTS = {world!r}
def each(attempt, *items):
    finding([item for item in items if not refused(attempt, item)])
def refused(attempt, item):
    try: attempt(item)
    except OSError: return True
def finding(found):
    if found: raise RuntimeError(f"BREACH: {{found}}")
    raise OSError("nothing")
"""
# Only an error that says no counts, not one that says that the arguments were bad: else a call that is let through would look refused.
CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {numbers!r}
def call(name, *arguments):
    if NUMBERS[name] is None: raise OSError("no such call on this machine")
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0 and ctypes.get_errno() in (1, 3, 13, 38):  # EPERM, ESRCH, EACCES, ENOSYS
        raise OSError(ctypes.get_errno(), name)
    if result < 0: raise RuntimeError(f"BREACH: {{name}} was let through to error {{ctypes.get_errno()}}")
    return result
"""
NUMBERS: dict[str, tuple[int | None, int | None]] = {  # x86_64, aarch64
    "clone": (56, 220), "vfork": (58, None), "clone3": (435, 435), "execveat": (322, 281), "ptrace": (101, 117), "kcmp": (312, 272),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440), "move_pages": (279, 239),
    "bpf": (321, 280), "io_uring_setup": (425, 425), "io_setup": (206, 0), "add_key": (248, 217), "keyctl": (250, 219),
    "request_key": (249, 218), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "fsopen": (430, 430), "open_tree": (428, 428), "unshare": (272, 97), "setns": (308, 268),
    "personality": (135, 92), "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "seccomp": (317, 277), "landlock_create_ruleset": (444, 444), "prctl": (157, 167),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "timer_create": (222, 107),
    "setrlimit": (160, 164), "prlimit64": (302, 261), "syslog": (103, 116), "fanotify_init": (300, 262), "inotify_init1": (294, 26),
    "name_to_handle_at": (303, 264), "ioprio_set": (251, 30), "chroot": (161, 51), "sethostname": (170, 161), "clock_settime": (227, 112),
    "swapoff": (168, 225), "sync": (162, 81), "capset": (126, 91), "iopl": (172, None), "getpid_x32": (0x40000027, None),
}  # fmt: skip


class Attack(NamedTuple):
    tries: str
    program: str
    holds: frozenset[str]  # the statuses that mean that it gained nothing
    inputs: tuple[str, ...]
    expected: tuple[str, ...]  # of each input
    func_name: str | None
    limits: str
    only_in: str

    @property
    def is_refused(self) -> bool:
        return self.program.startswith("#armed\n")

    def complete(self, world: tuple[object, ...]) -> str:
        """The program, with what it may use in front."""
        if not self.is_refused:
            return self.program
        column = ("x86_64", "aarch64").index(os.uname().machine)
        calls = CALL.format(numbers={name: pair[column] for name, pair in NUMBERS.items()}) if "call(" in self.program else ""
        return PREAMBLE.format(world=world) + calls + self.program


def table() -> dict[str, Attack]:
    """All attacks by name."""
    found: dict[str, Attack] = {}
    for path in sorted(Path(__file__).parent.glob("*.txt")):
        for block in re.split(r"^== ", path.read_text(), flags=re.MULTILINE)[1:]:
            name, attack = _read(block)
            assert name not in found, name
            found[name] = attack
    found |= {f"compile_{name}": _attack("stop the compiler", "failed", source, limits="short") for name, source in BOMBS.items()}
    echo = {"function": "f", "expected": "7 | 8 | 9 | 10"}
    return found | {f"read_{name}": _attack("stop whoever reads it", "passed", source, **echo) for name, source in READ.items()}


def _read(block: str) -> tuple[str, Attack]:
    head, _, rest = block.partition("\n")
    parts = re.fullmatch(r"(\w+) -> ([\w ]+): (.+)", head)
    assert parts, head
    name, holds, tries = parts.groups()
    options = {}
    while rest.startswith(": "):
        line, _, rest = rest.partition("\n")
        key, _, value = line[2:].partition(" ")
        options[key] = value
    return name, _attack(tries, holds, rest, **options)


def _attack(tries: str, holds: str, program: str, **options: str) -> Attack:
    words = set(holds.split())
    asks = words & {"refused", "nothing"}  # ends well, and says so
    if "refused" in words:
        program = (
            f"#armed\ntry:\n{textwrap.indent(program, '    ')}\nexcept OSError:\n    print('stopped')\n"
            "else:\n    raise RuntimeError('BREACH: not refused')\n"
        )
    elif asks:
        program = f"#armed\n{program}\nprint('stopped')\n"
    function = options.get("function")
    inputs = options.get("inputs", "7" if asks else "7 8 9 10").split(" ")
    expected = options.get("expected", "stopped" if asks else f'"{EXPECTED}"' if function else EXPECTED).replace("\\n", "\n").split(" | ")
    return Attack(
        tries,
        program,
        frozenset(words - {"refused", "nothing", "failed"}) | (FAILED if "failed" in words else set()) | ({"passed"} if asks else set()),
        tuple(inputs),
        tuple(expected * len(inputs) if len(expected) == 1 else expected),
        function,
        options.get("limits", "usual"),
        options.get("only", "").removeprefix("in "),
    )
