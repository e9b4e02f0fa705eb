"""Can a program leave anything for its next call but in names of its own? Decided by its text, before it runs. Standard library only.

    Reader(names).pure(source) -> bool      of functions; `names`: what the star imports give them (see `bootstrap.namespace`)
    Reader(None).pure(source) -> bool       of a program that reads stdin

Each test must see a fresh program. Forking a process a test is the sure way, and costs 2 ms. Where the text shows that a program's state
lies in its own namespace alone, running it again in a fresh namespace is the same, and costs 0.1 ms. True needs all of this:

* of the library and the builtins only the names listed here: whatever else a program mentions that it did not get from itself is too much;
* what of these could be given attributes (a class or function written in Python) only where it is called, so that it never gets another
  name, nor a subclass, under which an attribute could be set; a module only where one of these names is read from it;
* every name that imports bind is one thing wherever it is bound, so that no listed one hides another;
* no private attribute but on `self` and `cls`, no attribute that leads to frames or classes, no class pattern and no format field (both
  fetch attributes), no name with two underscores but the few listed, none of these given another value;
* no `del` and no `except ... as` of a name that star imports or builtins give: it would come to light again;
* annotations of nothing but names, typing's own attributes, constants, and subscripts of what the program did not bind;
* of a program that reads stdin also: the streams only to read, write, iterate and print to, never as a value that could be kept, since
  from a stream lead ways to its descriptor (`fileno`, `buffer.raw`, `detach`); and no `try` beside a `yield`, or a generator that was
  left unfinished would run its handler when it is freed, which is in another test's time. Ends by `exit` are left to processes.

Anything else is False, which is never wrong, only slower. Not here: safety. A program that fools this finds itself in the same sandbox,
sees no expected output, and has its every answer compared outside.
"""

from __future__ import annotations

import _string  # type: ignore[import-not-found]  # what str.format reads its fields with
import ast
import builtins
import sys

TYPE_CHECKING = False  # the module typing itself costs 10 ms of each start
if TYPE_CHECKING:
    from typing import Any

LISTED = {
    "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
    "collections": "Counter OrderedDict defaultdict deque namedtuple",
    "copy": "copy deepcopy",
    "datetime": "date datetime timedelta",
    "fractions": "Fraction",
    "functools": "cache cmp_to_key lru_cache partial reduce",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse groupby islice "
    "pairwise permutations product repeat starmap takewhile tee zip_longest",
    "math": "acos asin atan atan2 ceil comb cos dist e exp fabs factorial floor fmod fsum gcd hypot inf isclose isinf isnan isqrt lcm log "
    "log10 log2 nan perm pi pow prod radians remainder sin sqrt tan trunc",
    "operator": "add and_ concat eq floordiv ge gt index inv itemgetter le lshift lt mod mul ne neg not_ or_ pos rshift sub truediv xor",
    "re": "compile escape findall finditer fullmatch match search split sub",
    "statistics": "mean median",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "sys": "maxsize setrecursionlimit",  # the limit is set anew for each call
    "builtins": "abs all any bin bool bytearray bytes chr classmethod complex dict divmod enumerate filter float format frozenset hash hex "
    "int isinstance issubclass iter len list map max min next object oct ord pow print property range repr reversed round set slice sorted "
    "staticmethod str sum super tuple zip ArithmeticError AssertionError AttributeError Exception IndexError KeyError LookupError "
    "NotImplementedError OverflowError RuntimeError StopIteration TypeError ValueError ZeroDivisionError",
}
FOR_STDIN = (
    "bisect",
    "builtins",
    "collections",
    "copy",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "re",
    "string",
    "sys",
)  # loaded
READING, WRITING = frozenset(("read", "readline", "readlines")), frozenset(("write", "writelines", "flush"))
_DRAINS = frozenset(("list", "enumerate", "next", "sorted", "tuple", "set"))  # give the lines of their first argument, never itself
MAX_BYTES = 10_000  # the longest of 800 real solutions has 5,048; the worst text of this length is read in 0.3 s
_DUNDERS = frozenset(
    f"__{name}__"
    for name in (
        "init",
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
        "hash",
        "len",
        "getitem",
        "setitem",
        "contains",
        "iter",
        "next",
        "name",
        "slots",
    )
)
_DEFINED = _DUNDERS - {"__name__", "__slots__"}  # as methods
_LEADING = ("gi_", "f_", "tb_", "cr_", "ag_", "co_", "func_")  # from a generator, a frame, a function onwards
_ELSEWHERE = ("mro", "obj", "groupindex")  # classes; what an AttributeError was raised on; a table that re keeps
_CHAIN = 20  # attributes in a row, as in a.b.c
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8  # Py_TPFLAGS_HEAPTYPE, Py_TPFLAGS_IMMUTABLETYPE
_ANNOTATION = (ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.BitOr, ast.Load)


def takes_attributes(value: Any) -> bool:
    """Whether an attribute can be set on it: all that has a __dict__, but for types that are not made by a class statement."""
    if isinstance(value, type):
        return bool(value.__flags__ & _HEAP_TYPE) and not value.__flags__ & _IMMUTABLE_TYPE
    return hasattr(value, "__dict__")


class Reader:
    """What the star imports give, learned once for all programs. `given` None: none, and the program reads stdin."""

    def __init__(self, given: dict[str, Any] | None):
        names = given or {}
        self.streams = given is None
        self.listed = {module: LISTED[module].split() for module in (FOR_STDIN if self.streams else LISTED)}
        self.modules: dict[str, str] = {name: value.__name__ for name, value in names.items() if isinstance(value, type(sys))}
        self.values: dict[str, Any] = {}
        for module in self.listed:
            self._learn(module, names)
        self.given = names.keys() | set(dir(builtins))
        # asked now, not when this is imported: `exit` and its like come later
        self.beyond = set(dir(builtins)) - set(self.listed["builtins"]) - ({"input"} if self.streams else set())
        plain = {name for name, value in names.items() if isinstance(value, str | int | float)}
        self.strange = names.keys() - self.modules.keys() - self.values.keys() - plain

    def _learn(self, module: str, given: dict[str, Any]) -> None:
        """The names that the star imports give, where each still is its module's own."""
        library = __import__(module)
        for name in self.listed[module]:
            value = getattr(library, name, None)
            here = value if module == "builtins" else given.get(name)
            if here is value or getattr(here, "__origin__", None) is value:  # the second: typing.Counter, which makes a Counter
                self.values[name] = here

    def pure(self, source: bytes) -> bool:
        """Whether the program's state dies with its namespace. False for a source that is long or cannot be parsed."""
        if len(source) > MAX_BYTES:
            return False
        try:
            return _Reading(self).of(ast.parse(source))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False


class _Reading:
    """Of one program. `_strange`: names of the star imports that are not listed, until it binds them at its top level, whatever to."""

    def __init__(self, known: Reader):
        self._modules, self._values = dict(known.modules), dict(known.values)
        self._given, self._strange, self._beyond = known.given, set(known.strange), known.beyond
        self._listed, self._streams = known.listed, known.streams
        self._stream_names: dict[str, str] = {}  # of `from sys import stdin`

    def of(self, tree: ast.Module) -> bool:
        nodes = _below(tree)
        if not (self._one_meaning(nodes) and _leaves_tables_alone(nodes)):
            return False
        if not all(self._imported(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)):
            return False
        annotations = [found for node in nodes for note in _annotations(node) for found in _below(note)]
        bound = {name for node in nodes if not isinstance(node, ast.alias) for name in _bound(node)}
        if not all(self._fine_annotation(found, bound) for found in annotations):
            return False
        if not all(self._fine_binding(node) for node in nodes):
            return False
        noted = set(map(id, annotations))
        if self._streams:
            if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes) and any(
                isinstance(node, ast.Try | ast.TryStar) for node in nodes
            ):
                return False
            noted |= self._fine_streams(nodes)
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        called |= {id(mark) for node in nodes if isinstance(node, ast.FunctionDef) for mark in node.decorator_list}
        bases = {id(node.value): node.attr for node in nodes if isinstance(node, ast.Attribute)}
        return all(id(node) in noted or self._fine(node, id(node) in called, bases.get(id(node))) for node in nodes)

    def _one_meaning(self, nodes: list[ast.AST]) -> bool:
        """Whether each name that imports bind is one thing, whichever comes last when they run, or none: a listed one hides no other."""
        meant: dict[str, Any] = {}
        for node in nodes:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for name, value in _brings(node):
                if meant.setdefault(name, value) is not value or (value is not None and name in self._strange and name != "annotations"):
                    return False
        return True

    def _imported(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Learn what the names stand for."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if self._modules.setdefault(alias.asname or alias.name, alias.name) != alias.name:  # one name for two modules
                    return False
            return all(alias.name in self._listed or alias.name == "typing" for alias in node.names)
        if node.module in ("__future__", "typing"):  # typing's names are for annotations only
            self._strange |= {name for alias in node.names for name, _ in self._brought(node.module, alias)} - {"annotations"}
            return node.module == "typing" or all(not alias.asname for alias in node.names)
        if node.level or node.module not in self._listed:
            return False
        asked = all(alias.name == "*" or self._offered(node.module, alias.name) for alias in node.names)
        return asked and all(self._learned(node.module, *pair) for alias in node.names for pair in self._brought(node.module, alias))

    def _offered(self, module: str, name: str) -> bool:
        return name in self._listed[module] or (self._streams and module == "sys" and name in ("stdin", "stdout"))

    def _brought(self, module: str, alias: ast.alias) -> list[tuple[str, str]]:
        """The names that an import binds, each with the library's own. A star brings more only where none came before the program."""
        if alias.name != "*":
            return [(alias.asname or alias.name, alias.name)]
        return [(name, name) for name in _public(__import__(module))] if self._streams else []

    def _learned(self, module: str, name: str, original: str) -> bool:
        """A name that stood for what takes attributes goes on as one: which import comes last when it runs cannot be seen here."""
        if self._streams and module == "sys" and original in ("stdin", "stdout"):
            known = self._stream_names.setdefault(name, original)
            self._strange.add(name)
            return known == original
        if original not in self._listed[module]:  # by a star
            self._strange.add(name)
            return True
        value = getattr(__import__(module), original, None)
        if takes_attributes(value) or not (name in self._modules or takes_attributes(self._values.get(name))):
            self._modules.pop(name, None)
            self._values[name] = value
        if name not in self._stream_names:
            self._strange.discard(name)
        return True

    def _fine_streams(self, nodes: list[ast.AST]) -> set[int]:
        """The ids of all nodes that are a stream in a place that is known to be harmless, and of the chains that it is in."""
        own = {name for node in nodes for name in _bound(node)} | {
            alias.asname or alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
        }
        fine: set[int] = set()
        for node in nodes:
            for found in self._harmless(node, own):
                fine |= set(map(id, _below(found)))
        return fine

    def _harmless(self, node: ast.AST, own: set[str]) -> list[ast.AST]:
        """The streams used well by this node. `own`: names that the program binds, which are no builtins."""
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            wanted, of = (READING, "stdin") if node.attr in READING else (WRITING, "stdout")
            buffered = isinstance(node.value, ast.Attribute) and node.value.attr == "buffer"
            stream = node.value.value if isinstance(node.value, ast.Attribute) and buffered else node.value
            return [node] if node.attr in wanted and self._stream(stream) == of else []
        if isinstance(node, ast.For | ast.comprehension):
            return [node.iter] if self._stream(node.iter) == "stdin" else []
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id in own:
            return []
        if node.func.id == "print":
            return [word.value for word in node.keywords if word.arg == "file" and self._stream(word.value) == "stdout"]
        given = node.args[:1] if node.func.id in _DRAINS else node.args[1:] if node.func.id == "map" else []
        return [argument for argument in given if self._stream(argument) == "stdin"]

    def _stream(self, node: ast.AST) -> str | None:
        """Which one this expression is: `sys.stdin`, or a name from `from sys import stdin`."""
        if isinstance(node, ast.Name):
            return self._stream_names.get(node.id)
        known = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and self._modules.get(node.value.id) == "sys"
        return node.attr if known and isinstance(node, ast.Attribute) else None

    def _fine_annotation(self, node: ast.AST, bound: set[str]) -> bool:
        """A subscript calls what it is taken of."""
        base = node.value if isinstance(node, ast.Subscript) else node
        if isinstance(base, ast.Attribute):
            known = isinstance(base.value, ast.Name) and self._modules.get(base.value.id) == "typing"
            return known and base.attr in __import__("typing").__all__
        if base is not node and not (isinstance(base, ast.Name) and base.id not in bound):
            return False
        return isinstance(node, _ANNOTATION)

    def _fine_binding(self, node: ast.AST) -> bool:
        """No name with two underscores but as a method, and nothing that is given is taken away."""
        if isinstance(node, ast.FunctionDef):
            return not node.name.startswith("__") or node.name in _DEFINED
        if isinstance(node, ast.ClassDef) and node.keywords:
            return False
        if isinstance(node, ast.ExceptHandler) and node.name in self._given:
            return False
        return not any(name.startswith("__") for name in _bound(node)) or (isinstance(node, ast.Name) and node.id == "__slots__")

    def _fine(self, node: ast.AST, called: bool, read: str | None) -> bool:
        if isinstance(node, ast.Name):
            return self._fine_name(node, called, read)
        if isinstance(node, ast.Attribute):
            return self._fine_attribute(node, called)
        return not isinstance(node, ast.Match | ast.AsyncFunctionDef | ast.Await) and type(node).__name__ not in ("TypeAlias", "TypeVar")

    def _fine_name(self, node: ast.Name, called: bool, read: str | None) -> bool:
        name = node.id
        if name.startswith("__"):
            return name in _DUNDERS
        if not isinstance(node.ctx, ast.Load):
            return isinstance(node.ctx, ast.Store) or name not in self._given
        if name in self._modules:
            return read is not None
        return name not in self._strange and name not in self._beyond and (called or not takes_attributes(self._values.get(name)))

    def _fine_attribute(self, node: ast.Attribute, called: bool) -> bool:
        name, root, length = node.attr, node.value, 1
        while isinstance(root, ast.Attribute | ast.Subscript) and length < _CHAIN:
            root, length = root.value, length + 1
        if name in ("format", "format_map") and not _fetches_nothing(node):
            return False
        if name.startswith("__") and not isinstance(node.ctx, ast.Load):
            return False
        if length == _CHAIN or name in _ELSEWHERE or name.startswith(_LEADING) or (name.startswith("__") and name not in _DUNDERS):
            return False
        if not isinstance(root, ast.Name):
            return not name.startswith("_") or name in _DUNDERS
        if root.id in self._modules:
            return self._fine_reading(self._modules[root.id], node, root, called)
        if takes_attributes(self._values.get(root.id)):
            return called and isinstance(node.ctx, ast.Load)
        return not name.startswith("_") or name in _DUNDERS or root.id in ("self", "cls")

    def _fine_reading(self, module: str, node: ast.Attribute, root: ast.Name, called: bool) -> bool:
        """`module.name`, and what is read from it."""
        if not isinstance(node.ctx, ast.Load) or module not in self._listed or module == "builtins":
            return False
        if node.value is not root:
            return called
        value = getattr(__import__(module), node.attr, None)
        return node.attr in self._listed[module] and (called or not takes_attributes(value))


def _below(tree: ast.AST) -> list[ast.AST]:
    """As ast.walk, in a third of its time: 0.5 ms a program."""
    nodes = [tree]
    for node in nodes:  # it grows as it is read
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                nodes.append(value)
            elif isinstance(value, list):
                nodes += [item for item in value if isinstance(item, ast.AST)]
    return nodes


def _brings(node: ast.Import | ast.ImportFrom) -> list[tuple[str, Any]]:
    """The names that an import binds, and to what: typing's other names of a class are that class; None where it cannot be told."""
    if isinstance(node, ast.Import):
        return [(alias.asname or alias.name, sys.modules.get(alias.name)) for alias in node.names]
    if node.level or (node.module not in LISTED and node.module != "typing"):
        return []  # refused elsewhere, but for __future__
    library = __import__(node.module)
    public = _public(library)
    stars = [(name, name) for name in public]
    pairs = [pair for alias in node.names for pair in (stars if alias.name == "*" else [(alias.asname or alias.name, alias.name)])]
    foreign = object()  # what typing did not mean to give
    values = [foreign if node.module == "typing" and name not in public else getattr(library, name, None) for _, name in pairs]
    return [(name, getattr(value, "__origin__", None) or value) for (name, _), value in zip(pairs, values, strict=True)]


def _public(library: Any) -> list[str]:
    """What a star brings."""
    return getattr(library, "__all__", None) or [name for name in vars(library) if not name.startswith("_")]


def _leaves_tables_alone(nodes: list[ast.AST]) -> bool:
    """No method of the program's gets hold of a table or a cache of the library's.

    `deepcopy(x, memo)` calls memo.get with a list of its own, `re.escape(text)` text.translate with a table of its own, and typing keeps
    what it was subscripted with, whose __eq__ it then calls.
    """
    words = {found for node in nodes for found in _words(node)}
    if ("deepcopy" in words and "get" in words) or ("escape" in words and "translate" in words):
        return False
    return not (words & {"__eq__", "__hash__"}) or not any(
        isinstance(found, ast.Subscript) for node in nodes for note in _annotations(node) for found in _below(note)
    )


def _words(node: ast.AST) -> list[str]:
    """Every name in it: read, bound, an attribute, imported, or in a text, as namedtuple's fields are."""
    found = [getattr(node, field, None) for field in ("id", "attr", "name", "asname", "arg")]
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return [word for word in found if isinstance(word, str)] + text.replace(",", " ").split()


def _annotations(node: ast.AST) -> list[ast.AST]:
    found = getattr(node, "annotation", None) or (node.returns if isinstance(node, ast.FunctionDef) else None)
    return [] if found is None else [found]


def _bound(node: ast.AST) -> list[str]:
    """The names that a node binds or declares, but for those of imports that keep their own."""
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.Global | ast.Nonlocal):
        return node.names
    name = getattr(node, "name", None) if not isinstance(node, ast.alias) else node.asname
    return [found for found in (name, getattr(node, "arg", None)) if isinstance(found, str)]


def _fetches_nothing(node: ast.Attribute) -> bool:
    """Whether it is the `format` of a text whose fields are numbers and names alone."""
    if node.attr != "format" or not isinstance(node.value, ast.Constant) or not isinstance(node.value.value, str):
        return False
    fields = list(_string.formatter_parser(node.value.value))
    return not any("." in (name or "") or "[" in (name or "") or "{" in (spec or "") for _, name, spec, _ in fields)
