"""A program that is called pure leaves nothing for its next call; whatever might is not called so, and each test is fresh either way."""

from __future__ import annotations

import time

import pytest

from gwen25.data import TestCase
from gwen25.sandbox import Verdict, bootstrap, grade
from gwen25.sandbox.pure import MAX_BYTES, Reader

PURE = {
    "a method": "class Solution:\n    def f(self, x: List[int]) -> Optional[int]: return x",
    "library called": "from collections import Counter, defaultdict\ndef f(x): return Counter(x), defaultdict(int)",
    "memo": "from functools import lru_cache\nclass Solution:\n    @lru_cache(None)\n    def f(self, x): return x",
    "attributes of its own": "class Node:\n    __slots__ = ('v',)\n    def __init__(self, v):\n        self.v = v",
    "sys": "import sys\nsys.setrecursionlimit(10**6)\ndef f(x): return sys.maxsize",
    "module functions": "import math, heapq\ndef f(x):\n    heapq.heapify(x)\n    return math.gcd(*x) + math.inf",
    "numbers in a text": "def f(x): return '{0:.2f} {a:>5}'.format(x, a=1)",
    "annotations": "import typing\nfrom typing import Dict as D\ndef f(a: List[int], b: D[str, 'A'], c: typing.Any) -> int | None: pass",
    "subclass of nothing": "class Bag(object): pass\nclass Set(list): pass",
    "global of its own": "n = 0\ndef f(x):\n    global n\n    n += 1\n    return n",
}  # fmt: skip
NOT_PURE = {
    "an import that hides a listed name when it runs": "if 1:\n    from heapq import heappush as q\n"
    "from typing import sys as q\nq.modules['os']",
    "a star that hides a listed name when it runs": "from heapq import heappush as modules\nfrom sys import *\nmodules['os']",
    "an import that may not run": "def f():\n    from heapq import heappush as modules\nmodules['os']",
    "two things of one name": "from math import floor as a\nfrom math import ceil as a",
    "a listed import under a name of sys's": "from heapq import heappush as stdin\nfrom sys import stdin\nstdin.x = 1",
    "what an error was raised on": "try: f.x\nexcept AttributeError as e: e.obj.y = 1",
    "a list of deepcopy's own": "from copy import deepcopy\nclass M:\n    def get(self, k, d): d.append(1)\ndeepcopy([1], M())",
    "a field that deepcopy calls": "from copy import deepcopy\nfrom collections import namedtuple\n"
    "M = namedtuple('M', 'get')\ndeepcopy([1], M(print))",
    "a table of re's": "from re import escape\nclass S(str):\n    def translate(self, t): t[1] = 1\nescape(S('a'))",
    "a pattern's table": "import re\nre.compile('x').groupindex == f",
    "a key of typing's cache": "from typing import List\nclass A:\n    def __hash__(self): return 1\na = A()\ndef g(x: List[a]): pass",
    "attribute of a module": "import math\nmath.seen = 1",
    "attribute of the prelude's module": "def f(x):\n    math.seen = 1",
    "module under another name": "import math\nm = math\nm.seen = 1",
    "import as": "import math as m\nm.seen = 1",
    "module in a list": "import math\n[math][0].seen = 1",
    "class of the library": "from collections import Counter\nCounter.seen = 1",
    "class under another name": "from collections import Counter\nC = Counter\nC.seen = 1",
    "class by its module": "import collections\nC = collections.Counter\nC.seen = 1",
    "method under another name": "from collections import Counter\nm = Counter.most_common\nm.seen = 1",
    "class by mro": "from collections import Counter\nclass A(Counter): pass\nA.mro()[1].seen = 1",
    "class of an instance": "from collections import Counter\nCounter().__class__.seen = 1",
    "type": "from collections import Counter\nt = type(Counter())\nt.seen = 1",
    "for target": "import math\nfor math.seen in [1]: pass",
    "with target": "import math\nwith a as math.seen: pass",
    "walrus and augmented": "import math\nmath.seen += 1",
    "deleted": "import math\ndel math.pi",
    "setattr": "import math\nsetattr(math, 'seen', 1)",
    "builtins": "import builtins\nbuiltins.seen = 1",
    "builtins of the prelude": "def f(x):\n    builtins.seen = 1",
    "random of the prelude": "def f(x): return randint(1, 2)",
    "random": "import random\ndef f(x): return random.random()",
    "modules": "import sys\nsys.modules['math'].seen = 1",
    "stdin": "import sys\ndef f(x): return sys.stdin.read()",
    "environment": "import os\nos.environ['seen'] = '1'",
    "a file": "def f(x): open('seen', 'w')",
    "names by text": "exec('import math; math.seen = 1')",
    "attributes by text": "from operator import attrgetter\nattrgetter('__class__')(1)",
    "annotations by text": "import typing\ndef f(x: 'print(1)'): typing.get_type_hints(f)",
    "frames": "def g(): yield\nframe = g().gi_frame",
    "private names": "import re\nre._cache.clear()",
    "threads": "import threading",
    "decimal's context": "import decimal\ndecimal.getcontext().prec = 3",
    "numpy": "import numpy",
    "a member of an enumeration": "import re\na = re.I\na.seen = 1",
    "a subclass, whose methods are the library's": "from collections import Counter\nclass Bag(Counter): pass",
    "an alias of typing's": "kept = [Counter]",
    "a table of a module": "import copy\ncopy.dispatch_table[1] = 2",
    "a table by name": "from typing import EXCLUDED_ATTRIBUTES as e\ne.append(1)",
    "a method that the library adds": "from functools import total_ordering\n@total_ordering\nclass A: pass\nA.__ge__.n = 1",
    "an annotation that calls": "class G:\n    def __getitem__(self, k): self.k = k\ng = G()\ny: g[random.__dict__]",
    "an attribute in an annotation": "import math\ndef f(a: math.__dict__): pass",
    "a format field": "def f(x): return '{0.__globals__}'.format(f)",
    "a format field in a field": "def f(x): return '{:{0.x}}'.format(f)",
    "format by another name": "def f(x): return list(map(str.format, x))",
    "format of a text of its own": "def f(x): return x.format(f)",
    "a method that copies": "class A:\n    def __reduce_ex__(self, n): return 1",
    "a finaliser": "class A:\n    def __del__(self): pass",
    "a method by assignment": "class A:\n    __call__ = print",
    "another name for a function": "def f(x): f.__name__ = 'g'",
    "another name for the module": "__name__ = 'other'",
    "an import under a name like that": "import math as __class_getitem__",
    "what an exception deletes": "try: int('x')\nexcept ValueError as e: pass\ndef f(x): return x * e",
    "what del deletes": "for gcd in range(3): pass\ndel gcd",
    "a metaclass": "class A(metaclass=print): pass",
    "long": "x = 1\n" * 2000,
    "a long chain": "def f(x): return a" + ".a" * 3000,
    "no Python": "def f(:",
    "too deep": "(" * 5000,
    "exit of site": "def f(x): exit.seen = 1",
    "a class under the name of a function": "from collections import Counter as A\nA.seen = 1\ndef f():\n    from math import gcd as A",
    "a module under the name of a function": "import collections as A\nA.seen = 1\ndef f():\n    from math import gcd as A",
    "two modules under one name": "import re as A\ns = A.sub\ns.seen = 1\ndef f():\n    import operator as A",
}
PURE_STDIN = {
    "input": "n = int(input())\nprint(n * 2)",
    "input under another name": "import sys\ninput = sys.stdin.readline\nI = lambda: int(input())\nprint(I())",
    "stdin in every way": "import sys\nprint(sys.stdin.read(), sys.stdin.readline().split(), sys.stdin.readlines()[0])",
    "buffer": "import sys\nread = sys.stdin.buffer.readline\ndata = sys.stdin.buffer.read().split()\nsys.stdout.buffer.write(b'x')",
    "lines": "import sys\nfor line in sys.stdin: print(line)\nprint([x for x in sys.stdin], list(map(int, sys.stdin)), next(sys.stdin))",
    "from sys": "from sys import stdin, stdout as out, setrecursionlimit\nsetrecursionlimit(9)\nout.write(stdin.readline())",
    "print to stdout": "import sys\nprint(1, file=sys.stdout, flush=True)\nsys.stdout.flush()",
    "main": "def main(): print(1)\nif __name__ == '__main__': main()",
    "library": "from collections import defaultdict, deque\nimport heapq, bisect, math\nd = defaultdict(list)\nprint(math.gcd(4, 6))",
    "stars": "from math import *\nfrom collections import *\nx = [gcd(4, 6)]\nprint(Counter(x))",
    "stars of typing and sys": "from typing import *\nfrom sys import *\nx: List[int] = [1]\nprint(stdin.read())",
    "a generator": "def g():\n    yield 1\nprint(*g())",
    "try": "try: print(int(input()))\nexcept ValueError: print(0)",
    "a name called open": "open_list = []\nprint(open_list)",
}
NOT_PURE_STDIN = {
    "typing's own modules by annotation": "import typing\nx: typing.sys = 1",
    "open": "print(open(0).read())",
    "os": "import os\nprint(os.read(0, 9))",
    "the stream under another name": "import sys\nf = sys.stdin\nprint(f.read())",
    "the stream from sys under another name": "from sys import stdin\nf = stdin\nprint(f.read())",
    "its iterator": "import sys\nf = iter(sys.stdin)\nf.close()",
    "in a list": "import sys\n[sys.stdin][0].close()",
    "as an argument": "import sys\ndef f(s): s.close()\nf(sys.stdin)",
    "as a default of next": "import sys\nnext(iter([]), sys.stdin).close()",
    "to a map that is its own": "import sys\ndef map(f, s): s.close()\nmap(int, sys.stdin)",
    "to a list by import": "import sys\nfrom functools import partial as list\nlist(sys.stdin)",
    "to a function of map": "import sys\nmap(sys.stdin, [1])",
    "to a print that is its own": "import sys\ndef print(x, file): file.close()\nprint(1, file=sys.stdout)",
    "as what is printed": "import sys\nprint(sys.stdin)",
    "fileno": "import sys\nprint(sys.stdin.fileno())",
    "raw": "import sys\nprint(sys.stdin.buffer.raw.read())",
    "the buffer as a value": "import sys\nb = sys.stdin.buffer\nb.raw.close()",
    "detach": "import sys\nsys.stdin.detach()",
    "close": "import sys\nsys.stdout.close()",
    "seek": "import sys\nsys.stdin.seek(0)",
    "reconfigure": "import sys\nsys.stdin.reconfigure(newline='')",
    "buffer of stdout as a value": "import sys\nb = sys.stdout.buffer",
    "stdin's read on stdout": "import sys\nsys.stdout.read()",
    "owner of a method": "import sys\nr = sys.stdin.readline\nr.__self__.close()",
    "replaced": "import sys\nsys.stdin = 1",
    "a method replaced": "import sys\nsys.stdin.readline = 1",
    "deleted": "import sys\ndel sys.stdin",
    "the first one": "import sys\nsys.__stdin__.read()",
    "stderr": "import sys\nprint(1, file=sys.stderr)",
    "stderr from sys": "from sys import stderr",
    "with": "import sys\nwith sys.stdin as f: f.close()",
    "a walrus": "import sys\n(f := sys.stdin).close()",
    "one name for both": "from sys import stdin as s\nfrom sys import stdout as s\ns.write('x')",
    "modules with a star": "from sys import *\nmodules['math'].seen = 1",
    "what a star brings": "from typing import *\nx = Any\nx.seen = 1",
    "exit": "exit()",
    "sys.exit": "import sys\nsys.exit()",
    "raise SystemExit": "raise SystemExit",
    "random": "import random",
    "not loaded beforehand": "from fractions import Fraction",
    "threads": "import threading",
    "atexit": "import atexit\natexit.register(print, 1)",
    "a handler in a generator": "def g():\n    try: yield 1\n    except: print(2)\nit = g()\nnext(it)",
    "help": "help.seen = 1",
    "main as a module": "import __main__",
    "a finaliser": "class A:\n    def __del__(self): print(1)\na = A()",
    "eval": "eval('1')",
    "globals": "globals()['x'] = 1",
    "the limit of digits": "import sys\nsys.set_int_max_str_digits(0)",
    "hooks": "import sys\nsys.excepthook = print",
    "trace": "import sys\nsys.settrace(None)",
    "input's attribute": "input.x = 1\nprint.__self__.x = 1",
}


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(bootstrap.namespace())


@pytest.mark.parametrize("name", PURE)
def test_pure(name: str, reader: Reader) -> None:
    assert reader.pure(PURE[name].encode())


@pytest.mark.parametrize("name", NOT_PURE)
def test_not_pure(name: str, reader: Reader) -> None:
    assert not reader.pure(NOT_PURE[name].encode())


@pytest.fixture(scope="module")
def stdin_reader() -> Reader:
    return Reader(None)


@pytest.mark.parametrize("name", PURE_STDIN)
def test_pure_on_stdin(name: str, stdin_reader: Reader) -> None:
    assert stdin_reader.pure(PURE_STDIN[name].encode())


@pytest.mark.parametrize("name", NOT_PURE_STDIN)
def test_not_pure_on_stdin(name: str, stdin_reader: Reader) -> None:
    assert not stdin_reader.pure(NOT_PURE_STDIN[name].encode())


# Of those that only a function's star imports make so, or that are pure where a stream may be read
_FUNCTIONS_ONLY = {
    "an import that may not run",
    "attribute of the prelude's module",
    "builtins of the prelude",
    "random of the prelude",
    "stdin",
    "an alias of typing's",
    "what an exception deletes",
    "what del deletes",
}


@pytest.mark.parametrize("name", [name for name in NOT_PURE if name not in _FUNCTIONS_ONLY])
def test_what_is_not_pure_of_functions_is_not_on_stdin(name: str, stdin_reader: Reader) -> None:
    assert not stdin_reader.pure(NOT_PURE[name].encode())


@pytest.mark.parametrize("piece", ["sys.stdin.read()\n", "x.y.z[0].a\n", "list(sys.stdin)\n", "from math import *\n", "sys.stdin\n"])
def test_reading_is_bounded(piece: str, stdin_reader: Reader) -> None:
    started = time.process_time()
    stdin_reader.pure(("import sys\n" + piece * 10_000)[:MAX_BYTES].encode())
    assert time.process_time() - started < 1


def call(program: str, *pairs: tuple[str, str], all_tests: bool = False) -> Verdict:
    return grade(program, [TestCase(i, o, "functional") for i, o in pairs], func_name="f", all_tests=all_tests)


TABLE = "squares = [k * k for k in range(200_000)]\n"  # 10 ms of CPU time: such a program is loaded once
STDIN_COUNTERS = {
    "a global": "n = 0\ndef f():\n    global n\n    n += 1\nf()\nprint(n)",
    "a name that may be there": "try: n\nexcept NameError: n = 0\nn += 1\nprint(n)",
    "a default": "def f(seen=[]):\n    seen.append(1)\n    return len(seen)\nprint(f())",
    "a class": "class A:\n    n = 0\nA.n += 1\nprint(A.n)",
    "a memo": "from functools import lru_cache\nk = [0]\n@lru_cache(None)\ndef g(y):\n    k[0] += 1\n    return k[0]\nprint(g(1))",
    "what was not read": "import sys\nprint(len(sys.stdin.readline().split()))",
    "what was read ahead": "import sys\nprint(len(next(sys.stdin).split()))",
    "bytes read ahead": "import sys\nprint(len(sys.stdin.buffer.readline().split()))",
    "the recursion limit": "import sys\ndef f(n): return n and 1 + f(n - 1)\ntry: print(f(1200))\n"
    "except Exception: print(1)\nsys.setrecursionlimit(9999)",
    "a module": "import math\nmath.n = getattr(math, 'n', 0) + 1\nprint(math.n)",
    "builtins": "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\nprint(builtins.n)",
    "random": "import random\nrandom.seed(1)\nrandom.random()\nprint(1)",
    "at exit": "import atexit\natexit.register(lambda: None)\nprint(atexit._ncallbacks())",
    "main": "import sys\nmain = sys.modules['__main__']\nmain.n = getattr(main, 'n', 0) + 1\nprint(main.n)",
    "a file": "with open('n', 'a+') as file:\n    file.write('.')\n    print(file.tell())",
    "an unfinished generator": "def g():\n    try: yield 1\n    except: print(2)\nit = g()\nprint(next(it))",
}
COUNTERS = {
    "a table": TABLE + "def f(x):\n    squares.append(1)\n    return len(squares) - 200_000",
    "a table and a global": TABLE + "n = 0\ndef f(x):\n    global n\n    n += 1\n    return n",
    "a global": "n = 0\ndef f(x):\n    global n\n    n += 1\n    return n",
    "a default": "def f(x, seen=[]):\n    seen.append(x)\n    return len(seen)",
    "a class": "class Solution:\n    n = 0\n    def f(self, x):\n        Solution.n += 1\n        return Solution.n",
    "a memo": "k = [0]\n@lru_cache(None)\ndef g(y):\n    k[0] += 1\n    return k[0]\ndef f(x): return g(x)",
    "a module": "import math\ndef f(x):\n    math.n = getattr(math, 'n', 0) + 1\n    return math.n",
    "builtins": "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\ndef f(x): return builtins.n",
    "a file": "def f(x):\n    with open('n', 'a+') as file:\n        file.write('.')\n        return file.tell()",
    "the environment": "import os\ndef f(x):\n    os.environ['n'] = n = os.environ.get('n', '') + '.'\n    return len(n)",
    "the recursion limit": "from sys import *\ndef f(x):\n    setrecursionlimit(getrecursionlimit() + 1)\n"
    "    return getrecursionlimit() - 50000",
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTERS)
def test_each_test_is_fresh(name: str) -> None:
    fresh, leaking = [(str(n), "1") for n in range(5)], [(str(n), str(n + 1)) for n in range(5)]
    assert call(COUNTERS[name], *fresh).passed
    assert call(COUNTERS[name], *leaking, all_tests=True).passed_tests == 1


@pytest.mark.parametrize("name", STDIN_COUNTERS)
def test_each_test_of_stdin_is_fresh(name: str) -> None:
    tests = [TestCase(f"{n}\n7 8\n", "1") for n in range(7)]
    verdict = grade(STDIN_COUNTERS[name], tests)
    assert verdict.passed, verdict


def test_many_tests_of_a_pure_program_in_one_process_and_the_failing_one_alone() -> None:
    tests = [(str(n), str(n * 2)) for n in range(20)]
    verdict = call("def f(x): return x * 2", *tests)
    assert verdict.passed and verdict.passed_tests == 20 and verdict.cpu_seconds < 0.1
    for wrong in (0, 1, 7, 19):
        program = f"def f(x):\n    if x == {wrong}: raise KeyError('here')\n    return x * 2"
        verdict = call(program, *tests)
        assert (verdict.status, verdict.test, verdict.passed_tests) == ("error", wrong, wrong) and "here" in verdict.stderr
        verdict = call(program, *tests, all_tests=True)
        assert (verdict.status, verdict.test, verdict.passed_tests) == ("error", wrong, 19)
    verdict = call("def f(x): return x * 2 - (x in (3, 7))", *tests, all_tests=True)
    assert (verdict.status, verdict.test, verdict.passed_tests) == ("wrong", 3, 18)


def test_a_table_is_built_once_for_all_tests() -> None:
    program = "squares = []\nfor k in range(20):\n    for _ in range(30_000): pass\n    squares.append(k * k)\ndef f(x): return squares[x]"
    tests = [(str(n), str(n * n)) for n in range(20)]
    once = call(program, tests[0]).cpu_seconds
    verdict = call(program, *tests)
    assert verdict.passed and verdict.passed_tests == 20 and verdict.cpu_seconds < 3 * once


@pytest.mark.parametrize("end", ["while x == 3: pass", "if x == 3: raise KeyError", "if x == 3: squares * 10**9", "if x == 3: f(3)"])
def test_one_test_that_fails_beside_a_table_is_the_only_one(end: str) -> None:
    from gwen25.sandbox import Limits

    program = f"{TABLE}def f(x):\n    {end}\n    return squares[x]"
    tests = [TestCase(str(n), str(n * n), "functional") for n in range(6)]
    verdict = grade(program, tests, Limits(cpu_seconds=1), func_name="f", all_tests=True)
    assert (verdict.test, verdict.passed_tests) == (3, 5) and verdict.status in ("timeout", "error", "memory")


def test_limits_are_of_one_test_though_many_run_together() -> None:
    from gwen25.sandbox import Limits

    tests = [TestCase(str(n), str(n), "functional") for n in range(6)]
    slow = "def f(x):\n    for _ in range(4_000_000): pass\n    return x"  # 0.1-0.4 s each
    assert grade(slow, tests, Limits(cpu_seconds=1.5), func_name="f").passed
    endless = "def f(x):\n    while x == 3: pass\n    return x"
    verdict = grade(endless, tests, Limits(cpu_seconds=0.5), func_name="f", all_tests=True)
    assert (verdict.status, verdict.test, verdict.passed_tests) == ("timeout", 3, 5)
