"""A program that was set back is as it was when it had loaded; what cannot be set back exactly is not tried."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from gwen25.sandbox import rewind


def loaded(source: str) -> dict[str, Any]:
    module = type(sys)("solution")
    exec(source, module.__dict__)
    return module.__dict__


def back(source: str, names: dict[str, Any]) -> Any:
    return rewind.back(source.encode(), names)


KNOWN = {
    "data": ("a = [[0, 1.5], {'k': (1, 'x')}, None]\nb = {1: [2]}", "a[0].append(1); a[1]['k'] = 2; b.clear(); del globals()['b']"),
    "a new name": ("a = [1]", "new = 5"),
    "a constant": ("n = 0", "n += 1"),
    "functions": ("def f(x, y=1, *, z='a'): return x", "f.seen = 1; del globals()['f']"),
    "a class": ("class A:\n    n = 0\n    def f(self): return self.n", "A.n += 1; A.m = 2; A.f.seen = 3; del A.f"),
    "the library's": ("import math\nfrom collections import Counter\nfrom heapq import heappush", "math = 1; Counter = 2"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_as_it_was(name: str) -> None:
    source, changes = KNOWN[name]
    names = loaded(source)
    again = back(source, names)
    assert again
    before = _seen(loaded(source))
    assert _seen(names) == before
    for _ in range(2):
        exec(changes, names)
        assert _seen(names) != before
        again()
        assert _seen(names) == before


def _seen(names: dict[str, Any]) -> dict[str, Any]:
    """Values where they can be compared; of functions and classes what they hold."""
    return {name: _value(value) for name, value in names.items() if name != "__builtins__"}


def _value(value: Any) -> Any:
    if isinstance(value, type) and value.__module__ == "solution":
        return {name: _value(inside) for name, inside in vars(value).items() if name not in ("__dict__", "__weakref__")}
    return (value.__code__, dict(vars(value)), value.__defaults__) if hasattr(value, "__code__") else value


def test_functions_see_the_names_that_were_set_back_and_rows_stay_shared() -> None:
    source = "rows = [[0] * 2] * 3\nother = rows\nbig = 10.5\ndef f(): rows[0].append(big); return rows\ndef g(x=big): return x"
    names = loaded(source)
    big = names["big"]
    again = back(source, names)
    assert again
    names["f"]()
    again()
    assert names["f"]() == [[0, 0, 10.5]] * 3 and names["other"] is names["rows"] and names["big"] is names["g"]() is big


@pytest.mark.parametrize(
    "source",
    [
        "a = {1, 2}",  # its order tells how it was filled
        "a = [{1}]",
        "a = bytearray(b'x')",
        "a = iter([1])",
        "from itertools import count\na = count()",
        "from collections import deque\na = deque()",
        "a = []\nb = a.append",
        "def f(x=[]): pass",
        "def g():\n    n = 0\n    def f(): return n\n    return f\nf = g()",
        "from functools import cache\n@cache\ndef f(): pass",
        "class A:\n    seen = []",
        "class A:\n    def f(self, seen=[]): pass",
        "class A: pass\na = A()",
        "class A(list): pass",
        "class A:\n    class B: n = 0",
        "a = [len]",
        "a = (x for x in 'a')",
        "def g():\n    try: yield\n    finally: print()",
        "n = 10.5\ndef f(x): return x is n",
        "from collections import namedtuple\nP = namedtuple('P', 'a b', module='other')",
        "from functools import lru_cache\ndecorate = lru_cache(None)",
        "from collections import Counter\nclass Counter(Counter): pass",
    ],
)
def test_what_cannot_be_set_back_is_not_tried(source: str) -> None:
    assert back(source, loaded(source)) is None


def test_rows_that_are_shared_are_looked_at_once() -> None:
    source = "a = [[0] * 3] * 3\nfor _ in range(15): a = [a, a, a]"
    assert back(source, loaded(source))  # 3^15 paths lead to the innermost row
