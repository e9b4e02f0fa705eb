"""Grade all attacks as this user, each followed by an honest program, others running beside them; print what became of it all."""

from __future__ import annotations

import json
import os
import resource
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from gwen25.data import TestCase
from gwen25.sandbox import Job, Limits, Verdict, grade, grade_many, probe

from .table import Attack, table

LIMITS = {
    "usual": Limits(cpu_seconds=1, wall_seconds=60, memory_bytes=160 << 20, output_bytes=1 << 20),  # quick to fill
    "short": Limits(cpu_seconds=0.1, wall_seconds=60, memory_bytes=160 << 20, output_bytes=1 << 20),
    "hasty": Limits(cpu_seconds=1, wall_seconds=0.3, memory_bytes=160 << 20, output_bytes=1 << 20),  # for those that wait
}
HONEST = [
    Job("print(int(input()) * 2)", (TestCase("4", "8"), TestCase("5", "10"))),
    Job("def add(a, b): return a + b", (TestCase("1\n2", "3", "functional"), TestCase("2\n2", "4", "functional")), "add"),
    Job("open('a', 'w').write('x'); import os; print(sum(n.startswith('a') for n in os.listdir('.')))", (TestCase("", "1"),)),
    Job("import threading, time; threading.Thread(target=lambda: (time.sleep(0.01), print('late'))).start()", (TestCase("", "late"),)),
]

WAITING = [
    *[Job("import time; time.sleep(0.3)", (TestCase("", ""),))] * 3,
    *[Job("def f(): time.sleep(0.3)", (TestCase("", "null", "functional"),), "f")] * 3,
]


def job(attack: Attack, world: tuple[object, ...]) -> Job:
    kind = "functional" if attack.func_name else "stdin"
    token = secrets.token_hex(8)
    pairs = zip(attack.inputs, attack.expected, strict=True)
    tests = tuple(TestCase(given.replace("{TOKEN}", token), wanted.replace("{TOKEN}", token), kind) for given, wanted in pairs)
    return Job(attack.complete(world), tests, attack.func_name)


def fight(attacks: dict[str, Attack], world: tuple[object, ...], limits: str) -> Iterator[tuple[str, Verdict, Verdict]]:
    """(name, its verdict, an honest program's that ran after or beside it)"""
    chosen = {name: attack for name, attack in attacks.items() if attack.limits == limits}
    honest = [HONEST[at % len(HONEST)] for at in range(len(chosen))]
    hostile = [job(attack, world) for attack in chosen.values()]
    if limits == "hasty":  # an honest program must not be judged by half a second of a busy machine
        return zip(chosen, grade_many(hostile, LIMITS[limits], workers=3), grade_many(honest, workers=2), strict=True)
    both = grade_many([each for pair in zip(hostile, honest, strict=True) for each in pair], LIMITS[limits], workers=2)
    return zip(chosen, both[::2], both[1::2], strict=True)


class Neighbour(threading.Thread):
    """Honest programs, one after the other, as long as the attacks last."""

    def __init__(self) -> None:
        super().__init__()
        self.over, self.verdicts = threading.Event(), list[Verdict]()

    def run(self) -> None:
        while not self.over.wait(0.05):
            honest = HONEST[len(self.verdicts) % len(HONEST)]
            self.verdicts.append(grade(honest.program, honest.tests, Limits(), func_name=honest.func_name))


def own_state() -> dict[str, object]:
    """What an attack could have changed in this very process."""
    return {
        "limits": [resource.getrlimit(kind) for kind in range(16)],
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "links": [str(Path(f"/proc/self/fd/{n}").readlink()) for n in (0, 1, 2)],
    }


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    secret, home, *rest = json.loads(sys.argv[1])
    world = (secret, home, os.getpid(), *rest)
    names = sys.argv[2:]
    attacks = {name: attack for name, attack in table().items() if not names or name in names}
    grade_many(WAITING, Limits(), workers=3)  # whatever is prepared once is there now: an interpreter of each kind for each at work
    before, files, neighbour = own_state(), open_files(), Neighbour()
    neighbour.start()
    fights = [fought for limits in LIMITS for fought in fight(attacks, world, limits)]
    neighbour.over.set()
    neighbour.join()
    print(
        json.dumps(
            {
                "isolation": str(probe()),
                "attacks": {name: [verdict.status, verdict.stderr[-1500:], round(verdict.wall_seconds, 3)] for name, verdict, _ in fights},
                "honest": {name: [verdict.status, verdict.stderr] for name, _, verdict in fights if not verdict.passed},
                "neighbours": [str(verdict) for verdict in neighbour.verdicts if not verdict.passed],
                "neighbours_run": len(neighbour.verdicts),
                "changed": {name: [before[name], after] for name, after in own_state().items() if after != before[name]},
                "open_files": [files, open_files()],  # differs by some slots, which are made as they are needed
            }
        )
    )


if __name__ == "__main__":
    main()
