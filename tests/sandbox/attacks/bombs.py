"""Sources that are an attack on whoever compiles them: too long to stand in a table."""

from __future__ import annotations

BOMBS: dict[str, str] = {
    "long_source": "x=1\n" * (1 << 20),
    "long_line": "x=[" + "1," * (1 << 20) + "]",
    "long_string": f"x='{'a' * (4 << 20)}'",
    "many_names": "".join(f"a{n}=a{n - 1}={n}\n" for n in range(60_000)),
    "deep_parentheses": "(" * 100_000,
    "deep_lists": "[" * 190 + "]" * 190,
    "deep_blocks": "".join(f"{' ' * n}if 1:\n" for n in range(200)),
    "deep_operators": "-" * 1_000_000 + "1",
    "deep_nots": "not " * 200_000 + "1",
    "deep_attributes": "a" + ".a" * 200_000,
    "deep_calls": "f" + "()" * 100_000,
    "deep_sums": "1" + "+1" * 200_000,
    "deep_choices": "1 if 1 else " * 100_000 + "1",
    "deep_strings": 'f"{' * 200,
    "nested_strings": "x = " + "f'{" * 90 + "1" + "}'" * 90,
    "deep_lambdas": "lambda:" * 50_000 + "1",
    "unclosed_withs": "with " + "(" * 100 + "a",
    "unclosed_dictionaries": "{" * 100 + ":" * 100,
    "folded_constants": "x = " + "'a' * 4096 * " * 50 + "1",
    "slow_encoding": "# coding: punycode\n" + "b" * 50_000 + "-" + "9" * 50_000,
    "encoding_that_is_none": "# coding: zlib\nprint(1)",
    "encoding_that_unescapes": "# coding: unicode_escape\nprint(1)\\u000aprint(2)",
    "warnings": "".join(f"{n} is 1\n" for n in range(20_000)),
    "null_bytes": "print(1)\0" * 1000,
    "surrogates": "x = '\ud800'\n" * 1000,
    "carriage_returns": "\r" * 1_000_000,
    "form_feeds": "\f" * 1_000_000 + "x",
    "comment": "#" * (4 << 20),
    "huge_number": "x = " + "9" * 1_000_000,
    "huge_hexadecimal": "x = 0x" + "f" * 1_000_000,
    "continued_lines": "x = 1 \\\n" * 200_000,
    "decorators": "@a\n" * 50_000 + "def f(): pass",
    "match": "match x:\n" + " case " + "[" * 190 + "]" * 190 + ": pass",
}
# Functions whose text is read for what they could leave to the next call: long, but right
READ: dict[str, str] = {
    "attributes": "def f(x): return x\ndef g(): return a" + ".a" * 30_000,
    "sums": "def f(x): return x\ndef g(): return 1" + "+a" * 30_000,
    "subscripts": "def f(x): return x\ndef g(): return a" + "[0]" * 20_000,
    "choices": "def f(x): return x\ndef g():\n if a: b\n" + " elif a: b\n" * 1_900,
    "fields": "def f(x): return x\ndef g(a): return f'" + "{a.a}" * 12_000 + "'",
    "deep_sums": "def f(x): return x\ndef g(): return " + "(" * 150 + "a" + "+1)" * 150,
    "subscripts_in_annotations": "def f(x: " + "List[" * 90 + "int" + "]" * 90 + "): return x",
}
