"""Set a program back to what it was when it had loaded, instead of loading it again. Standard library only.

    back(source, names) -> a function that does it, or None where the text could tell, or `names` holds what cannot be set back

For a program that is `pure` and takes long to load: one that builds a table for all n before it is asked. Understood are plain data
(sets are not: their order tells how they were filled), functions without state, classes of functions and constants, and what is not the
program's own. Lists that share a row share it afterwards too. Programs with `yield` (a generator under way would be finished while names
are set back) or with `is` (it could tell a number from its copy) are left alone.
"""

from __future__ import annotations

import ast
import marshal
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

TYPE_CHECKING = False  # the module typing itself costs 10 ms of each start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SINGLE = (None, True, False, ...)  # there is one of each
CONSTANTS = frozenset({type(None), bool, int, float, complex, str, bytes})
DEPTH = 20  # of lists in lists


def back(source: bytes, names: dict[str, Any]) -> Callable[[], None] | None:
    if not all(map(_steady, ast.walk(ast.parse(source)))):
        return None
    own = {name: value for name, value in names.items() if name != "__builtins__" and type(value) not in CONSTANTS}
    data = {name: value for name, value in own.items() if type(value) in (list, dict, tuple)}
    classes = [value for value in own.values() if type(value) is type and value.__module__ == names.get("__name__")]
    functions = [value for value in own.values() if type(value) is FunctionType and value.__globals__ is names]
    known = {*map(id, classes), *map(id, functions), *map(id, data.values())}
    seen: set[int] = set()
    if not (
        all(_plain(value, DEPTH, seen) for value in data.values())
        and all(map(_stateless, functions))
        and all(map(_constant_class, classes))
        and all(id(value) in known or _foreign(value) for value in own.values())
    ):
        return None
    copy, kept, members = marshal.dumps(data), dict(names), [(owner, dict(vars(owner))) for owner in classes]
    functions += [value for _, inside in members for value in inside.values() if type(value) is FunctionType]

    def again() -> None:
        names.clear()
        names.update(kept)
        names.update(marshal.loads(copy))
        for function in functions:
            vars(function).clear()
        for owner, inside in members:
            _set_back(owner, inside)

    return again


def _steady(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare) and any(isinstance(word, ast.Is | ast.IsNot) for word in node.ops):
        sides = [node.left, *node.comparators]
        return any(isinstance(side, ast.Constant) and any(side.value is one for one in SINGLE) for side in sides) and len(sides) == 2
    return not isinstance(node, ast.Yield | ast.YieldFrom | ast.Await)


def _plain(value: Any, depth: int, seen: set[int]) -> bool:
    """By exact type: a subclass of list may have attributes, and marshal would take a bytearray for bytes. `seen`: ids of rows."""
    kind = type(value)
    if kind is dict:
        return _plain(list(value), depth, seen) and _plain(list(value.values()), depth, seen)
    if kind is not list and kind is not tuple:
        return kind in CONSTANTS
    if set(map(type, value)) <= CONSTANTS:  # at C's speed: most tables hold nothing but numbers
        return True
    rows = [row for row in value if id(row) not in seen]
    seen.update(map(id, rows))
    return depth > 0 and all(_plain(row, depth - 1, seen) for row in rows)


def _stateless(function: FunctionType) -> bool:
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return function.__closure__ is None and not vars(function) and all(type(value) in CONSTANTS for value in defaults)


def _constant_class(owner: type) -> bool:
    """A plain class: of functions, constants and what every class has."""
    if type(owner) is not type or owner.__bases__ != (object,):
        return False
    inside = [value for name, value in vars(owner).items() if name not in ("__dict__", "__weakref__", "__annotations__")]
    return all(type(value) in CONSTANTS or (type(value) is FunctionType and _stateless(value)) for value in inside)


def _foreign(value: Any) -> bool:
    """A name that an import brought, of what a pure program does not change."""
    if type(value) is ModuleType or type(value).__module__ == "typing":  # typing's names are for annotations only
        return True
    if type(value) not in (FunctionType, BuiltinFunctionType, type):
        return False
    return getattr(sys.modules.get(value.__module__), value.__name__, None) is value


def _set_back(owner: type, inside: dict[str, Any]) -> None:
    for name in [name for name in vars(owner) if name not in inside]:
        delattr(owner, name)
    for name, value in inside.items():
        if name not in vars(owner) or vars(owner)[name] is not value:
            setattr(owner, name, value)
