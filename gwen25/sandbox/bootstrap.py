"""The child's first code: lock the process in, say so, then become the program. Standard library only.

    python -s -S -P -B -c "import sys; sys.path.insert(0, FOLDER); from bootstrap import start; exec(compile(*start()))" JOB

Started by `isolate` alone. For a stdin program `start` returns what `compile` needs, so that the program runs as the outermost frame of
`__main__` and ends as any interpreter does (atexit, threads, flush, exit status). With a function to call it never returns: see `_serve`.
No expected output ever comes here, and a function's inputs come one at a time.
"""

from __future__ import annotations

import builtins
import marshal
import os
import resource
import sys
import time

TYPE_CHECKING = False  # the module typing itself costs 10 ms of each start
if TYPE_CHECKING:
    from typing import Any, NoReturn

START_FAILED = 71  # exit status of a child that could not lock itself in (sysexits: EX_OSERR)
SOURCE = "solution.py"

# What LeetCode, and LiveCodeBench's evaluator (testing_util.py: import_string), give a solution without being asked
_STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json builtins typing"
)
PRELUDE = "".join(f"from {name} import *\n" for name in _STARRED.split()) + "".join(f"import {name}\n" for name in _STARRED.split())
RECURSION_LIMIT = 50_000  # for functions only, that evaluator's; a stdin program has Python's own default


def start() -> tuple[bytes, str, str, int, bool]:
    """Confine, report over the control channel, clean up our traces. Exits with START_FAILED where any layer is refused."""
    job = marshal.loads(bytes.fromhex(sys.argv[1]))
    try:
        namespace = _prepare(job)
        import confine  # type: ignore[import-not-found]  # beside this file, not in a package: the child knows no gwen25

        layers = confine.confine(job)
    except BaseException as error:
        os.write(job["control"], f"failed {type(error).__name__}: {error}".encode(errors="replace")[:1000])
        os._exit(START_FAILED)
    used = resource.getrusage(resource.RUSAGE_SELF)
    os.write(job["control"], f"ready {time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)} {used.ru_maxrss} {layers}".encode())
    _forget()
    if job["func_name"] is not None:
        _serve(job["control"], job["answer"], job["func_name"], namespace)
    os.read(job["control"], 1)  # stdin is filled now
    os.close(job["control"])
    return _source(), SOURCE, "exec", 0, True  # a relative name, so that a traceback is the same in every run


def _prepare(job: dict[str, Any]) -> dict[str, Any]:
    """The interpreter as `python solution.py` would see it, and the namespace that the program will fill."""
    import _sitebuiltins  # what site.py adds, without its scan of .pth files

    setattr(builtins, "exit", _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)"))  # noqa: B010 (unknown to type checkers)
    setattr(builtins, "quit", _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)"))  # noqa: B010
    folder = os.getcwd()  # noqa: PTH109 (pathlib costs 5 ms here)
    package, sys.path[:] = sys.path[0], [folder, *sys.path[1:], *job["packages"]]
    sys.path.insert(0, package)
    sys.argv[:] = [SOURCE]
    sys.orig_argv[:] = ["python", SOURCE]
    if job["func_name"] is None:
        namespace = sys.modules["__main__"].__dict__
    else:
        solution = type(sys)("solution")
        sys.modules["solution"] = solution
        namespace = solution.__dict__
        exec(PRELUDE, namespace)
        sys.setrecursionlimit(RECURSION_LIMIT)
    namespace["__file__"] = f"{folder}/{SOURCE}"
    return namespace


def _forget() -> None:
    """Leave no module, name or path of ours behind."""
    sys.path_importer_cache.pop(sys.path.pop(0), None)
    for name in ("bootstrap", "confine"):
        sys.modules.pop(name, None)
    main = sys.modules["__main__"].__dict__
    for name in ("sys", "start"):
        main.pop(name, None)
    main["__loader__"] = main["__cached__"] = None


def _source() -> bytes:
    with open(SOURCE, "rb") as file:  # noqa: PTH123 (pathlib costs 5 ms here)
        return file.read()


def _serve(control: int, answer: int, func_name: str, namespace: dict[str, Any]) -> NoReturn:
    """Call the function once for each byte on the control channel: arguments from stdin's file, result into the answer's, a byte back."""
    import json

    read, write, truncate, loads, dumps = os.read, os.write, os.ftruncate, json.loads, json.dumps
    exec(compile(_source(), SOURCE, "exec", 0, True), namespace)
    while read(control, 1):
        lines = os.pread(0, os.fstat(0).st_size, 0).decode().split("\n")
        arguments = [loads(line) for line in lines if line.strip()]
        truncate(answer, 0)
        os.pwrite(answer, _encoded(dumps, _function(namespace, func_name)(*arguments)), 0)
        write(control, b"=")
    os._exit(0)


def _function(namespace: dict[str, Any], name: str) -> Any:
    """A method of a fresh Solution, as LeetCode calls it, or a plain function."""
    solution = namespace.get("Solution")
    if hasattr(solution, name):
        return getattr(solution(), name)  # type: ignore[misc]
    if name not in namespace:
        raise NameError(f"the program defines no function {name!r}, neither in a class Solution nor by itself")
    return namespace[name]


def _encoded(dumps: Any, value: Any) -> bytes:
    """JSON, or nothing where the value has no JSON form (a set, say): nothing equals no expected value."""
    try:
        return str(dumps(value, default=_plain)).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        return b""


def _plain(value: Any) -> Any:
    """numpy's arrays and scalars as Python's own; nothing else is converted."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
