"""The child's own part: look like `python solution.py`, run the program, end as an interpreter ends. Standard library only.

    prepare(packages)         in the zygote, once: paths, argv, what site.py adds, no trace of ours
    Program(source, code)     the context in which a stdin program runs as the outermost frame of `__main__`; leaving it ends the process
    Repeated(code, ...)       the same for many inputs, each from a fresh state, for a program that is `pure`
    answer(...)               call a function once and write its value as JSON; ends the process
    answers(...)              the same for many inputs, each from a fresh state, for a program that is `pure`; ends the process

A program ends at once after its threads, exit functions and flushes, without the interpreter's own tear-down (2 ms), where nothing in its
source could notice. No expected output ever comes here.
"""

from __future__ import annotations

import builtins
import gc
import os
import resource
import struct
import sys
import time

TYPE_CHECKING = False  # the module typing itself costs 10 ms of each start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, TracebackType
    from typing import Any, NoReturn

SOURCE = "solution.py"
ON_DISK = (b"__file__", b"inspect", b"linecache", b"solution", b"warn", b"pdb")  # words of a program that may look for its own file
# Words of a program that may notice the tear-down: finalisers, files that were never closed, generators that were never finished
TEARDOWN = (
    b"__del__", b"open", b"detach", b"Writer", b"Wrapper", b"finally", b"GeneratorExit", b"__exit__", b"__aexit__", b"weakref", b"tempfile",
    b"contextmanager",
)  # fmt: skip

# What LeetCode, and LiveCodeBench's evaluator (testing_util.py: import_string), give a solution without being asked
_STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json builtins typing"
)
PRELUDE = "".join(f"from {name} import *\n" for name in _STARRED.split()) + "".join(f"import {name}\n" for name in _STARRED.split())
LOAD_SECONDS = 0.003  # of CPU time: what loads faster than that is loaded again
RECORD = struct.Struct("<Q")  # its length, before each of many inputs and answers
RECURSION_LIMIT = 50_000  # for functions only, that evaluator's; a stdin program has Python's own default


def prepare(packages: list[str]) -> None:
    """The interpreter as `python solution.py` would find it, in the current folder."""
    import _sitebuiltins  # what site.py adds, without its scan of .pth files

    setattr(builtins, "exit", _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)"))  # noqa: B010 (unknown to type checkers)
    setattr(builtins, "quit", _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)"))  # noqa: B010
    setattr(builtins, "help", _sitebuiltins._Helper())  # noqa: B010
    for name in ("copyright", "credits", "license"):
        setattr(builtins, name, _sitebuiltins._Printer(name, sys.copyright))
    folder = os.getcwd()  # noqa: PTH109 (pathlib costs 5 ms here)
    ours, sys.path[:] = sys.path[0], [folder, *sys.path[1:], *packages]
    sys.path_importer_cache.pop(ours, None)
    sys.argv[:] = [SOURCE]
    sys.orig_argv[:] = ["python", SOURCE]
    for name in ("zygote", "bootstrap", "confine", "pure", "rewind", "tidy", "warmup"):
        sys.modules.pop(name, None)
    for name in ("PWD", "LD_BIND_NOW"):  # bubblewrap's, and one that only the start needs
        os.environ.pop(name, None)
    main = sys.modules["__main__"].__dict__
    main["__file__"] = f"{folder}/{SOURCE}"
    main["__loader__"] = main["__cached__"] = None


def namespace() -> dict[str, Any]:
    """Of a module that the evaluator's star imports filled."""
    solution = type(sys)("solution")
    sys.modules["solution"] = solution
    exec(PRELUDE, solution.__dict__)
    solution.__dict__["__file__"] = SOURCE
    return solution.__dict__


def compiled(source: bytes) -> CodeType:
    """Bytes, so that an encoding cookie counts; a relative name, so that a traceback is the same in every run."""
    return compile(source, SOURCE, "exec", 0, True)


class Program:
    """`with program`, then `exec` once: the stub's frame is all there is below the program's. Made in the zygote, once for all tests.

    `code`: None where the child is to compile it.
    """

    def __init__(self, source: bytes, code: CodeType | None):
        self.source, self.code = source, code
        self.kept: object = None  # whatever is not to be freed while the program runs
        self._on_disk = any(word in source for word in ON_DISK)
        self._teardown = any(word in source for word in TEARDOWN)

    def __enter__(self) -> None:
        if self._on_disk:
            _write(self.source)
        sys.argv += [(self.code or compiled(self.source),), (None,)]  # type: ignore[list-item]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        hooked = getattr(sys, "excepthook", None) is not sys.__excepthook__
        if hooked or kind is KeyboardInterrupt or self._teardown:
            _show_source(self.source, kind)
            gc.unfreeze()  # or the tear-down would take all that the zygote held for alive, `__main__` with it
            return False  # the interpreter's own end
        return leave(_status(self.source, kind, error, trace))


class Repeated:
    """Run a pure program on each record of `inputs`, as a process of its own would, until one test ends otherwise than well.

    It lies on the stub's frame, by the same call of `exec`: a RecursionError comes at the same depth. What it reads is a file with this
    input alone, from its start, and no input is read before its turn. `answers` gets what it printed, with its length, before anything of
    the test is let go. It ends the process, unsaid, at whatever a process must judge: an exception, an exit, a word on stderr, output at
    its limit; and once half of `cpu_seconds` is used, since slow tests gain nothing and one that is cut off is lost.
    """

    def __init__(self, code: CodeType | None, inputs: int, answers: int, cpu_seconds: float):
        self.kept: object = None
        self._code, self._inputs, self._answers, self._enough = code, inputs, answers, cpu_seconds / 2

    def __enter__(self) -> None:
        sys.argv.append(self._turns())  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> NoReturn:
        os._exit(0)

    def _turns(self) -> Iterator[None]:
        """For each: set the stage, let the stub run the program, tell what it printed."""
        begun, limit, main = time.process_time(), sys.getrecursionlimit(), dict(vars(sys.modules["__main__"]))
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        given, said = sys.stdin, sys.stdout
        while time.process_time() - begun < self._enough and (size := os.read(self._inputs, RECORD.size)):
            _refill(0, os.read(self._inputs, RECORD.unpack(size)[0]))
            _refill(1, b"")
            sys.stdin = sys.__stdin__ = _stream(given, 0, "r")  # type: ignore[misc]
            sys.stdout = sys.__stdout__ = _stream(said, 1, "w")  # type: ignore[misc]
            sys.setrecursionlimit(limit)
            _forget_patterns()
            names = main | {"__annotations__": {}}
            sys.argv.append((self._code, names))  # type: ignore[arg-type]
            yield
            sys.stdout.flush()
            printed = os.fstat(1).st_size
            if printed >= most or os.fstat(2).st_size:
                return
            os.write(self._answers, RECORD.pack(printed) + os.pread(1, printed, 0))
            names.clear()
            gc.collect()  # the memory of one test is not held against the next, and collections come when they would


def _forget_patterns() -> None:
    """re keeps what it compiled by keys that may be equal to others, and objects of the program's among them."""
    if re := sys.modules.get("re"):
        re.purge()


def _refill(fd: int, data: bytes) -> None:
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    if os.pwrite(fd, data, 0) != len(data):
        raise OSError


def _stream(like: Any, fd: int, mode: str) -> Any:
    """As create_stdio makes it (CPython, pylifecycle.c)."""
    binary: Any = open(fd, f"{mode}b", closefd=False)  # noqa: SIM115
    binary.raw.name = like.name
    text: Any = type(like)(binary, like.encoding, like.errors, "\n", like.line_buffering, like.write_through)
    text.mode = mode
    return text


def _status(source: bytes, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> int:
    """The exit status, with what belongs on stderr printed: as PyErr_PrintEx and handle_system_exit (CPython, pythonrun.c) do."""
    if kind is None:
        return 0
    if issubclass(kind, SystemExit):
        code = getattr(error, "code", None)
        if code is None or isinstance(code, int):
            return int(code or 0) & 0xFF
        print(code, file=sys.stderr)
        return 1
    _show_source(source, kind)
    sys.excepthook(kind, error, trace.tb_next if trace else None)  # type: ignore[arg-type]
    return 1


def _show_source(source: bytes, kind: type[BaseException] | None) -> None:
    """A traceback quotes its lines from the file."""
    if kind is not None and not issubclass(kind, SystemExit):
        _write(source)


def _write(source: bytes) -> None:
    try:
        with open(SOURCE, "xb") as file:  # noqa: PTH123 (pathlib costs 5 ms here)
            file.write(source)
    except OSError:  # there already, or the program has filled the scratch
        pass


def leave(status: int) -> NoReturn:
    """What Py_FinalizeEx does before it tears modules down: threads, exit functions, flushes."""
    if threading := sys.modules.get("threading"):
        threading._shutdown()
    if atexit := sys.modules.get("atexit"):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:  # what a program put in its place may raise anything
            status = 120 if stream is sys.stdout else status
    os._exit(status)


def answer(program: Program, func_name: str, names: dict[str, Any], fd: int) -> NoReturn:
    """Call the function with the arguments of stdin, one JSON value a line; write what it returns as JSON to `fd`, and end."""
    import json

    pwrite, leave_at_once, loads, dumps, complain = os.pwrite, os._exit, json.loads, json.dumps, sys.excepthook
    status = 1
    try:
        exec(program.code or compiled(program.source), names)
        arguments = _arguments(loads, os.pread(0, os.fstat(0).st_size, 0))
        pwrite(fd, _encoded(dumps, _function(names, func_name)(*arguments)), 0)
        status = 0
    except SystemExit as error:
        status = int(bool(error.code))
    except BaseException as error:
        _write(program.source)
        complain(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    leave_at_once(status)


def answers(program: Program, func_name: str, known: dict[str, Any], fd: int, back: Any) -> NoReturn:
    """Call the function of a fresh program for each record of stdin, until one raises.

    `known`: builtins and star imports; to copy their 600 names for each program would touch every page that the zygote shares.
    `back`: see `rewind`. Of each answer its length and the JSON. No input is read before its turn.
    """
    import json

    clock, number = time.process_time, 0
    try:
        begun = clock()
        names = _loaded(program.code, known)
        load_seconds, limit = clock() - begun, sys.getrecursionlimit()
        again = back(program.source, names) if load_seconds > LOAD_SECONDS else None
        while size := os.read(0, RECORD.size):
            if number and again:
                begun = clock()
                sys.setrecursionlimit(limit)
                again()
                again = again if clock() - begun < load_seconds else None
            elif number:
                names = _loaded(program.code, known)
            _forget_patterns()
            value = _encoded(json.dumps, _function(names, func_name)(*_arguments(json.loads, os.read(0, RECORD.unpack(size)[0]))))
            os.write(fd, RECORD.pack(len(value)) + value)
            number += 1
    finally:
        os._exit(0)


def _loaded(code: Any, known: dict[str, Any]) -> dict[str, Any]:
    sys.setrecursionlimit(RECURSION_LIMIT)
    solution = sys.modules["solution"] = type(sys)("solution")
    solution.__dict__["__builtins__"] = known
    exec(code, solution.__dict__)
    return solution.__dict__


def _arguments(loads: Any, data: bytes) -> list[Any]:
    return [loads(line) for line in data.decode().split("\n") if line.strip()]


def _function(names: dict[str, Any], name: str) -> Any:
    """A method of a fresh Solution, as LeetCode calls it, or a plain function."""
    solution = names.get("Solution")
    if hasattr(solution, name):
        return getattr(solution(), name)  # type: ignore[misc]
    if name not in names:
        raise NameError(f"the program defines no function {name!r}, neither in a class Solution nor by itself")
    return names[name]


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
