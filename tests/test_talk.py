"""What a chat keeps and what it shows; llama.cpp, transformers and Ollama behind one call give the same words."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gwen25 import gguf_writer, llamacpp, modeling, references, speakers
from gwen25.chat import FORMATS
from gwen25.data import Message
from gwen25.errors import BadInput, Unavailable
from gwen25.ollama_api import Ollama
from gwen25.samples import tiny
from gwen25.speakers import Draw, End, Hear, Piece, Speaker, Splitter
from gwen25.talk import Screen, Talk
from tests.fake_ollama import FakeOllama
from tests.pipelines import training_jobs as jobs

FORMAT = FORMATS["chatml-think"]
GREEDY = Draw(max_tokens=24, temperature=0)
SUM: list[Message] = [{"role": "user", "content": "Read two integers and print their sum."}]
needs_llama_cpp = pytest.mark.skipif(not llamacpp.can_load(), reason="xllamacpp is not installed: pip install 'gwen25[llamacpp]'")


# ------------------------------------------------------------------------------------------------------ reasoning and answer


def _split(*parts: str) -> list[Piece]:
    heard: list[Piece] = []
    split = Splitter(heard.append)
    for part in parts:
        split.feed(part)
    split.close()
    return heard


def _joined(pieces: Sequence[Piece]) -> tuple[str, str]:
    return tuple("".join(piece.text for piece in pieces if piece.reasoning == kind) for kind in (True, False))  # type: ignore[return-value]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hm.\n</think>\n\nprint(1)", ("Hm.\n", "\n\nprint(1)")),
        ("a < b, </thin king> </</think>x</think>", ("a < b, </thin king> </", "x</think>")),
        ("no end </thi", ("no end </thi", "")),
        ("</think>", ("", "")),
        ("", ("", "")),
    ],
)
def test_the_tag_is_found_however_the_text_is_cut(text: str, parts: tuple[str, str], size: int) -> None:
    assert _joined(_split(*[text[at : at + size] for at in range(0, len(text), size)])) == parts


def test_nothing_that_cannot_be_the_tag_is_held_back() -> None:
    heard: list[Piece] = []
    split = Splitter(heard.append)
    split.feed("a <")
    assert _joined(heard) == ("a ", "")
    split.feed("b")
    assert _joined(heard) == ("a <b", "")


def _shown(*pieces: tuple[str, bool], **how: bool) -> str:
    screen = Screen(out := io.StringIO(), **how)
    for text, reasoning in pieces:
        screen.hear(Piece(text, reasoning))
    screen.close()
    return out.getvalue()


def test_reasoning_is_dimmed_named_or_left_out() -> None:
    said = (("Add ", True), ("them.\n", True), ("\n\nprint", False), ("(1)", False))
    assert _shown(*said, colour=True) == "\x1b[0m\x1b[2mAdd them.\n\x1b[0m\n\nprint(1)\x1b[0m\n"
    assert _shown(*said) == "(reasoning)\nAdd them.\n\n\n(answer)\nprint(1)\n"
    assert _shown(*said, fold=True) == "print(1)\n"
    assert _shown(("Add", True), colour=True).endswith("\x1b[0m\n")  # interrupted: the terminal is not left dim
    assert _shown() == ""


def test_a_model_cannot_write_to_the_terminal_itself() -> None:
    hostile = "\x1b]0;title\x07 \x1b[2J\x9b31m a\r\bb\x00\u202e\tc\nd"
    assert _shown((hostile, False)) == "]0;title [2J31m ab\u202e\tc\nd\n"


# ------------------------------------------------------------------------------------------------------------------ the history


class Script:
    """A speaker that says what the test says, and remembers what it was asked."""

    def __init__(self, *answers: str | BaseException):
        self._answers, self.asked = list(answers), list[list[Message]]()

    def speak(self, messages: Sequence[Message], draw: Draw, hear: Hear) -> End:
        self.asked.append(list(messages))
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            hear(Piece("half of it", reasoning=False))
            raise answer
        split = Splitter(hear)
        split.feed(answer)
        split.close()
        return End(3, truncated=False)


def _talk(*answers: str | BaseException, system: str | None = "Be terse.") -> tuple[Talk, Script]:
    script = Script(*answers)
    return Talk(script, GREEDY, system), script


def _screen() -> Screen:
    return Screen(io.StringIO())


def test_the_history_holds_answers_without_their_reasoning() -> None:
    conversation, script = _talk("Hm.\n</think>\n\nOne.\n", "Hm.\n</think>\n\nTwo.")
    conversation.ask("1?", _screen())
    conversation.ask("2?", _screen())
    assert script.asked[1] == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "2?"},
    ]
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be terse."}]
    assert _talk(system=None)[0].messages == []


@pytest.mark.parametrize("answer", ["It goes on and on", "Hm.\n</think>\n\n", KeyboardInterrupt(), BadInput("too long")])
def test_a_question_without_an_answer_is_taken_back(answer: str | BaseException) -> None:
    conversation, script = _talk(answer, "Hm.\n</think>\n\nTwo.")
    if isinstance(answer, str):
        assert conversation.ask("1?", _screen()) is None
    else:
        with pytest.raises(type(answer)):
            conversation.ask("1?", _screen())
    conversation.ask("2?", _screen())
    assert [message["content"] for message in script.asked[1]] == ["Be terse.", "2?"]


# ------------------------------------------------------------------------------------------------------------------ the engines


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pretrained model as `merge` leaves one."""
    folder = tmp_path_factory.mktemp("merged")
    tiny.build(folder, pretrained=True)
    tokenizer = modeling.load_tokenizer(folder, FORMAT)
    modeling.save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def gguf(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    gguf_writer.write(merged, file, "f32", chat_format=FORMAT)
    return file


def _said(speaker: Speaker, messages: Sequence[Message] = SUM, draw: Draw = GREEDY) -> tuple[str, End]:
    heard: list[Piece] = []
    end = speaker.speak(messages, draw, heard.append)
    assert all(piece.text for piece in heard) and len(heard) > 1, "it comes in parts"
    return "".join(piece.text for piece in heard), end


@needs_llama_cpp
def test_a_gguf_says_what_its_checkpoint_says(merged: Path, gguf: Path) -> None:
    with speakers.opened(references.find(str(merged))) as speaker:
        text, end = _said(speaker)
        again, _ = _said(speaker, draw=Draw(max_tokens=8, temperature=0))
    with speakers.opened(references.find(str(gguf))) as speaker:
        assert _said(speaker) == (text, end)
        _said(speaker, draw=Draw(max_tokens=8, temperature=1.5))
    assert end == End(24, truncated=True) and text.startswith(again.rstrip()) and "<|" not in text


def test_an_adapter_speaks_as_its_merge_does_and_not_as_its_base(tmp_path: Path, merged: Path) -> None:
    folder = jobs.trained_adapter(tmp_path / "made", merged, strength=0.05, chat_tokens=True).payload
    with speakers.opened(references.Model("adapter", "adapter", str(folder), FORMAT, merged)) as speaker:
        text, end = _said(speaker)
    with speakers.opened(references.find(str(merged))) as speaker:
        assert _said(speaker)[0] != text
    tokenizer = modeling.load_tokenizer(merged, FORMAT)
    whole = modeling.load_adapter(modeling.load_base(merged, tokenizer, FORMAT, dtype="float32"), folder).merge_and_unload()
    ids = tokenizer(FORMAT.render(SUM), return_tensors="pt")["input_ids"]
    made = whole.generate(input_ids=ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(made, skip_special_tokens=True) == text and end.tokens == len(made)


@needs_llama_cpp
@pytest.mark.parametrize("form", ["model", "gguf"])
def test_a_conversation_longer_than_the_context_is_refused(merged: Path, gguf: Path, form: str) -> None:
    with speakers.opened(references.find(str(merged if form == "model" else gguf))) as speaker:
        with pytest.raises(BadInput, match=r"the conversation has \d+ tokens, as many as the model's context of 2048 or more.*/reset"):
            speaker.speak([{"role": "user", "content": "word " * 3000}], GREEDY, lambda piece: None)
        words = [{"role": "user", "content": "a b " * 980}]
        heard: list[Piece] = []
        end = speaker.speak(words, Draw(max_tokens=4096, temperature=0), heard.append)  # what is left of the context bounds the answer
        assert end.tokens is not None and end.tokens < 300


def test_a_gguf_without_llama_cpp_says_what_to_install(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "can_load", lambda: False)
    with pytest.raises(BadInput, match=r"pip install 'gwen25\[llamacpp\]'"), speakers.opened(references.find(str(gguf))):
        pass


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeOllama]:
    def ready(server: FakeOllama) -> FakeOllama:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        server.blobs["sha256:x"] = b"GGUF"
        Ollama(server.url).create("m", files={"m.gguf": "sha256:x"}, template=FORMAT.ollama, system="", parameters={})
        return server

    return ready


def test_ollama_streams_its_thinking_and_its_answer(ollama: Callable[..., FakeOllama]) -> None:
    with FakeOllama() as server, speakers.opened(references.find("ollama:m") if ollama(server) else None) as speaker:
        heard: list[Piece] = []
        end = speaker.speak(SUM, Draw(7, 0.5, 0.9), heard.append)
        asked = server.chats[-1]
    assert _joined(heard) == ("Add them.", "```python\nprint(sum(map(int, input().split())))\n```") and len(heard) > 10
    assert end == End(23, truncated=False) and asked["messages"] == SUM and asked["stream"] is True
    assert asked["options"] == {"num_predict": 7, "temperature": 0.5, "top_p": 0.9}


@pytest.mark.parametrize("fault", ["breaks off", "answer fails"])
def test_an_ollama_that_breaks_off_is_no_answer(fault: str, ollama: Callable[..., FakeOllama], monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama() as server:
        ollama(server)
        server.faults.add(fault)
        with pytest.raises(Unavailable, match="broke off in an answer of m"):
            speakers.Server("m").speak(SUM, GREEDY, lambda piece: None)
