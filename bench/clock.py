"""CPU time of this process and of everything it starts, exact, the dead included.

    clock = TreeClock()      before the first thread or process that is to count
    before = clock.seconds(); work(); used = clock.seconds() - before

A counter of the kernel (perf_event_open(2), task clock) that every thread and process started afterwards inherits. The usual clocks do not
do: RUSAGE_CHILDREN is blind to what dies inside a pid namespace until its first process is reaped, /proc/PID/stat counts in steps of 10 ms.
Where the kernel refuses the counter (a container's seccomp, perf_event_paranoid above 2), `seconds` is None: not measured.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
SOFTWARE, TASK_CLOCK = 1, 1  # perf_event_attr.type and .config
ATTR_BYTES = 128
FLAGS_AT = 40  # the bit field of perf_event_attr, after type, size, config, period, sample and read format
INHERIT, EXCLUDE_KERNEL = (
    1 << 1,
    1 << 5,
)  # the second is what an ordinary user must ask for; a task clock counts the kernel's time all the same
CLOSE_ON_EXEC = 8


class TreeClock:
    """One counter. The thread that makes it must be the one that starts (directly or not) whatever is to be counted."""

    def __init__(self) -> None:
        self._file = _open()

    def seconds(self) -> float | None:
        if self._file is None:
            return None
        (nanoseconds,) = struct.unpack("Q", os.read(self._file, 8))
        return float(nanoseconds) / 1e9


def _open() -> int | None:
    number = PERF_EVENT_OPEN.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return None
    attr = bytearray(ATTR_BYTES)
    struct.pack_into("IIQ", attr, 0, SOFTWARE, ATTR_BYTES, TASK_CLOCK)
    struct.pack_into("Q", attr, FLAGS_AT, INHERIT | EXCLUDE_KERNEL)
    here, any_cpu, no_group = 0, -1, -1
    file: int = ctypes.CDLL(None).syscall(number, (ctypes.c_char * ATTR_BYTES).from_buffer(attr), here, any_cpu, no_group, CLOSE_ON_EXEC)
    return file if file >= 0 else None
