"""Can a program leave anything for its next call but in names of its own? Decided by its text, before it runs. Standard library only.

    Reader(names).pure(source) -> bool      `names`: what the star imports give a program (see `bootstrap.namespace`)

Each test must see a fresh program. Forking a process a test is the sure way, and costs 2 ms. Where the text shows that a program's state
lies in its own namespace alone, running it again in a fresh namespace is the same, and costs 0.1 ms. True needs all of this:

* of the library and the builtins only the names listed here: whatever else a program mentions that it did not get from itself is too much;
* what of these could be given attributes (a class or function written in Python) only where it is called, so that it never gets another
  name, nor a subclass, under which an attribute could be set; a module only where one of these names is read from it;
* no private attribute but on `self` and `cls`, no attribute that leads to frames or classes, no class pattern and no format field (both
  fetch attributes), no name with two underscores but the few listed, none of these given another value;
* no `del` and no `except ... as` of a name that star imports or builtins give: it would come to light again;
* annotations of nothing but names, typing's own attributes, constants, and subscripts of what the program did not bind.

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
_CHAIN = 20  # attributes in a row, as in a.b.c
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8  # Py_TPFLAGS_HEAPTYPE, Py_TPFLAGS_IMMUTABLETYPE
_BEYOND = frozenset(dir(builtins)) - frozenset(LISTED["builtins"].split())
_ANNOTATION = (ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.BitOr, ast.Load)


def takes_attributes(value: Any) -> bool:
    """Whether an attribute can be set on it: all that has a __dict__, but for types that are not made by a class statement."""
    if isinstance(value, type):
        return bool(value.__flags__ & _HEAP_TYPE) and not value.__flags__ & _IMMUTABLE_TYPE
    return hasattr(value, "__dict__")


class Reader:
    """What the star imports give, learned once for all programs."""

    def __init__(self, names: dict[str, Any]):
        self.modules: dict[str, str] = {name: value.__name__ for name, value in names.items() if isinstance(value, type(sys))}
        self.values: dict[str, Any] = {}
        for module in LISTED:
            self._learn(module, names)
        self.given = names.keys() | set(dir(builtins))
        plain = {name for name, value in names.items() if isinstance(value, str | int | float)}
        self.strange = names.keys() - self.modules.keys() - self.values.keys() - plain

    def _learn(self, module: str, given: dict[str, Any]) -> None:
        """The names that the star imports give, where each still is its module's own."""
        library = __import__(module)
        for name in LISTED[module].split():
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
        self._given, self._strange = known.given, set(known.strange)

    def of(self, tree: ast.Module) -> bool:
        nodes = _below(tree)
        if not all(self._imported(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)):
            return False
        annotations = [found for node in nodes for note in _annotations(node) for found in _below(note)]
        bound = {name for node in nodes if not isinstance(node, ast.alias) for name in _bound(node)}
        if not all(self._fine_annotation(found, bound) for found in annotations):
            return False
        if not all(self._fine_binding(node) for node in nodes):
            return False
        noted = set(map(id, annotations))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        called |= {id(mark) for node in nodes if isinstance(node, ast.FunctionDef) for mark in node.decorator_list}
        bases = {id(node.value): node.attr for node in nodes if isinstance(node, ast.Attribute)}
        return all(id(node) in noted or self._fine(node, id(node) in called, bases.get(id(node))) for node in nodes)

    def _imported(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Learn what the names stand for."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._modules[alias.asname or alias.name] = alias.name
            return all(alias.name in LISTED or alias.name == "typing" for alias in node.names)
        if node.module in ("__future__", "typing"):  # typing's names are for annotations only
            self._strange |= {alias.asname or alias.name for alias in node.names} - {"annotations"}
            return node.module == "typing" or all(not alias.asname for alias in node.names)
        listed = LISTED.get(node.module or "", "").split()
        for alias in node.names:
            name = alias.asname or alias.name
            self._modules.pop(name, None)
            if alias.name in listed:
                self._values[name] = getattr(__import__(node.module or ""), alias.name, None)
                self._strange.discard(name)
        return bool(listed) and not node.level and all(alias.name in listed or alias.name == "*" for alias in node.names)

    def _fine_annotation(self, node: ast.AST, bound: set[str]) -> bool:
        """A subscript calls what it is taken of."""
        base = node.value if isinstance(node, ast.Subscript) else node
        if isinstance(base, ast.Attribute):
            return isinstance(base.value, ast.Name) and self._modules.get(base.value.id) == "typing"
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
        return name not in self._strange and name not in _BEYOND and (called or not takes_attributes(self._values.get(name)))

    def _fine_attribute(self, node: ast.Attribute, called: bool) -> bool:
        name, root, length = node.attr, node.value, 1
        while isinstance(root, ast.Attribute | ast.Subscript) and length < _CHAIN:
            root, length = root.value, length + 1
        if name in ("format", "format_map") and not _fetches_nothing(node):
            return False
        if name.startswith("__") and not isinstance(node.ctx, ast.Load):
            return False
        if length == _CHAIN or name == "mro" or name.startswith(_LEADING) or (name.startswith("__") and name not in _DUNDERS):
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
        if not isinstance(node.ctx, ast.Load) or module not in LISTED or module == "builtins":
            return False
        if node.value is not root:
            return called
        value = getattr(__import__(module), node.attr, None)
        return node.attr in LISTED[module].split() and (called or not takes_attributes(value))


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
