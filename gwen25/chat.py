"""One chat format, from the training row to the laptop.

    FORMATS["chatml-think"].render(messages)      the prompt, ending in the opened `<think>`
    FORMATS["chatml-think"].answer(reasoning, code)   the text that SFT teaches after it
    FORMATS["chatml-think"].parse(text)           what a model wrote, taken apart again
    FORMATS["chatml-think"].program(text)         the program that it hands in, if it does

`render` is the reference. `jinja` (in the tokenizer and the GGUF: Transformers, TRL, vLLM, llama.cpp) and `ollama`
(the Modelfile's TEMPLATE, Go's text/template) must give the same bytes and the same token ids: tests/test_chat_parity.py
proves it, engine by engine. A change here makes every adapter stale, which is why the digest is part of every key.

Rules, each with its reason:

* The `<think>\\n` belongs to the prompt, and the target never begins with a newline: in Qwen2.5's vocabulary `>` merges
  with the newlines after it, so only then ids(prompt) + ids(target) == ids(prompt + target) (`seam_holds`).
* Reasoning of earlier turns is dropped from the history: everything up to `</think>` in an assistant turn. Ollama hands
  the reasoning to its clients apart from the content, so the histories they send back hold none; a client that pastes it
  into the content gets it through, for Go's templates cannot cut a string.
* No system turn is invented: Qwen's own template inserts one, which Ollama or a server might not.
* No tool branches: Ollama would prefer a jinja that can do more than our TEMPLATE, and ignore the TEMPLATE in silence.

Standard library only. Not here: token ids (they need the tokenizer), sampling (`generate`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from gwen25 import extraction
from gwen25.data import Message, Problem
from gwen25.errors import BadInput
from gwen25.extraction import extract

THINK_OPEN: Final = extraction.THINK_OPEN
THINK_CLOSE: Final = extraction.THINK_CLOSE
FENCE: Final = "```"


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer taken apart. `code` and `reasoning` are None where the text holds none.

    `well_formed`: exactly reasoning, `</think>`, and one closed python block that is not blank, with nothing after it.
    `finished`: the reasoning was closed, and so was the last block, if there is any: the text was not cut off inside them.
    """

    reasoning: str | None
    code: str | None
    well_formed: bool
    finished: bool


_JINJA: Final = """\
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- if message['role'] == 'assistant' and '</think>' in content -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n<think>\\n' -}}
{%- endif -%}
"""

# The branch on .Thinking tells Ollama that the model thinks (it looks for that field between two tags), so that it splits
# the reasoning from the answer and keeps it out of the history. It renders only for a last assistant turn, which Ollama
# continues (a prefill); no request that asks for a new turn reaches it.
_OLLAMA: Final = """\
{{- range $i, $message := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- $continued := and $last (eq .Role "assistant") }}<|im_start|>{{ .Role }}
{{ if $continued }}{{ if .Thinking }}<think>
{{ .Thinking }}
</think>

{{ end }}{{ .Content }}{{ else }}{{ .Content }}<|im_end|>
{{ if $last }}<|im_start|>assistant
<think>
{{ end }}{{ end }}
{{- end }}"""


@dataclass(frozen=True)
class ChatFormat:
    """How messages become a prompt and an answer becomes text, for every engine. Frozen: its digest is in every key."""

    name: str
    jinja: str
    ollama: str
    eos: str
    pad: str
    stop: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 over all that decides bytes: both templates, the tokens, and the shape of an answer."""
        shape = self.answer("reasoning", "code") + self.answer("", "code")
        parts = (self.name, self.jinja, self.ollama, self.eos, self.pad, *self.stop, shape)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt as text: the reference that every template is held against.

        >>> FORMATS["chatml-think"].render([{"role": "user", "content": "Hi"}])
        '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n<think>\\n'
        """
        turns = [f"<|im_start|>{message['role']}\n{_visible(message)}{self.eos}\n" for message in messages]
        return "".join(turns) + (f"<|im_start|>assistant\n{THINK_OPEN}\n" if add_generation_prompt else "")

    def answer(self, reasoning: str, code: str) -> str:
        """The SFT target after the prompt, without the end token: reasoning, `</think>`, code in a fence on lines of its own.

        Leading newlines of the reasoning are dropped (the seam rule), as are trailing blanks of both parts.
        """
        thought = reasoning.strip()
        opened = f"{thought}\n" if thought else ""
        return f"{opened}{THINK_CLOSE}\n\n{FENCE}python\n{code.strip(chr(10)).rstrip()}\n{FENCE}"

    def parse(self, text: str) -> Answer:
        """Take an answer apart, with or without the opening `<think>`; stop tokens at the end are forgiven.

        `well_formed` compares with `answer`: text that `answer` could have written, up to blanks round the parts.
        """
        for token in self.stop:
            text = text.split(token, 1)[0]
        body = text.strip()
        body = body.removeprefix(THINK_OPEN)
        thought, close, after = body.partition(THINK_CLOSE)
        if not close:
            return Answer(None, extract(body).code, well_formed=False, finished=False)
        found = extract(after)
        tidy = THINK_OPEN not in thought and found.plain and bool(found.code and found.code.strip())
        return Answer(thought.strip(), found.code, tidy, found.finished)

    def program(self, text: str, *, unclosed: bool = False) -> str | None:
        """The program that an answer hands in; None where it hands in none. A blank one is none: it would pass any test of no output.

        The prompt has opened the reasoning, so an answer without `</think>` is draft from beginning to end, whatever blocks it
        holds, and a client that splits at the tag shows no answer at all. `unclosed` takes the program of such an answer all the
        same, as text of a model that may not know the tag.
        """
        answer = self.parse(text)
        code = answer.code if unclosed or answer.reasoning is not None else None
        return code if code and code.strip() else None

    def seam_holds(self, encode: Callable[[str], list[int]], prompt: str, target: str) -> bool:
        """True where ids(prompt) + ids(target) == ids(prompt + target): training and generation then see the same ids."""
        return encode(prompt) + encode(target) == encode(prompt + target)


def _visible(message: Message) -> str:
    """A turn's content less the reasoning of an earlier assistant turn."""
    content = message["content"]
    if message["role"] == "assistant" and THINK_CLOSE in content:
        return content.rsplit(THINK_CLOSE, 1)[1].lstrip("\n")
    return content


def extract_code(text: str) -> str | None:
    """The program in a text that may hold reasoning: the last complete Python block after `</think>`, as `extraction` finds it.

    Text before `</think>` is a draft: it is never read where a `</think>` is.
    """
    before, close, after = text.partition(THINK_CLOSE)
    return extract(after if close else before.lstrip().removeprefix(THINK_OPEN)).code


FORMATS: Final[dict[str, ChatFormat]] = {
    "chatml-think": ChatFormat(
        name="chatml-think",
        jinja=_JINJA,
        ollama=_OLLAMA,
        eos="<|im_end|>",  # Qwen2.5 *base* ships <|endoftext|> as eos: left there, a model never stops
        pad="<|endoftext|>",  # never the eos, or the end of an answer would be masked away as padding
        stop=("<|im_end|>", "<|endoftext|>"),
    )
}


@cache
def prompt_text(name: str) -> str:
    """The text of `gwen25/prompts/<name>.md`, without the newline at its end."""
    return resources.files("gwen25.prompts").joinpath(f"{name}.md").read_text(encoding="utf-8").rstrip("\n")


def prompts_digest(*names: str) -> str:
    """sha256 over prompt files: part of the key of every stage that shows them to a model."""
    return hashlib.sha256("\0".join(prompt_text(name) for name in names).encode()).hexdigest()


def problem_messages(problem: Problem) -> list[Message]:
    """The messages that put a problem to the model: the same in SFT, GRPO, evaluation and the Ollama smoke prompt."""
    if not problem.statement.strip():
        raise BadInput(f"problem {problem.id}: an empty statement")
    kind = "function" if problem.starter_code or problem.func_name else "stdin"
    blanks = {"{statement}": problem.statement.strip(), "{starter_code}": problem.starter_code.strip("\n")}
    # one pass, so that a statement that itself holds a blank is not filled in
    text = re.sub("|".join(map(re.escape, blanks)), lambda blank: blanks[blank[0]], prompt_text(f"problem_{kind}"))
    return [{"role": "system", "content": prompt_text("system")}, {"role": "user", "content": text}]
