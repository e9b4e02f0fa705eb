"""Families of short stdin programs: what one asks, and the program that answers it.

    FAMILIES["larger"]        Family(name="larger", shape="two", group="sft", ...)

A family is one task under many wordings: a frame ("Read {input}. Print {what}.") around two ways to say what is wanted, with a constant
where it has one. All programs of a shape begin with the same line, which reads the input. Groups: `sft` families are taught with
answers, `grpo` families only by their tests, `new` ones never. They alternate within a shape, so that each group has near kin in the
others, and none has a task of another.

Not here: inputs, tests, rows (`tasks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Group = Literal["sft", "grpo", "new"]
GROUPS: Final[tuple[Group, ...]] = ("sft", "grpo", "new")


@dataclass(frozen=True, slots=True)
class Shape:
    """An input by the ways to say it, and the line that reads it."""

    inputs: tuple[str, ...]
    read: str


@dataclass(frozen=True, slots=True)
class Family:
    """`what` may hold {k}, as the program may: one of `constants`."""

    name: str
    shape: str
    group: Group
    what: tuple[str, ...]
    program: str
    constants: tuple[str, ...] = ("",)


SHAPES: Final = {
    "two": Shape(
        ("two integers a and b on one line", "a line with two integers, a and b", "integers a and b, separated by a space"),
        "a, b = map(int, input().split())",
    ),
    "power": Shape(
        ("two integers a and b on one line", "a line with two integers, a and b", "integers a and b, separated by a space"),
        "a, b = map(int, input().split())",
    ),
    "three": Shape(
        ("three integers a, b and c on one line", "a line with three integers, a, b and c", "integers a, b and c, separated by spaces"),
        "a, b, c = map(int, input().split())",
    ),
    "integer": Shape(("one integer n", "a line with an integer n", "a single integer, n"), "n = int(input())"),
    "small": Shape(("one integer n", "a line with an integer n", "a single integer, n"), "n = int(input())"),
    "signed": Shape(
        ("one integer n, which may be negative", "a line with an integer n, negative perhaps", "a single integer n of any sign"),
        "n = int(input())",
    ),
    "list": Shape(
        ("a list of integers on one line", "a line of integers, separated by spaces", "several integers on one line"),
        "a = list(map(int, input().split()))",
    ),
    "word": Shape(("a word s", "a line with one word, s", "a string s of lowercase letters"), "s = input().strip()"),
    "words": Shape(
        ("words on one line", "a line of words, separated by spaces", "several lowercase words on one line"), "w = input().split()"
    ),
}

_K: Final = ("2", "3", "4", "5", "6", "7", "8", "9")
_LETTERS: Final = ("a", "e", "i", "o", "n", "r", "s", "t")

# name, program after the reading line, two ways to say what is wanted, constants
_TWO: Final = (
    ("sum", "print(a + b)", "the sum of a and b", "a plus b"),
    ("product", "print(a * b)", "the product of a and b", "a times b"),
    ("difference", "print(a - b)", "a minus b", "the difference when b is taken from a"),
    ("larger", "print(max(a, b))", "the larger of the two numbers", "the maximum of a and b"),
    (
        "perimeter",
        "print(2 * (a + b))",
        "the perimeter of a rectangle with sides a and b",
        "the length of the border of an a by b rectangle",
    ),
    ("smaller", "print(min(a, b))", "the smaller of the two numbers", "the minimum of a and b"),
    ("remainder", "print(a % b)", "the remainder of a divided by b", "a modulo b"),
    ("distance", "print(abs(a - b))", "the absolute difference of a and b", "how far a and b are apart"),
    ("quotient", "print(a // b)", "the whole part of a divided by b", "how many times b fits into a"),
    (
        "range_sum",
        "print(sum(range(a, b + 1)))",
        "the sum of all integers from a to b",
        "a + (a + 1) + ... + b, or 0 if a is greater than b",
    ),
    ("squares", "print(a * a + b * b)", "the sum of the squares of a and b", "a squared plus b squared"),
    ("swap", "print(b, a)", "b and then a, separated by a space", "the two numbers in exchanged order, separated by a space"),
    ("equal", 'print("yes" if a == b else "no")', "yes if a equals b, otherwise no", "yes if both numbers are the same and no if not"),
    ("divides", 'print("yes" if a % b == 0 else "no")', "yes if a is divisible by b, otherwise no", "yes if b divides a and no if not"),
    ("mean", "print((a + b) // 2)", "half of the sum of a and b, rounded down", "the whole part of the average of a and b"),
    ("times_k", "print((a + b) * {k})", "{k} times the sum of a and b", "the sum of a and b, multiplied by {k}", _K),
    ("plus_k_times", "print(a + {k} * b)", "a plus {k} times b", "the sum of a and {k} times b", _K),
    (
        "joined",
        "print(str(a) + str(b))",
        "the digits of a followed by the digits of b, without a space",
        "a and b written together as one number",
    ),
    (
        "greater",
        'print("yes" if a > b else "no")',
        "yes if a is greater than b, otherwise no",
        "yes if the first number is the larger one, and no if not",
    ),
    ("last_of_product", "print(a * b % 10)", "the last digit of a times b", "the last digit of the product of the two numbers"),
    (
        "listed",
        "print(*range(a, a + b))",
        "b integers in a row beginning with a, separated by spaces",
        "the b integers a, a + 1, a + 2 and so on, separated by spaces",
    ),
    ("square_difference", "print(a * a - b * b)", "the square of a minus the square of b", "a squared less b squared"),
    (
        "both_even",
        'print("yes" if a % 2 == 0 and b % 2 == 0 else "no")',
        "yes if a and b are both even, otherwise no",
        "yes if neither number is odd, and no if one is",
    ),
    (
        "multiples",
        "print(*[a * i for i in range(1, b + 1)])",
        "the first b multiples of a, separated by spaces",
        "a, 2a, 3a and so on up to b times a, separated by spaces",
    ),
    ("sum_remainder", "print((a + b) % {k})", "the remainder of the sum of a and b divided by {k}", "the sum of a and b modulo {k}", _K),
)
_POWER: Final = (("power", "print(a ** b)", "a to the power of b", "a raised to the b-th power"),)
_THREE: Final = (
    ("sum3", "print(a + b + c)", "the sum of the three numbers", "a plus b plus c"),
    ("largest3", "print(max(a, b, c))", "the largest of the three numbers", "the maximum of a, b and c"),
    ("smallest3", "print(min(a, b, c))", "the smallest of the three numbers", "the minimum of a, b and c"),
    ("product3", "print(a * b * c)", "the product of the three numbers", "a times b times c"),
    ("middle3", "print(sorted([a, b, c])[1])", "the middle one of the three numbers in sorted order", "the median of a, b and c"),
    ("times_plus", "print(a * b + c)", "a times b, plus c", "the product of a and b increased by c"),
    ("plus_minus", "print(a + b - c)", "a plus b minus c", "the sum of a and b less c"),
    (
        "sorted3",
        "print(*sorted([a, b, c]))",
        "the three numbers from the smallest to the largest, separated by spaces",
        "a, b and c in ascending order, separated by spaces",
    ),
    (
        "spread3",
        "print(max(a, b, c) - min(a, b, c))",
        "the largest of the three numbers minus the smallest",
        "the difference of the maximum and the minimum of a, b and c",
    ),
    ("different3", "print(len({a, b, c}))", "how many different values a, b and c have", "the number of distinct numbers among a, b and c"),
    (
        "rises3",
        'print("yes" if a < b < c else "no")',
        "yes if a is less than b and b is less than c, otherwise no",
        "yes if the numbers strictly rise, and no if not",
    ),
    ("product_remainder", "print(a * b % c)", "the remainder of a times b divided by c", "the product of a and b modulo c"),
    (
        "sum_is_third",
        'print("yes" if a + b == c else "no")',
        "yes if a plus b equals c, otherwise no",
        "yes if c is the sum of a and b, and no if not",
    ),
    ("turned3", "print(c, b, a)", "c, b and a, separated by spaces", "the three numbers in reverse order, separated by spaces"),
    ("volume", "print(2 * (a * b + b * c + a * c))", "the surface of a box with edges a, b and c", "twice the sum of ab, bc and ac"),
)
_INTEGER: Final = (
    ("double", "print(n * 2)", "n times 2", "the double of n"),
    ("square", "print(n * n)", "the square of n", "n times n"),
    ("cube", "print(n ** 3)", "the cube of n", "n to the third power"),
    ("plus_k", "print(n + {k})", "n plus {k}", "the number that is {k} more than n", _K),
    ("half", "print(n // 2)", "half of n, rounded down", "the whole part of n divided by 2"),
    ("times_k_int", "print(n * {k})", "n multiplied by {k}", "{k} times n", _K),
    (
        "parity",
        'print("even" if n % 2 == 0 else "odd")',
        "even if n is even, otherwise odd",
        "the word even or the word odd, whichever n is",
    ),
    ("sum_to", "print(n * (n + 1) // 2)", "the sum of the integers from 1 to n", "1 + 2 + ... + n"),
    ("minus_k", "print(n - {k})", "n minus {k}", "the number that is {k} less than n", _K),
    ("digit_count", "print(len(str(n)))", "the number of digits of n", "how many digits n has"),
    ("digit_sum", "print(sum(map(int, str(n))))", "the sum of the digits of n", "all digits of n added up"),
    ("turned", "print(str(n)[::-1])", "the digits of n in reverse order", "n written from right to left"),
    ("last_digit", "print(n % 10)", "the last digit of n", "the units digit of n"),
    ("first_digit", "print(str(n)[0])", "the first digit of n", "the leading digit of n"),
    ("remainder_k", "print(n % {k})", "the remainder of n divided by {k}", "n modulo {k}", _K),
    (
        "multiple_k",
        'print("yes" if n % {k} == 0 else "no")',
        "yes if n is a multiple of {k}, otherwise no",
        "yes if n is divisible by {k} and no if not",
        _K[:4],
    ),
    ("quotient_k", "print(n // {k})", "the whole part of n divided by {k}", "how many times {k} fits into n", _K),
    (
        "hours",
        "print(n // 60, n % 60)",
        "n minutes as whole hours and the minutes left, separated by a space",
        "the hours and the remaining minutes of n minutes, separated by a space",
    ),
    (
        "over_k",
        'print("big" if n > {k} else "small")',
        "big if n is greater than {k}, otherwise small",
        "small if n is at most {k}, and big if it is more",
        ("50", "100", "150"),
    ),
    ("largest_digit", "print(max(str(n)))", "the largest digit of n", "the greatest of the digits of n"),
    ("binary", "print(bin(n)[2:])", "n in binary", "the binary digits of n"),
)
_SMALL: Final = (
    ("count_up", "print(*range(1, n + 1))", "the integers from 1 to n, separated by spaces", "1, 2 and so on up to n, separated by spaces"),
    (
        "countdown",
        "print(*range(n, 0, -1))",
        "the integers from n down to 1, separated by spaces",
        "n, n - 1 and so on down to 1, separated by spaces",
    ),
    (
        "factorial",
        "r = 1\nfor i in range(1, n + 1):\n    r *= i\nprint(r)",
        "the factorial of n",
        "the product of the integers from 1 to n",
    ),
    ("stars", 'print("*" * n)', "n stars in a row", "a line of n characters *"),
    (
        "odds",
        "print(*range(1, n + 1, 2))",
        "the odd numbers from 1 to n, separated by spaces",
        "1, 3, 5 and so on, none above n, separated by spaces",
    ),
    ("square_sum", "print(sum(i * i for i in range(1, n + 1)))", "the sum of the squares of 1 to n", "1 + 4 + 9 + ... + n squared"),
    ("two_to", "print(2 ** n)", "2 to the power of n", "the n-th power of 2"),
    (
        "divisors",
        "print(sum(n % i == 0 for i in range(1, n + 1)))",
        "the number of divisors of n",
        "how many of the integers from 1 to n divide n",
    ),
    (
        "table_k",
        "print(*[{k} * i for i in range(1, n + 1)])",
        "the first n multiples of {k}, separated by spaces",
        "{k} times 1, {k} times 2 and so on up to {k} times n, separated by spaces",
        _K,
    ),
    (
        "squares_to",
        "print(*[i * i for i in range(1, n + 1)])",
        "the squares of 1 to n, separated by spaces",
        "1, 4, 9 and so on up to n squared, separated by spaces",
    ),
)
_SIGNED: Final = (
    ("absolute", "print(abs(n))", "the absolute value of n", "n without its sign"),
    (
        "sign",
        'print("negative" if n < 0 else "positive")',
        "negative if n is below 0, otherwise positive",
        "the word positive or the word negative, as the sign of n is",
    ),
    ("opposite", "print(-n)", "n with the opposite sign", "the number that gives 0 when added to n"),
    ("at_least_zero", "print(max(n, 0))", "n if it is positive, otherwise 0", "the larger of n and 0"),
)
_LIST: Final = (
    ("total", "print(sum(a))", "the sum of the numbers", "all numbers added up"),
    ("largest", "print(max(a))", "the largest number", "the maximum of the list"),
    ("smallest", "print(min(a))", "the smallest number", "the minimum of the list"),
    ("size", "print(len(a))", "how many numbers there are", "the number of integers in the line"),
    (
        "descending",
        "print(*sorted(a, reverse=True))",
        "the numbers from the largest to the smallest, separated by spaces",
        "the list in descending order, separated by spaces",
    ),
    ("first", "print(a[0])", "the first number", "the number at the beginning of the line"),
    ("last", "print(a[-1])", "the last number", "the number at the end of the line"),
    (
        "ascending",
        "print(*sorted(a))",
        "the numbers from the smallest to the largest, separated by spaces",
        "the list in ascending order, separated by spaces",
    ),
    (
        "reversed",
        "print(*a[::-1])",
        "the numbers in reverse order, separated by spaces",
        "the list from back to front, separated by spaces",
    ),
    (
        "second_largest",
        "print(sorted(a)[-2])",
        "the second number from the end when the list is sorted",
        "the second largest number, repetitions counted",
    ),
    ("even_sum", "print(sum(x for x in a if x % 2 == 0))", "the sum of the even numbers", "all even numbers added up"),
    ("even_count", "print(sum(x % 2 == 0 for x in a))", "how many of the numbers are even", "the count of even numbers"),
    (
        "over_count",
        "print(sum(x > {k} for x in a))",
        "how many of the numbers are greater than {k}",
        "the count of numbers above {k}",
        ("5", "8", "10", "12"),
    ),
    ("range_of", "print(max(a) - min(a))", "the largest number minus the smallest", "the difference of the maximum and the minimum"),
    ("odd_count", "print(sum(x % 2 == 1 for x in a))", "how many of the numbers are odd", "the count of odd numbers"),
    ("product_all", "p = 1\nfor x in a:\n    p *= x\nprint(p)", "the product of the numbers", "all numbers multiplied together"),
    (
        "square_total",
        "print(sum(x * x for x in a))",
        "the sum of the squares of the numbers",
        "each number squared, and all of that added up",
    ),
    ("different", "print(len(set(a)))", "how many different numbers there are", "the number of distinct values"),
    (
        "each_plus",
        "print(*[x + {k} for x in a])",
        "each number plus {k}, separated by spaces",
        "the list with {k} added to every number, separated by spaces",
        _K,
    ),
    ("ends", "print(a[0] + a[-1])", "the first number plus the last", "the sum of the numbers at both ends of the line"),
    (
        "each_times",
        "print(*[x * {k} for x in a])",
        "each number times {k}, separated by spaces",
        "the list with every number multiplied by {k}, separated by spaces",
        _K,
    ),
    (
        "where_largest",
        "print(a.index(max(a)))",
        "the position of the first largest number, counted from 0",
        "the index, from 0, at which the maximum stands first",
    ),
    ("average", "print(sum(a) // len(a))", "the average of the numbers, rounded down", "the whole part of the mean"),
    (
        "every_second",
        "print(*a[::2])",
        "the first, third, fifth number and so on, separated by spaces",
        "every second number beginning with the first, separated by spaces",
    ),
    (
        "without_largest",
        "print(sum(a) - max(a))",
        "the sum of the numbers without the largest one",
        "all numbers added up, less their maximum",
    ),
    ("odd_sum", "print(sum(x for x in a if x % 2 == 1))", "the sum of the odd numbers", "all odd numbers added up"),
    (
        "under_count",
        "print(sum(x < {k} for x in a))",
        "how many of the numbers are less than {k}",
        "the count of numbers below {k}",
        ("6", "8", "10", "12"),
    ),
    (
        "all_but_first",
        "print(*a[1:])",
        "all numbers but the first, separated by spaces",
        "the list without its first number, separated by spaces",
    ),
    (
        "both_extremes",
        "print(min(a), max(a))",
        "the smallest and the largest number, separated by a space",
        "the minimum and then the maximum, separated by a space",
    ),
    (
        "running",
        "t = 0\nfor x in a:\n    t += x\n    print(t)",
        "the running total after each number, each on a line of its own",
        "on a line for each number, the sum of the numbers up to it",
    ),
)
_WORD: Final = (
    ("length", "print(len(s))", "the length of the word", "how many letters the word has"),
    ("upper", "print(s.upper())", "the word in capital letters", "s with every letter in upper case"),
    ("mirror", "print(s[::-1])", "the word in reverse", "the letters of s from the last to the first"),
    ("first_letter", "print(s[0])", "the first letter of the word", "the letter that s begins with"),
    ("letter_count", 'print(s.count("{k}"))', "how often the letter {k} occurs in the word", "the number of letters {k} in s", _LETTERS),
    ("last_letter", "print(s[-1])", "the last letter of the word", "the letter that s ends with"),
    ("repeated", "print(s * {k})", "the word {k} times in a row, without spaces", "s written {k} times, all in one", _K[:4]),
    (
        "palindrome",
        'print("yes" if s == s[::-1] else "no")',
        "yes if the word reads the same backwards, otherwise no",
        "yes if s is a palindrome and no if not",
    ),
    (
        "vowels",
        'print(sum(c in "aeiou" for c in s))',
        "the number of vowels (a, e, i, o, u) in the word",
        "how many letters of s are among a, e, i, o, u",
    ),
    ("no_first", "print(s[1:])", "the word without its first letter", "all letters of s after the first"),
    (
        "has_letter",
        'print("yes" if "{k}" in s else "no")',
        "yes if the word has the letter {k}, otherwise no",
        "yes if {k} occurs in s and no if not",
        _LETTERS,
    ),
    ("replaced", 'print(s.replace("{k}", "x"))', "the word with every {k} replaced by x", "s with x in place of each letter {k}", _LETTERS),
    (
        "sorted_letters",
        'print("".join(sorted(s)))',
        "the letters of the word in alphabetical order",
        "s with its letters sorted from a to z",
    ),
    ("capital", "print(s.capitalize())", "the word with its first letter in upper case", "s with a capital letter at its beginning"),
    ("letters", "print(len(set(s)))", "how many different letters the word has", "the number of distinct letters of s"),
    ("first_k", "print(s[:{k}])", "the first {k} letters of the word", "the beginning of s, {k} letters long", ("2", "3")),
    ("spaced", "print(*s)", "the letters of the word, separated by spaces", "s with a space between each two letters"),
    ("no_last", "print(s[:-1])", "the word without its last letter", "all letters of s but the last"),
    ("dropped", 'print(s.replace("{k}", ""))', "the word without its letters {k}", "s with every {k} taken out", _LETTERS),
    ("last_two", "print(s[-2:])", "the last two letters of the word", "the two letters at the end of s"),
    (
        "second_letters",
        "print(s[::2])",
        "the first, third, fifth letter of the word and so on, without spaces",
        "every second letter of s beginning with the first, without spaces",
    ),
    (
        "and_mirror",
        "print(s + s[::-1])",
        "the word followed by the same word in reverse, without a space",
        "s and then s backwards, all in one",
    ),
    (
        "starts",
        'print("yes" if s[0] in "aeiou" else "no")',
        "yes if the word begins with a vowel, otherwise no",
        "yes if the first letter of s is one of a, e, i, o, u, and no if not",
    ),
)
_WORDS: Final = (
    ("word_count", "print(len(w))", "the number of words", "how many words there are"),
    ("longest_size", "print(max(len(x) for x in w))", "the length of the longest word", "how many letters the longest word has"),
    (
        "backwards",
        "print(*w[::-1])",
        "the words in reverse order, separated by spaces",
        "the words from the last to the first, separated by spaces",
    ),
    (
        "acronym",
        'print("".join(x[0] for x in w))',
        "the first letters of the words, without spaces",
        "the letters that the words begin with, written together",
    ),
    (
        "alphabetical",
        "print(*sorted(w))",
        "the words in alphabetical order, separated by spaces",
        "the words sorted from a to z, separated by spaces",
    ),
    ("dashed", 'print("-".join(w))', "the words joined by dashes", "the words with the character - between them"),
    (
        "letter_total",
        "print(sum(len(x) for x in w))",
        "the number of letters of all words together",
        "how many letters the words have in all",
    ),
    (
        "titled",
        "print(*[x.capitalize() for x in w])",
        "the words, each with a capital first letter, separated by spaces",
        "every word beginning in upper case, separated by spaces",
    ),
    ("final_word", "print(w[-1])", "the last word", "the word at the end of the line"),
    (
        "mirrored",
        "print(*[x[::-1] for x in w])",
        "each word in reverse, separated by spaces",
        "the words in their order, the letters of each turned round, separated by spaces",
    ),
    (
        "long_count",
        "print(sum(len(x) > {k} for x in w))",
        "how many of the words have more than {k} letters",
        "the count of words longer than {k} letters",
        ("3", "4", "5"),
    ),
    ("shortest_size", "print(min(len(x) for x in w))", "the length of the shortest word", "how many letters the shortest word has"),
    (
        "sizes",
        "print(*[len(x) for x in w])",
        "the lengths of the words, separated by spaces",
        "for each word how many letters it has, separated by spaces",
    ),
    ("first_word", "print(w[0])", "the first word", "the word that the line begins with"),
    ("no_spaces", 'print("".join(w))', "the words written together, without spaces", "all words joined into one"),
)

# 2 of 5 families are taught with answers, 2 by their tests, 1 never
_TURN: Final[tuple[Group, ...]] = ("sft", "grpo", "sft", "grpo", "new")


def _families() -> dict[str, Family]:
    tables = {
        "two": _TWO,
        "power": _POWER,
        "three": _THREE,
        "integer": _INTEGER,
        "small": _SMALL,
        "signed": _SIGNED,
        "list": _LIST,
        "word": _WORD,
        "words": _WORDS,
    }
    found: dict[str, Family] = {}
    for shape, rows in tables.items():
        for name, program, one, other, *constants in rows:
            group = _TURN[len(found) % len(_TURN)]
            found[name] = Family(name, shape, group, (one, other), program, *constants)  # type: ignore[arg-type]
    return found


FAMILIES: Final = _families()
