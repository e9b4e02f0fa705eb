"""Which of an answer's blocks is the program that it hands in: the last one that is complete.

    choose(blocks)     the code of that block, None where there is no block that could be one

* Labelled means labelled python, py and the like; a block without a language is doubtful.
* A labelled, closed block counts if it could give an answer, it prints, writes or defines, whether or not it parses: a program with a
  mistake is handed in all the same. One that does something else (imports, sets a variable, a line out of the program) counts only
  where none could. Passed over are one without any statement that does something (blank, comments, bare values: sample output), one
  that neither parses nor has a line of Python (a shell command, a `>>>` session), and one that only uses what an earlier block
  defines, or imports it as from a file: an example of use, a test by its name or base class, a patch.
* A doubtful block, without a language or not closed, counts alike if it parses and could give an answer: it prints, or defines a class,
  or a function where no block before it prints. So a whole correction wins over a draft, even without its closing fence, and what was
  cut off in the middle does not. Else a doubtful block counts only where nothing better stands.
* A block of another label (code, text, python2) is it only where no other passes, if it parses and could give an answer.
* Where no block passes, the last is taken, closed before cut off, labelled before not: it is what was handed in.

A program is parsed to judge it, never run. Only the last WINDOW characters of labelled blocks are looked at, and as many of doubtful
ones, so that small blocks, a few hundred even, do not hide the program before them. Nothing longer than MAX_PARSED is parsed: Python's
parser takes 0.3 s for the worst text of that length, and grows with its square. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

MAX_PARSED: Final = 20_000  # characters; the longest of 1500 real solutions has 5048
WINDOW: Final = 4 * MAX_PARSED
_LEAST: Final = 100  # characters that the smallest block counts for: 800 blocks are looked at

_LINE_OF_PYTHON: Final = re.compile(
    r"^[ \t]*+(?:(?:def|class|import|from|for|while|if|print|return)\b|\w++[ \t]*+=)|\b(?:input|print)\(", re.MULTILINE
)
_SESSION: Final = re.compile(r"\s*+>>>")
_PRINTS: Final = re.compile(r"\bprint\b|\bwrite(?:lines)?\b")
_COULD_ANSWER: Final = re.compile(r"\bprint[ \t]*+\(|\bwrite(?:lines)?\b|^[ \t]*+(?:class|def)\b", re.MULTILINE)  # of what does not parse
_BUILTIN: Final = frozenset(dir(builtins))
_LIBRARIES: Final = sys.stdlib_module_names | {"atcoder", "networkx", "numba", "numpy", "scipy", "sortedcontainers", "sympy"}
_TEST: Final = re.compile(r"_*+(?:test|main|example|demo|run|(?:check|verify|validate)\b)", re.IGNORECASE)
_TEST_AT_END: Final = re.compile(r"(?:_test|Test)(?:s|Cases?)?+_*+$")  # not "shortest"


class Block(NamedTuple):
    """A fenced block. `language`: "python", "other", or "" for none named. `closed`: a fence ended it."""

    code: str
    language: str
    closed: bool


def choose(blocks: Sequence[Block]) -> str | None:
    """The code of the block that is handed in."""
    best, rank = _best([block for block in blocks if block.language != "other"])
    if rank < _SOUND:
        unusual, rank = _best([block._replace(language="") for block in blocks if block.language == "other"])
        return unusual if rank == _WHOLE else best
    return best


# what a block is worth; below _SOUND, 2 to -1: it does not pass
_WHOLE: Final = 5
_SOUND: Final = 3
_BLANK: Final = -2


def _best(blocks: Sequence[Block]) -> tuple[str | None, int]:
    best, highest = None, _BLANK
    defined: set[str] = set()
    printed = False
    for block in _last(blocks):
        tree = parsed(block.code)
        rank = _rank(block, tree, defined, printed)
        if rank >= highest:
            best, highest = block.code, rank
        defined |= set(_defined(tree)) if tree else set()
        printed |= rank == _WHOLE and bool(_PRINTS.search(block.code))
    return best, highest


def _last(blocks: Sequence[Block]) -> list[Block]:
    """Those that are looked at."""
    left = {True: WINDOW, False: WINDOW}
    last = []
    for block in reversed(blocks):
        if left[_certain(block)] > 0:
            last.append(block)
            left[_certain(block)] -= min(max(len(block.code), _LEAST), MAX_PARSED)
    return last[::-1]


def _certain(block: Block) -> bool:
    return block.language == "python" and block.closed


def _rank(block: Block, tree: ast.Module | None, defined: set[str], printed: bool) -> int:
    code, certain = block.code, _certain(block)
    if not (_acts(tree) and not _only_uses(tree, defined) if tree else certain and _looks_like_python(code)):
        return 2 * block.closed + (block.language == "python") - 1 if code.strip() else _BLANK
    answers = gives_answer(tree, code, after_print=printed and not certain) if tree else bool(_COULD_ANSWER.search(code))
    return _WHOLE if answers else _SOUND + certain


def parsed(code: str) -> ast.Module | None:
    """The program's tree; None where it does not parse, or is too long to try."""
    if len(code) > MAX_PARSED:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a SyntaxWarning about an escape is no verdict
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # null bytes; nesting too deep for the parser
        return None


def gives_answer(tree: ast.Module, code: str, *, after_print: bool = False) -> bool:
    """Whether a judge could get an answer from it: it prints, or defines a class, or a function where no print came before."""
    makes_class = any(isinstance(node, ast.ClassDef) for node in tree.body)
    return makes_class or bool(_PRINTS.search(code)) or (bool(_made(tree)) and not after_print)


def _looks_like_python(code: str) -> bool:
    return bool(_LINE_OF_PYTHON.search(code)) and not _SESSION.match(code)


def _acts(tree: ast.Module) -> bool:
    """Whether any statement does more than name a value."""
    return any(
        not isinstance(statement, ast.Expr | ast.Pass) or any(isinstance(node, ast.Call) for node in ast.walk(statement))
        for statement in tree.body
    )


def _only_uses(tree: ast.Module, defined: set[str]) -> bool:
    """Whether it needs what earlier blocks define, and defines nothing but tests itself."""
    if not all(map(_is_test, _made(tree))):
        return False
    nodes = list(ast.walk(tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)} | {node.name for node in _made(tree)} | set(_imported(nodes))
    return bool((used - own) & defined - _BUILTIN)


_Made = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _made(tree: ast.Module) -> list[_Made]:
    """Functions and classes at the top."""
    return [node for node in tree.body if isinstance(node, _Made)]


def _is_test(made: _Made) -> bool:
    bases = made.bases if isinstance(made, ast.ClassDef) else []
    named = _TEST.match(made.name) or _TEST_AT_END.search(made.name)
    return bool(named) or any("TestCase" in (getattr(base, "id", ""), getattr(base, "attr", "")) for base in bases)


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names that the top of a program gives a value, but those it imports: a judge may supply them."""
    yield from (node.name for node in _made(tree))
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.For | ast.With):
            yield from (node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def _imported(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Names that come from libraries. What comes from a file of another name may be what an earlier block defines."""
    for node in nodes:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and _of_library(node)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)


def _of_library(node: ast.ImportFrom) -> bool:
    return not node.level and (node.module or "").partition(".")[0] in _LIBRARIES
