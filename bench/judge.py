"""How fast programs are judged: ours beside a plain process per test and beside LiveCodeBench's own evaluator.

    make bench [BENCH_PROBLEMS=FILE] [LCB_ROOT=CHECKOUT]
    python -m bench.judge --trivial --problems FILE --lcb-root CHECKOUT --rounds 5 --json OUT

The same programs, the same number of workers; each round gives each group of programs to every judge in turn, so that whatever else the
machine does meets all of them alike. A judge is timed once it tells right from wrong (`programs.KNOWN`), and every verdict that is not
"passed" on a program known to be right is listed. Every program runs with the rights of whoever starts this: trust the file.

Then the overhead: one test at a time, one worker. CPU of the whole tree of processes (`clock`) and wall time of `grade`, less the program's
own CPU as the verdict states it. Whatever an empty program costs is overhead too, whomever it is booked to.
Not here: the judges (`methods`), the programs (`programs`), the tables (`report`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import machine, report
from bench.clock import TreeClock
from bench.methods import LIMITS, PLAIN, WHOLE, Method, Ours, Plain, official
from bench.programs import EMPTY, KNOWN, MANY, REPEATED, Group, Program, problems, trivial
from bench.report import Overhead, Run
from gwen25.errors import BadInput, Gwen25Error
from gwen25.sandbox import grade, probe

PIECE = 60  # programs
OVERHEAD_PROGRAMS = 200  # of each material; the 95th percentile rests on the slowest ten


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    clock = TreeClock()  # before anything is started that is to count
    try:
        groups = list(_groups(arguments))
        with _methods(arguments) as methods:
            _check(methods)
            facts = machine.facts(arguments.python)
            runs = [run for number in range(arguments.rounds) for run in _round(number, groups, methods, clock)]
        singles = {"empty": [EMPTY] * OVERHEAD_PROGRAMS, **_singles(groups)}
        overheads = [_overhead(material, programs, clock) for material, programs in singles.items()]
    except Gwen25Error as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    facts |= {"workers": arguments.workers, "rounds": arguments.rounds, "isolation": str(probe())}
    print(report.markdown(facts, runs, overheads))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(facts, runs, overheads), indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "bench.judge", description="programs judged per second: ours, a plain process per test, the official evaluator"
    )
    parser.add_argument("--trivial", action="store_true", help="our own programs (the default where no --problems are given)")
    parser.add_argument("--programs", type=int, default=100, help="trivial programs of one test; a fifth of them again with 20 tests each")
    parser.add_argument("--problems", type=Path, help="JSON lines with id, solution, tests and func_name; the solutions must be right")
    parser.add_argument("--every", type=int, default=1, help="take each n-th problem only")
    parser.add_argument("--tests", type=int, default=MANY, help="stdin problems once more with so many tests each; 0: do not")
    parser.add_argument("--lcb-root", type=Path, help="a checkout of LiveCodeBench")
    parser.add_argument("--python", default=sys.executable, help="the plain processes' interpreter")
    parser.add_argument("--methods", help="only these, separated by commas")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every figure here")
    return parser


def _groups(arguments: argparse.Namespace) -> Iterator[Group]:
    if min(arguments.programs, arguments.every, arguments.workers, arguments.rounds) < 1:
        raise BadInput("--programs, --every, --workers and --rounds must be at least 1")
    if arguments.trivial or not arguments.problems:
        yield from trivial(arguments.programs)
    if arguments.problems:
        yield from problems(arguments.problems, repeated=arguments.tests, every=arguments.every)


@contextlib.contextmanager
def _methods(arguments: argparse.Namespace) -> Iterator[list[Method]]:
    workers, python = arguments.workers, arguments.python
    with contextlib.ExitStack() as stack:
        found: list[Method] = [
            Ours(workers),
            Plain(PLAIN, workers, python, "-I"),
            Plain("plain -S", workers, python, "-I", "-S"),
            Plain(WHOLE, workers, python, "-I", whole=True),
        ]
        if arguments.lcb_root:
            found.append(stack.enter_context(official(arguments.lcb_root, workers)))
        if arguments.methods:
            wanted = arguments.methods.split(",")
            if unknown := set(wanted) - {method.name for method in found}:
                raise BadInput(f"--methods: no {', '.join(sorted(unknown))}; there are {', '.join(method.name for method in found)}")
            found = [method for method in found if method.name in wanted]
        yield found


def _check(methods: list[Method]) -> None:
    """A judge that passes everything would be the fastest. This warms them up too."""
    for method in methods:
        known = {program: right for program, right in KNOWN.items() if method.takes(program.kind)}
        found = method.run(list(known))
        mistaken = [program.id for (program, right), passed in zip(known.items(), found, strict=True) if passed != right]
        if mistaken:
            raise Gwen25Error(f"{method.name} misjudges {', '.join(mistaken)}: its speed says nothing")


def _round(number: int, groups: list[Group], methods: list[Method], clock: TreeClock) -> Iterator[Run]:
    """Every group by every method; the order is another one in each round."""
    turn = number % len(methods)
    for group in (piece for whole in groups for piece in _pieces(whole)):
        for method in methods[turn:] + methods[:turn]:
            if method.takes(group.kind):
                yield _timed(number, group, method, clock)


def _pieces(group: Group) -> Iterator[Group]:
    """So that judges take turns within a minute or so."""
    for at in range(0, len(group.programs), PIECE):
        yield group._replace(programs=group.programs[at : at + PIECE])


def _timed(number: int, group: Group, method: Method, clock: TreeClock) -> Run:
    cpu, wall = clock.seconds(), time.perf_counter()
    passed = method.run(group.programs)
    wall, cpu = time.perf_counter() - wall, _since(clock, cpu)
    failed = tuple(program.id for program, good in zip(group.programs, passed, strict=True) if not good)
    return Run(number, group.material, group.kind, group.size, method.name, len(group.programs), group.tests, wall, cpu, failed)


def _since(clock: TreeClock, before: float | None) -> float | None:
    now = clock.seconds()
    return None if now is None or before is None else now - before


def _singles(groups: list[Group]) -> dict[str, list[Program]]:
    """Of each material its programs with one test each, evenly taken from all groups."""
    found: dict[str, list[Program]] = {}
    for group in groups:
        if group.material != REPEATED:
            found.setdefault(f"{group.material}, {group.kind}", []).extend(p._replace(tests=p.tests[:1]) for p in group.programs)
    return {name: programs[:: -(-len(programs) // OVERHEAD_PROGRAMS)] for name, programs in found.items()}


def _overhead(material: str, programs: list[Program], clock: TreeClock) -> Overhead:
    cpu_ms: list[float | None] = []
    wall_ms: list[float] = []
    own_ms: list[float] = []
    for program in programs:
        cpu, wall = clock.seconds(), time.perf_counter()
        verdict = grade(program.source, program.tests, LIMITS, func_name=program.func_name)
        wall, cpu = time.perf_counter() - wall, _since(clock, cpu)
        own_ms.append(verdict.cpu_seconds * 1e3)
        wall_ms.append((wall - verdict.cpu_seconds) * 1e3)
        cpu_ms.append(None if cpu is None else (cpu - verdict.cpu_seconds) * 1e3)
    return Overhead(material, own_ms, wall_ms, [ms for ms in cpu_ms if ms is not None] or None)


if __name__ == "__main__":
    sys.exit(main())
