"""A program of the usual kind, run a few times in the zygote: what it fills, no child has to fill again. Standard library only.

Type caches, specialised bytecode, codecs: a tenth of a trivial program's CPU time. It leaves no name, file or setting behind.
"""

from __future__ import annotations

import io

TYPE_CHECKING = False  # the module typing itself costs 10 ms of each start
if TYPE_CHECKING:
    from typing import Any

RUNS = 20  # the interpreter specialises a function after 8 calls
USUAL = """
import sys, math, heapq, bisect, itertools, functools, operator, re, string
from collections import defaultdict, deque, Counter, OrderedDict
from functools import lru_cache
class Node:
    def __init__(self, value):
        self.value = value
        self.next = None
    def add(self, other):
        return Node(self.value + other.value)
def solve(stream, out):
    n, k = map(int, stream.readline().split())
    a = list(map(int, stream.readline().split()))
    s = stream.readline().strip()
    d, c, q, h = defaultdict(list), Counter(a), deque([1]), []
    for i, x in enumerate(a):
        d[x].append(i); heapq.heappush(h, (x, i)); q.append(x)
    while q: q.popleft()
    while h: heapq.heappop(h)
    best = {}
    for x in sorted(set(a), key=lambda v: -v):
        best[x] = best.get(x, 0) + c[x]
    g = [[0] * 5 for _ in range(5)]
    for i in range(5):
        for j in range(i): g[i][j] = g[j][i] + 1
    f = lru_cache(None)(lambda v: 1 if v < 2 else f(v - 1) + f(v - 2))
    t = "".join(ch for ch in s if ch.isalpha()).upper().replace("A", "b")
    try: int(s)
    except ValueError: pass
    print(n, k, best, Node(1).add(Node(f(9))).value, sep=" ", file=out)
    print(*a, file=out)
    print(f"{n / 3:.6f} {t[::-1]} {math.gcd(n, k)} {bisect.bisect_left(a, 2)} {sum(a)} {max(a)} {min(a)}", file=out)
    out.write(" ".join(map(str, a)) + "\\n")
    list(zip(a, a[1:])); any(a); all(a); abs(-n); divmod(n, 2); pow(n, k, 7); ord("a"); chr(97); tuple(a); reversed(a)
"""


def warm_up() -> None:
    """On streams in memory."""
    code = compile(USUAL, "solution.py", "exec", 0, True)
    for _ in range(RUNS):
        names: dict[str, Any] = {"__name__": "usual"}
        exec(code, names)
        out = io.TextIOWrapper(io.BufferedWriter(io.BytesIO()))
        names["solve"](io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"3 2\n1 2 3\nabc def\n"))), out)
        out.flush()
