"""`gwen25 chat` from outside: a pipe is one question, a terminal a conversation that only Ctrl-D ends."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gwen25 import cli, gguf_writer, llamacpp, modeling
from gwen25.chat import FORMATS
from gwen25.ollama_api import Ollama
from gwen25.samples import tiny
from tests.fake_ollama import FakeOllama

FORMAT = FORMATS["chatml-think"]
needs_llama_cpp = pytest.mark.skipif(not llamacpp.can_load(), reason="xllamacpp is not installed: pip install 'gwen25[llamacpp]'")


class _Pipe(io.StringIO):
    def isatty(self) -> bool:
        return False


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def ask(text: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", _Pipe(text))
        status = cli.main(["chat", *arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return ask


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOllama]:
    with FakeOllama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        server.blobs["sha256:x"] = b"GGUF"
        Ollama(server.url).create("gwen25", files={"m.gguf": "sha256:x"}, template=FORMAT.ollama, system="", parameters={})
        yield server


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.build(folder, pretrained=True)
    file = folder / "m.gguf"
    gguf_writer.write(folder, file, "f16", chat_format=FORMAT)
    return file


def test_a_pipe_is_one_question_and_gets_the_answer_alone(ask, server: FakeOllama) -> None:
    status, out, err = ask("Two integers.\nPrint their sum.\n", "ollama:gwen25", "--temperature", "0", "--max-tokens", "9")
    assert (status, out) == (0, "```python\nprint(sum(map(int, input().split())))\n```\n")
    assert "loading ollama:gwen25" in err and "reasoning of 9 characters left out" in err
    assert server.chats[-1]["messages"] == [{"role": "user", "content": "Two integers.\nPrint their sum."}]  # the model has its own system
    assert server.chats[-1]["options"]["temperature"] == 0 and server.chats[-1]["options"]["num_predict"] == 9


def test_a_system_turn_of_the_user_s(ask, server: FakeOllama) -> None:
    assert ask("1?", "ollama:gwen25", "--system", "Be terse.")[0] == 0
    assert server.chats[-1]["messages"][0] == {"role": "system", "content": "Be terse."}


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        ("hi", ["nonsense"], "'nonsense' is no path"),
        ("hi", ["ollama:gone"], "model 'gone' not found; the server has: gwen25:latest"),
        (" \n", ["ollama:gwen25"], "standard input holds no question"),
        ("hi", ["ollama:gwen25", "--max-tokens", "0"], "--max-tokens is at least 1"),
        ("hi", ["ollama:gwen25", "--temperature", "-1"], "--temperature between 0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(ask, server: FakeOllama, text: str, arguments: list[str], told: str) -> None:
    status, out, err = ask(text, *arguments)
    assert (status, out) == (2, "") and told in err and err.count("\n") == 1
    assert not server.chats


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        ("sum \udcff two\n", [], "standard input is not UTF-8 text (character 5)"),
        ("hi", ["--system", "a\udcffb"], "--system is not UTF-8 text (character 2)"),
    ],
)
def test_bytes_that_are_no_text_are_refused_before_the_model_is_loaded(
    ask, server: FakeOllama, text: str, arguments: list[str], told: str
) -> None:
    """What stdin and the arguments hold of the byte 0xff where the locale is C.UTF-8."""
    status, out, err = ask(text, "ollama:gwen25", *arguments)
    assert (status, out) == (2, "") and told in err and err.count("\n") == 1
    assert not server.chats


def test_a_typed_line_that_is_no_text_does_not_end_the_chat(
    server: FakeOllama, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["a\udcffb", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "1 + 1?"])

    def typed(_: str) -> str:
        line = next(lines, EOFError())
        if isinstance(line, Exception):  # what a locale with another error handler makes of it
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(sys, "stdin", _Pipe())
    monkeypatch.setattr(_Pipe, "isatty", lambda self: True)
    assert cli.main(["chat", "ollama:gwen25"]) == 0
    told = capsys.readouterr().err
    assert "the question is not UTF-8 text (character 2)" in told and "the line is not UTF-8 text (invalid start byte)" in told
    assert [chat["messages"][-1]["content"] for chat in server.chats] == ["1 + 1?"]


@needs_llama_cpp
def test_no_answer_is_status_1(ask, gguf: Path) -> None:
    status, out, err = ask("Print the sum.", str(gguf), "--max-tokens", "3")
    assert (status, out) == (1, "") and "did not come out of its reasoning in 3 tokens; raise --max-tokens" in err


# ------------------------------------------------------------------------------------------------------------------- a terminal


class _Terminal:
    """The real command on a terminal of its own."""

    def __init__(self, *arguments: str):
        self._pid, self._fd = pty.fork()
        if not self._pid:  # the child
            environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
            environment.pop("NO_COLOR", None)
            os.execve(sys.executable, [sys.executable, "-m", "gwen25.cli", "chat", *arguments], environment)

    def until(self, text: str, seconds: float = 60) -> str:
        """What it writes, up to and with `text`."""
        got, end = b"", time.monotonic() + seconds
        while text.encode() not in got:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"waited {seconds} s for {text!r}, got {got!r}"
            got += os.read(self._fd, 1)
        return got.decode(errors="replace").replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def status(self) -> int:
        """Its exit status; waits for its end."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            ready, _, _ = select.select([self._fd], [], [], 0.05)
            if ready:
                with suppress(OSError):  # it has gone
                    os.read(self._fd, 4096)
        os.kill(self._pid, signal.SIGKILL)
        raise AssertionError("the chat did not end")


@needs_llama_cpp
def test_a_chat_on_a_terminal(gguf: Path) -> None:
    chat = _Terminal(str(gguf), "--temperature", "0", "--max-tokens", "2000")
    assert "Ctrl-D the chat" in chat.until(">>> ")
    chat.type("Count for ever: 1, 2, 3\r")
    chat.until("\x1b[2m")  # the reasoning has begun, dimmed
    chat.type("\x03")
    told = chat.until(">>> ")
    assert "\x1b[0m" in told  # dimmed no more, whether the answer was interrupted or had ended by then
    time.sleep(0.3)  # readline shows its prompt a moment before it listens for signals
    chat.type("\x03")
    assert "Ctrl-D ends the chat" in chat.until(">>> ")
    chat.type('"""two\r')
    chat.until("... ")
    chat.type('lines"""\r')
    assert "\x1b[2m" in chat.until("\n>>> ")
    chat.type("/reset\r")
    assert "a new conversation" in chat.until("\n>>> ")
    chat.type("/help\r")
    assert "/reset begins anew" in chat.until("\n>>> ")
    chat.type("\x04")
    assert chat.status() == 0


def test_help_names_the_forms(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["chat", "--help"])
    assert "merge:3f2a, an alias, a directory, a .gguf file, ollama:NAME, a hub id" in " ".join(capsys.readouterr().out.split())


def test_the_merged_form_is_asked_in_the_trained_format(ask, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory whose template is ours: the prompt is what training rendered, system turn included."""
    tokenizer = modeling.load_tokenizer(gguf.parent, FORMAT)
    modeling.save_tokenizer(tokenizer, gguf.parent)
    seen: list[str] = []
    render = type(FORMAT).render
    monkeypatch.setattr(type(FORMAT), "render", lambda self, messages, *rest: seen.append(render(self, messages, *rest)) or seen[-1])
    status, _, err = ask("Print 1.", str(gguf.parent), "--max-tokens", "2", "--temperature", "0")
    assert status == 1 and "warning" not in err
    assert seen[0].startswith("<|im_start|>system\nYou are an expert Python programmer.")
    assert seen[0].endswith("<|im_start|>user\nPrint 1.<|im_end|>\n<|im_start|>assistant\n<think>\n")
