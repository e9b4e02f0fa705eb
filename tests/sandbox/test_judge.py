"""Verdicts: each status for its own reason, and programs that behave as under `python solution.py < in > out`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gwen25.data import TestCase
from gwen25.errors import BadInput, SandboxUnavailable
from gwen25.sandbox import Limits, Verdict, grade, grade_many, pool, probe

QUICK = Limits(cpu_seconds=1, wall_seconds=20)


def run(program: str, given: str = "", expected: str = "", limits: Limits = QUICK) -> Verdict:
    return grade(program, [TestCase(given, expected)], limits)


def call(program: str, name: str, *tests: tuple[str, str], limits: Limits = QUICK) -> Verdict:
    return grade(program, [TestCase(given, expected, "functional") for given, expected in tests], limits, func_name=name)


# Statuses


def test_passed_says_what_was_used() -> None:
    verdict = grade("print(int(input()) * 2)", [TestCase("4\n", "8\n"), TestCase("5\n", "10\n")])
    assert verdict.passed and verdict.status == "passed" and verdict.test is None
    assert (verdict.passed_tests, verdict.total_tests) == (2, 2)
    assert 0 < verdict.cpu_seconds < 1 and verdict.wall_seconds > 0
    assert verdict.stderr == "" and "landlock" in verdict.isolation and "seccomp" in verdict.isolation


def test_stops_at_the_first_failing_test() -> None:
    verdict = grade("n = int(input()); print(n if n < 3 else 1 / 0)", [TestCase(f"{n}", f"{n}") for n in range(6)])
    assert (verdict.status, verdict.test, verdict.passed_tests, verdict.total_tests) == ("error", 3, 3, 6)
    assert "ZeroDivisionError" in verdict.stderr


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("print(9)", "wrong"),
        ("print('passed'); print('8')", "wrong"),
        ("import sys; sys.exit(0)", "wrong"),  # left early, said nothing
        ("import os; os._exit(0)", "wrong"),
        ("print(8); raise SystemExit(3)", "error"),
        ("print(8); 1 / 0", "error"),
        ("print(8", "error"),
        ("print(8)\0", "error"),
        ("print('\ud800')", "error"),
        ("import os; print(8, flush=True); os.abort()", "error"),
        ("import ctypes; ctypes.string_at(0)", "error"),
        ("while True: pass", "timeout"),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "timeout"),
        ("print(8)\nimport atexit\n@atexit.register\ndef _():\n    while True: pass", "timeout"),
        ("import threading\n[threading.Thread(target=lambda: sum(iter(int, 1))).start() for _ in range(2)]", "timeout"),
        ("x = 'a' * 10**10", "memory"),
        ("x = []\nwhile True: x.append(bytearray(50 << 20))", "memory"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("import os\nwhile True: os.write(1, b'x' * 100000)", "output_limit"),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "output_limit"),
        ("n = 0\nwhile True: n += 1; open(f'{n}', 'wb').write(bytes(1 << 19))", "output_limit"),
        ("n = 0\nwhile True: n += 1; open(f'{n}', 'w').close()", "output_limit"),
        ("import os\nwhile True: os.mkdir('d'); os.chdir('d'); open('f', 'wb').write(bytes(1 << 18))", "output_limit"),
        ("try:\n    while True: print('x' * 1000)\nexcept OSError: pass", "output_limit"),
    ],
)
def test_status(program: str, status: str) -> None:
    verdict = run(program, "4", "8", Limits(cpu_seconds=2, memory_bytes=256 << 20, output_bytes=1 << 20))  # quick to fill
    assert verdict.status == status, verdict
    assert (verdict.test, verdict.passed_tests) == (0, 0)


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(60)",
        "import threading; threading.Lock().acquire() and threading.Event().wait()",
        "import signal; signal.pause()",
    ],
)
def test_waiting_for_ever_is_unknown_not_a_timeout(program: str) -> None:
    verdict = run(program, limits=Limits(cpu_seconds=5, wall_seconds=0.3))
    assert verdict.status == "unknown" and not verdict.passed
    assert verdict.cpu_seconds < 1 and verdict.wall_seconds >= 0.3


def test_the_limit_is_cpu_time() -> None:
    assert run("import time; time.sleep(1.5); print(8)", "", "8", Limits(cpu_seconds=0.5)).passed
    verdict = run("while True: pass", limits=Limits(cpu_seconds=0.3))
    assert verdict.status == "timeout" and 0.3 <= verdict.cpu_seconds < 0.9


def test_no_tests_are_bad_input() -> None:
    with pytest.raises(BadInput, match="without tests"):
        grade("print(1)", [])


@pytest.mark.parametrize(
    ("test", "func_name"),
    [
        (TestCase("1", "1", "functional"), None),
        (TestCase("1", "1"), "f"),
        (TestCase("not json", "1", "functional"), "f"),
        (TestCase("1", "oops", "functional"), "f"),
    ],
)
def test_tests_that_cannot_be_run_are_bad_input(test: TestCase, func_name: str | None) -> None:
    with pytest.raises(BadInput, match="test 1"):
        grade("def f(x): return x", [TestCase("1", "1", "functional" if func_name else "stdin"), test], func_name=func_name)


@pytest.mark.parametrize("limits", [{"cpu_seconds": 0}, {"wall_seconds": -1}, {"memory_bytes": 1000}, {"output_bytes": 0}])
def test_senseless_limits_are_bad_input(limits: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        Limits(**limits)


def test_the_smallest_memory_still_starts() -> None:
    assert run("print(8)", "", "8", Limits(memory_bytes=64 << 20)).passed
    assert call("def f(): return 8", "f", ("", "8"), limits=Limits(memory_bytes=64 << 20)).passed


# As under plain Python

FAITHFUL = {
    "iterate stdin": "import sys\nfor line in sys.stdin: print(line.strip()[::-1])",
    "buffer": "import sys; print(sys.stdin.buffer.read().split())",
    "os.read": "import os; print(os.read(0, 3), os.read(0, 99))",
    "open(0)": "print(open(0).read().split())",
    "open /dev/stdin": "print(open('/dev/stdin').read().split())",
    "input until EOFError": "try:\n    while True: print(input())\nexcept EOFError: print('end')",
    "readline then read": "import sys; print(sys.stdin.readline(), sys.stdin.read())",
    "seek": "import sys; sys.stdin.read(); sys.stdin.seek(0); print(sys.stdin.read())",
    "not a tty": "import sys; print(sys.stdin.isatty(), sys.stdout.isatty(), sys.stdin.encoding, sys.stdout.encoding)",
    "mixed writers": "import os, sys; sys.stdout.write('a'); sys.stdout.flush(); os.write(1, b'b'); sys.stdout.buffer.write(b'c')",
    "replaced stdout": "import io, os, sys\nout = io.StringIO(); sys.stdout = out\nprint('x')\nos.write(1, out.getvalue().encode())",
    "open(1)": "import sys\nwith open(1, 'w', closefd=False) as out: out.write('x')",
    "closed stdout": "import sys; print('x'); sys.stdout.flush(); sys.stdout.close()",
    "atexit": "import atexit; atexit.register(print, 'last'); print('first')",
    "atexit without end of line": "import atexit, sys; atexit.register(sys.stdout.write, 'last')",
    "late threads": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()\nprint('early')",
    "many threads": "import threading\nall = [threading.Thread(target=print, args=(n,)) for n in range(50)]\n"
    "for t in all: t.start(); t.join()",
    "pool": "from concurrent.futures import ThreadPoolExecutor as P\nwith P(4) as p: print(list(p.map(abs, range(-5, 5))))",
    "asyncio": "import asyncio\nasync def main():\n    await asyncio.sleep(0.01); print('x')\nasyncio.run(main())",
    "exit": "print('x'); exit()",
    "quit": "print('x'); quit(0)",
    "sys.exit in the middle": "import sys; print('x'); sys.exit(); print('y')",
    "main guard": "def main(): print(__name__, __file__.endswith('solution.py'))\nif __name__ == '__main__': main()",
    "future": "from __future__ import annotations\ndef f(x: Nothing): return x\nprint(f(1))",
    "coding cookie": "# -*- coding: latin-1 -*-\nprint('x')",
    "form feed and byte order mark": "\ufeff\x0cprint('x')",
    "recursion": "import sys; sys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(50_000))",
    "recursion in a big thread": "import sys, threading; sys.setrecursionlimit(10**6); threading.stack_size(1 << 27)\n"
    "def f(n): return n and 1 + f(n - 1)\nt = threading.Thread(target=lambda: print(f(50_000))); t.start(); t.join()",
    "RecursionError": "def f(): f()\ntry: f()\nexcept RecursionError as error: print(error)",
    "globals": "print(sorted(globals()))",
    "argv": "import sys; print(len(sys.argv), sys.flags.optimize, sys.getrecursionlimit())",
    "main module": "import __main__, pickle\nclass A: pass\nprint(__main__.A is A, type(pickle.loads(pickle.dumps(A()))) is A)",
    "dataclass": "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A:\n    x: 'int' = 1\nprint(A())",
    "source": "import inspect\ndef f(): return 1\nprint(inspect.getsource(f))",
    "scratch file": "open('a.txt', 'w').write('x'); print(open('a.txt').read())\n"
    "import os; os.mkdir('d'); os.rename('a.txt', 'd/b'); print(os.listdir('d'))",
    "temporary file": "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x'); f.seek(0); print(f.read())",
    "del at exit": "class A:\n    def __del__(self): print('gone')\na = A()",
    "unicode": "print('é', input())",
    "large integers": "print(len(str(3 ** 5000)))",
    "signal alarm": "import signal\nsignal.signal(signal.SIGALRM, lambda *_: print('rang'))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()",
    "signal to itself": "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('got'))\n"
    "os.kill(os.getpid(), signal.SIGUSR1); signal.raise_signal(signal.SIGUSR1)",
    "stdlib": "import decimal, fractions, zoneinfo, sqlite3, array, heapq, string, typing, json, re, random, unicodedata; print('x')",
    "name of a module of ours": "try: import confine\nexcept ImportError: print('none')",
    "time": "import time; time.perf_counter(); time.process_time(); print(time.localtime().tm_year > 2000)",
}  # fmt: skip
GIVEN = "first line\nsecond é\n"


@pytest.mark.parametrize("name", FAITHFUL)
def test_as_under_plain_python(name: str, tmp_path: Path) -> None:
    script = tmp_path / "solution.py"
    script.write_bytes(FAITHFUL[name].encode())
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    (tmp_path / "in").write_bytes(GIVEN.encode())
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out:
        plain = subprocess.run(
            [sys.executable, str(script)], stdin=given, stdout=out, stderr=subprocess.PIPE, env=environment, cwd=tmp_path
        )
    assert plain.returncode == 0, plain.stderr
    expected = (tmp_path / "out").read_text()
    assert expected, "a program that says nothing would prove nothing"
    verdict = run(FAITHFUL[name], GIVEN, expected, Limits(wall_seconds=20))
    assert verdict.passed, verdict


def test_recursion_through_c_has_room() -> None:
    program = "import sys, functools; sys.setrecursionlimit(10**6)\n@functools.cache\ndef f(n): return n and 1 + f(n - 1)\nprint(f(20_000))"
    assert run(program, "", "20000").passed  # needs some 12 MB of stack: under the usual 8 MiB a plain Python 3.11 dies here


def test_sets_have_the_same_order_in_every_run() -> None:
    program = "print(*{'alpha', 'beta', 'gamma', 'delta', 'epsilon'})"
    orders = {run(program, "", "?").passed for _ in range(3)}
    assert orders == {False}
    known = subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True).stdout
    assert all(run(program, "", known).passed for _ in range(3))


def test_stderr_is_short_and_the_same_in_every_run() -> None:
    first, second = (run("import sys; print('x' * 5000, file=sys.stderr); 1 / 0") for _ in range(2))
    assert first.stderr == second.stderr and len(first.stderr) == 2000 and first.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_the_program_sees_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    names = "LC_ALL MALLOC_ARENA_MAX OMP_NUM_THREADS OPENBLAS_NUM_THREADS PYTHONHASHSEED"
    assert run("import os; print(*sorted(os.environ))", "", names).passed


def test_the_program_sees_nothing_of_the_sandbox() -> None:
    frames = "import sys, gc\nframe = sys._getframe()\nwhile frame: print(*sorted(frame.f_globals)); frame = frame.f_back\n"
    mine = "__annotations__ __builtins__ __cached__ __doc__ __file__ __loader__ __name__ __package__ __spec__ frame gc sys"
    assert run(frames, "", f"{mine}\n{mine}").passed
    expected = (
        "import gc, re\nheld = [o for c in gc.get_objects() if type(c) in (dict, list, tuple)\n"
        "        for o in (c.values() if type(c) is dict else c)]\n"
        "print([o for o in held if type(o) is str and re.fullmatch('noth[i]ng', o)] or ''.join(['no', 'thing']))"
    )
    assert run(expected, "", "nothing").passed
    assert run("import os; print(*[n for n in range(256) if os.path.exists(f'/proc/self/fd/{n}')])", "", "0 1 2").passed


def test_numpy_where_the_interpreter_has_it() -> None:
    pytest.importorskip("numpy")
    assert run("import numpy as np; print((np.eye(50) @ np.ones(50)).sum())", "", "50.0").passed
    verdict = run("import sys; print('numpy' in sys.modules, end=' '); import numpy as np; print(np.arange(3).sum())", "", "True 3")
    assert verdict.passed and verdict.cpu_seconds < 0.03, "it is there before the program is: an import of its own takes 90 ms"
    assert run("import sys; print('num' + 'py' in sys.modules)", "", "False").passed


# Functions


def test_method_and_plain_function() -> None:
    assert call(
        "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        return a + sum(b)",
        "add",
        ("1\n[2, 3]", "6"),
        ("0\n[]", "0"),
    ).passed
    assert call("def add(a, b): return a + b", "add", ("1\n2", "3")).passed
    assert call("def none(): return None", "none", ("", "null")).passed


def test_the_imports_that_leetcode_gives() -> None:
    program = (
        "def f(n): return [gcd(n, 4), list(accumulate([1, n])), heapq.nsmallest(1, [n]), Counter('aa')['a'],\n"
        "                  bisect_left([1], n), inf > n, pow(2, n)]"
    )
    assert call(program, "f", ("6", "[2, [1, 7], [6], 2, 1, true, 64]")).passed


def test_values_are_compared_as_json() -> None:
    assert call("def f(): return (1, [(2, 3)], 0.1 + 0.2)", "f", ("", "[1, [[2, 3]], 0.3]")).passed
    assert call("def f(): return {1, 2}", "f", ("", "[1, 2]")).status == "wrong"
    assert call("def f(): x = []; x.append(x); return x", "f", ("", "[]")).status == "wrong"
    pytest.importorskip("numpy")
    assert call("import numpy\ndef f(): return numpy.arange(3), numpy.int64(7)", "f", ("", "[[0, 1, 2], 7]")).passed


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("class A:\n    __eq__ = lambda s, o: True\ndef f(x): return A()", "wrong"),
        ("class A(int):\n    __eq__ = lambda s, o: True\ndef f(x): return A(0)", "wrong"),
        ("class A(str):\n    __eq__ = lambda s, o: True\ndef f(x): return A('passed')", "wrong"),
        ("import json\njson.dumps = lambda *a, **k: 'true'\njson.loads = lambda *a: 1\ndef f(x): return True", "wrong"),
        ("def f(x): print('8'); return None", "wrong"),
        ("import os\nfor n in range(3, 20):\n    try: os.write(n, b'====8')\n    except OSError: pass\ndef f(x): return 1", "wrong"),
        ("import os\ndef f(x): os._exit(0)", "wrong"),
        ("import sys\nsys.exit()", "wrong"),
        ("def g(x): return 8", "error"),
        ("f = 8", "error"),
        ("def f(): return 8", "error"),
        ("def f(x): raise ValueError", "error"),
        ("import os\nos.closerange(3, 99)\ndef f(x): return 8", "error"),
        ("import os, time\nos.closerange(3, 99)\nwhile True: pass", "timeout"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("def f(x): return 'x' * 10**10", "memory"),
        ("def f(x): return 'x' * (17 << 20)", "output_limit"),
    ],
)  # fmt: skip
def test_status_of_a_function(program: str, status: str) -> None:
    verdict = call(program, "f", ("4", "8"), ("5", "10"))
    assert verdict.status == status, verdict
    assert (verdict.test, verdict.passed_tests, verdict.total_tests) == (0, 0, 2)


def test_a_function_sees_neither_later_inputs_nor_expected_outputs() -> None:
    program = """
import gc, os, sys
def f(x):
    frame, seen = sys._getframe(), ""
    while frame:
        seen += repr(frame.f_locals) + repr(frame.f_globals)
        frame = frame.f_back
    for n in range(20):
        try: seen += repr(os.pread(n, 100000, 0))
        except OSError: pass
    return "97" + "531" in seen or "86" + "420" in seen
"""
    assert call(program, "f", ('"a"', "false"), ("97531", "true"), ("0", "86420")).test == 2


def test_cpu_time_is_limited_for_each_call() -> None:
    burn = "import time\ndef f(x):\n    end = time.thread_time() + 0.4\n    while time.thread_time() < end: pass\n    return x"
    verdict = call(burn, "f", *[(f"{n}", f"{n}") for n in range(4)], limits=Limits(cpu_seconds=0.9))
    assert verdict.passed and verdict.cpu_seconds > 1.2
    slow = call(burn.replace("0.4", "x"), "f", ("0.1", "0.1"), ("2", "2"), ("0.1", "0.1"), limits=Limits(cpu_seconds=0.9))
    assert (slow.status, slow.test, slow.passed_tests) == ("timeout", 1, 1)


def test_sleeping_in_a_function_is_unknown() -> None:
    verdict = call("import time\ndef f(x): time.sleep(x); return x", "f", ("0", "0"), ("30", "30"), limits=Limits(wall_seconds=0.4))
    assert (verdict.status, verdict.test) == ("unknown", 1)


# Many


def test_many_keep_their_order_and_kinds() -> None:
    jobs = [
        ("print(input())", [TestCase("a", "a")], None),
        ("def f(x): return x", [TestCase("1", "2", "functional")], "f"),
        ("while True: pass", [TestCase("", "")], None),
        *[(f"print({n})", [TestCase("", str(n))], None) for n in range(8)],
    ]
    statuses = [verdict.status for verdict in grade_many(jobs, QUICK, workers=4)]
    assert statuses == ["passed", "wrong", "timeout"] + ["passed"] * 8


def test_many_raise_what_one_raises() -> None:
    with pytest.raises(BadInput):
        grade_many([("print(1)", [TestCase("", "1")], None), ("print(1)", [], None)], QUICK, workers=2)
    with pytest.raises(BadInput):
        grade_many([], QUICK, workers=0)
    assert grade_many([], QUICK, workers=1) == []


def test_an_error_does_not_wait_for_the_programs_under_way() -> None:
    """The second job's tests are no tests; the first would sleep for a minute."""
    started = time.monotonic()
    with pytest.raises(BadInput):
        grade_many([("import time; time.sleep(50)", [TestCase("", "")], None), ("", [], None)], workers=2)
    assert time.monotonic() - started < 20


def _kill_all_under_way() -> None:
    for slot in list(pool._pool()._busy):
        slot.kill()


def test_an_interrupt_ends_the_programs_of_its_caller_alone() -> None:
    mine, other = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as threads:
        runners = [pool.Runner(b"import time; time.sleep(2); print(8)", Limits(), probe(), None, stop) for stop in (mine, other)]
        futures = [threads.submit(_answer, runner) for runner in runners]
        time.sleep(1)  # both zygotes are up and both programs under way by then: a start takes 0.1 s
        started = time.monotonic()
        pool.interrupt(mine)
        with pytest.raises(SandboxUnavailable, match="interrupted"):
            futures[0].result()
        assert time.monotonic() - started < 0.9 and futures[1].result() == b"8\n"


def _answer(runner: pool.Runner) -> bytes:
    with runner as run:
        return run(b"").answer


def test_a_program_whose_zygote_is_killed_is_run_again() -> None:
    """Once; a second time nothing is known of it."""
    program = "import time; time.sleep({}); print(8)"
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(run, program.format(3), "", "8")
        time.sleep(1)  # it is under way: a start takes 0.1 s, the program 3 s
        _kill_all_under_way()
        assert future.result().passed
        future = threads.submit(run, program.format(10), "", "8")
        for _ in range(2):
            time.sleep(1.5)
            _kill_all_under_way()
        verdict = future.result()
    assert (verdict.status, verdict.hung) == ("unknown", False) and "killed from outside" in verdict.stderr
