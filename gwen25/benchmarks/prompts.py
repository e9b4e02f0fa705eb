"""How LiveCodeBench's problems are put to a model, and which program is taken from what it answers.

    chat(FORMATS["chatml-think"])     our prompt, the same as in training; the answer is reasoning and a block of code
    base()                            the benchmark's own for base models: one worked example, then the problem, as text to go on with

A base model is reported under both: the first differs from the tuned model in the weights alone, the second shows what the weights can
do where no format is asked of them. Its shape, its end mark "###" and its 2,000 tokens are the benchmark's (`GenericBase` in prompts/
code_generation.py and runner/parser.py of github.com/LiveCodeBench/LiveCodeBench, MIT); the worked examples are our own, so a published
base score can be neared, not repeated. Not here: judging (`judging`), the messages of our prompt (`chat.problem_messages`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gwen25.benchmarks import official
from gwen25.benchmarks.judging import Programs
from gwen25.chat import ChatFormat, extract_code, problem_messages
from gwen25.data import Message, Problem
from gwen25.generate import Sample

BASE_STOP: Final = "###"
BASE_MAX_TOKENS: Final = 2000


@dataclass(frozen=True)
class Prompt:
    """One way of asking. `programs` takes an answer's text and whether `max_tokens` cut it off."""

    name: str
    title: str
    chat_format: ChatFormat
    messages: Callable[[Problem], list[Message]]
    programs: Callable[[str, bool], Programs]
    stop: str | None = None
    max_tokens: int | None = None

    def ended(self, sample: Sample) -> Sample:
        """The sample up to the prompt's end mark: what follows is a problem that the model made up. Nothing was cut off then."""
        if self.stop is None or self.stop not in sample.text:
            return sample
        return Sample(sample.text.split(self.stop, 1)[0], sample.tokens, truncated=False)


def chat(chat_format: ChatFormat) -> Prompt:
    """Our prompt in a chat format."""
    return Prompt(
        name="chat",
        title="this project's prompt",
        chat_format=chat_format,
        messages=problem_messages,
        programs=lambda text, truncated: chat_programs(text, chat_format, truncated),
    )


def chat_programs(text: str, chat_format: ChatFormat, truncated: bool = False) -> Programs:
    """What an answer to our prompt hands in. Strictly, an answer that was cut off before `</think>` is a draft, and no program."""
    return Programs(chat_format.program(text, unclosed=not truncated), _known(official.extract(text)))


def base() -> Prompt:
    """The benchmark's prompt for base models."""
    return Prompt(
        name="base",
        title="the benchmark's base-model prompt",
        chat_format=PLAIN,
        messages=lambda problem: [{"role": "user", "content": base_text(problem)}],
        programs=lambda text, truncated: base_programs(text),
        stop=BASE_STOP,
        max_tokens=BASE_MAX_TOKENS,
    )


def base_text(problem: Problem) -> str:
    """The worked example and the problem, up to where the model goes on."""
    if problem.starter_code:
        return _FUNCTION_EXAMPLE + f"### Question\n{problem.statement}\n\n### Starter Code\n{problem.starter_code}\n\n### Answer\n\n"
    return _STDIN_EXAMPLE + f"### Question\n{problem.statement}\n\n### Answer\n\n"


def base_programs(text: str) -> Programs:
    """What a continuation hands in: all of it, as the example has no fences; strictly the last Python block, where there is one."""
    block = extract_code(text)
    return Programs(_known(block if block is not None else text), _known(official.extract_base(text)))


def _known(code: str) -> str | None:
    return code if code.strip() else None


@dataclass(frozen=True)
class _Plain(ChatFormat):
    """No turns and no reasoning: the messages' text as it is."""

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        return "".join(message["content"] for message in messages)


PLAIN: Final = _Plain(name="plain", jinja="", ollama="", eos="<|endoftext|>", pad="<|endoftext|>", stop=("<|endoftext|>",))

# short, so that the smoke profile's tiny model is soon through; with all that the benchmark's own examples show of the format
_STDIN_EXAMPLE: Final = """\
### Question
You are given $n$ integers. How many of them are larger than all before them? The first one always is.

-----Input-----

The first line contains one integer $n$ ($1 \\le n \\le 1000$), the second $n$ integers $a_i$ ($1 \\le a_i \\le 10^9$).

-----Output-----

Print one integer.

-----Example-----
Input
4
3 1 3 5

Output
2

### Answer

n = int(input())
highest = 0
count = 0
for number in map(int, input().split()):
    if number > highest:
        highest = number
        count += 1
print(count)

"""

_FUNCTION_EXAMPLE: Final = """\
### Question
Given an array nums and an integer gap, return the number of pairs (i, j), i < j, with abs(nums[i] - nums[j]) == gap.

Example 1:

Input: nums = [1,4,1,7], gap = 3
Output: 3

Constraints:

1 <= nums.length <= 200
0 <= nums[i], gap <= 1000

### Starter Code

class Solution:
    def pairsWithGap(self, nums: List[int], gap: int) -> int:
        

### Answer

class Solution:
    def pairsWithGap(self, nums: List[int], gap: int) -> int:
        count = 0
        for j in range(len(nums)):
            for i in range(j):
                count += abs(nums[i] - nums[j]) == gap
        return count

"""
