"""Right programs made slightly wrong, and an oracle that says by itself whether anybody could tell.

    changes(source) -> [Change, ...]              every place at which one small change can be made; `mutated(source, change)` makes it
    outputs(jobs, user) -> [[text or None], ...]  what each program says to each input when it is run plainly

The oracle knows nothing of the sandbox or its comparison: one process of another user's forks a child for each input, limits it, and keeps
its text, or the repr of its value; None where it did not end well within half a second of CPU time.

python mutants.py      reads the jobs as JSON on stdin, answers on stdout; imports the standard library only
"""

from __future__ import annotations

import ast
import copy
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mod, ast.Mod: ast.FloorDiv, ast.Div: ast.FloorDiv,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
DROPPED = (ast.Assign, ast.AugAssign, ast.Expr, ast.Continue, ast.Break)


class Change(NamedTuple):
    at: int  # the number of the node in the order of ast.walk
    kind: str


def changes(source: str) -> list[Change]:
    return [Change(at, kind) for at, node in enumerate(ast.walk(ast.parse(source))) for kind in _kinds(node)]


def _kinds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Compare | ast.BinOp | ast.BoolOp | ast.AugAssign):
        operator = node.ops[0] if isinstance(node, ast.Compare) else node.op
        if type(operator) in SWAPS:
            yield "operator"
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield from ("one more", "one less")
    if isinstance(node, ast.Name) and node.id in NAMES:
        yield "name"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        yield from ("range longer", "range shorter")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not"
    if isinstance(node, ast.If | ast.IfExp):
        yield "branches"
    for field in ("body", "orelse"):
        for number, statement in enumerate(getattr(node, field, None) if isinstance(getattr(node, field, None), list) else ()):
            if isinstance(statement, DROPPED):
                yield f"drop {field} {number}"


def mutated(source: str, change: Change) -> str:
    tree = ast.parse(source)
    node: Any = list(ast.walk(tree))[change.at]
    match change.kind.split():
        case ["operator"] if isinstance(node, ast.Compare):
            node.ops[0] = SWAPS[type(node.ops[0])]()
        case ["operator"]:
            node.op = SWAPS[type(node.op)]()
        case ["one", way]:
            node.value += 1 if way == "more" else -1
        case ["name"]:
            node.id = NAMES[node.id]
        case ["range", way]:
            at = 0 if len(node.args) == 1 else 1
            node.args[at] = ast.BinOp(node.args[at], ast.Add() if way == "longer" else ast.Sub(), ast.Constant(1))
        case ["not"]:
            node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), copy.copy(node.operand))
        case ["branches"]:
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ["drop", field, number]:
            getattr(node, field)[int(number)] = ast.Pass()
    return ast.unparse(ast.fix_missing_locations(tree))


class Asked(NamedTuple):
    """A program and what it is asked. `known`: what the right program says; asking stops at the first other answer."""

    source: str
    inputs: list[str]
    func_name: str | None
    known: list[str | None] | None = None


def outputs(jobs: Sequence[Asked], interpreter: str, user: int | None) -> list[list[str | None]]:
    """Of each program, in order, up to the first that differs from what is known."""
    done = subprocess.run(
        [interpreter, "-S", __file__],
        input=json.dumps(jobs),
        stdout=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        check=True,
    )
    found: list[list[str | None]] = json.loads(done.stdout)
    return found


# The oracle's own process

MODULES = ("string re datetime collections heapq bisect copy math", "random statistics itertools functools operator io sys json typing")
PRELUDE = "".join(f"import {name}\nfrom {name} import *\n" for names in MODULES for name in names.split())


def _answer(job: Asked) -> Iterator[str | None]:
    for number, given in enumerate(job.inputs):
        said = _run(lambda: _act(job), given)
        yield said
        if job.known is not None and said != job.known[number]:
            return


def _run(act: Callable[[], str | None], given: str) -> str | None:
    """The text on stdout of a child that does this, or of what it returns; None where it ends badly."""
    stdin, stdout = os.memfd_create("in"), os.memfd_create("out")
    os.pwrite(stdin, given.encode(), 0)
    if (pid := os.fork()) == 0:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        signal.setitimer(signal.ITIMER_PROF, 0.5)
        signal.setitimer(signal.ITIMER_REAL, 10)
        for kind, most in ((resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_FSIZE, 1 << 24), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(kind, (most, most))
        status = 1
        try:
            act()
            threading._shutdown()  # type: ignore[attr-defined]  # the interpreter's own end waits for threads so
            sys.stdout.flush()
            status = 0
        except SystemExit as error:
            sys.stdout.flush()
            status = 0 if error.code in (None, 0) else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    text = os.pread(stdout, 1 << 24, 0).decode(errors="replace")
    os.close(stdin)
    os.close(stdout)
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n")) if status == 0 else None


def _act(job: Asked) -> None:
    if job.func_name is None:
        exec(compile(job.source, "solution.py", "exec", 0, True), sys.modules["__main__"].__dict__)
        return
    names: dict[str, Any] = {"__name__": "solution"}
    exec(PRELUDE, names)
    exec(compile(job.source, "solution.py", "exec", 0, True), names)
    arguments = [json.loads(line) for line in sys.stdin.read().split("\n") if line.strip()]
    function = getattr(names["Solution"](), job.func_name) if "Solution" in names else names[job.func_name]
    sys.setrecursionlimit(50_000)
    value = function(*arguments)
    os.ftruncate(1, 0)  # what it printed itself does not count
    os.pwrite(1, repr(_lists(value)).encode(), 0)
    os._exit(0)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    exec(PRELUDE, {})  # imported once, for all the children: 20 ms
    json.dump([list(_answer(Asked(*job))) for job in json.load(sys.stdin)], sys.stdout)
