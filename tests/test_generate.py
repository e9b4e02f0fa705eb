"""Both backends: Transformers on the tiny model, the OpenAI client against a server that speaks its REST."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gwen25.chat import FORMATS
from gwen25.data import Message
from gwen25.errors import BadInput, Unavailable
from gwen25.generate import OpenAIServer, Sample, Sampling, Transformers, answers, plan

FORMAT = FORMATS["chatml-think"]
TEXTS = [
    "Add two numbers.",
    "Say hello.",
    "Read n and print n lines, each with the numbers from 1 to its own.",
    "Why?",
    "Sort a list of words.",
]
PROMPTS: list[list[Message]] = [[{"role": "user", "content": text}] for text in TEXTS]


# ------------------------------------------------------------------------------------------------------------ transformers


def tiny(folder: Path, batch_size: int) -> Transformers:
    return Transformers(folder, FORMAT, dtype="float32", device="cpu", batch_size=batch_size)


def test_a_batch_of_one_equals_a_batch_of_four(tiny_model: Path) -> None:
    sampling = Sampling(max_tokens=24)
    alone, together = (answers(tiny(tiny_model, size), PROMPTS, sampling) for size in (1, 4))
    assert alone == together
    assert len({samples[0].text for samples in alone}) > 1  # or the comparison would say nothing


def test_a_pad_whose_id_is_zero_is_taken(tiny_model: Path) -> None:
    zero = tiny(tiny_model, 4)._tokenizer.convert_ids_to_tokens(0)
    model = Transformers(tiny_model, replace(FORMAT, pad=zero), dtype="float32", device="cpu", batch_size=4)
    assert model._pad == 0
    assert answers(model, PROMPTS, Sampling(max_tokens=8)) == answers(tiny(tiny_model, 4), PROMPTS, Sampling(max_tokens=8))


def test_greedy_is_argmax_without_padding_or_cache(tiny_model: Path) -> None:
    import torch

    model = tiny(tiny_model, 4)
    [sample] = answers(model, PROMPTS, Sampling(max_tokens=8))[2]
    ids = model._tokenizer(FORMAT.render(PROMPTS[2]), add_special_tokens=False).input_ids
    made = []
    for _ in range(8):
        with torch.inference_mode():
            made.append(int(model._model(input_ids=torch.tensor([ids + made])).logits[0, -1].argmax()))
        if made[-1] in model._stop:
            break
    assert sample.tokens == len(made)
    assert sample.text == model._tokenizer.decode([token for token in made if token not in model._stop], skip_special_tokens=True)


def test_the_model_directory_cannot_change_the_sampling(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 9.0, "top_k": 1, "repetition_penalty": 5.0, "max_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    for sampling in (Sampling(max_tokens=12), Sampling(n=2, temperature=1.0, max_tokens=12)):
        assert answers(tiny(folder, 4), PROMPTS, sampling) == answers(tiny(tiny_model, 4), PROMPTS, sampling)


@pytest.mark.parametrize("batch_size", [2, 4, 7])
def test_skipping_changes_no_answer(tiny_model: Path, batch_size: int) -> None:
    model, sampling = tiny(tiny_model, batch_size), Sampling(n=3, temperature=1.0, max_tokens=12)
    whole = dict(model.generate(PROMPTS, sampling))
    assert sorted(whole) == list(range(len(PROMPTS)))
    assert len({sample.text for samples in whole.values() for sample in samples}) > len(PROMPTS)  # samples of a prompt differ
    for skip in ({0}, {2, 3}, {0, 1, 2, 4}, set(range(5))):
        rest = dict(model.generate(PROMPTS, sampling, skip))
        assert rest == {index: samples for index, samples in whole.items() if index not in skip}


def test_the_seed_decides(tiny_model: Path) -> None:
    model = tiny(tiny_model, 8)
    first, again, other = (answers(model, PROMPTS, Sampling(n=2, temperature=1.0, max_tokens=12, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_greedy_counts_one_answer_n_times(tiny_model: Path) -> None:
    for samples in answers(tiny(tiny_model, 4), PROMPTS, Sampling(n=3, max_tokens=6)):
        assert len(samples) == 3 and len(set(samples)) == 1


@pytest.mark.parametrize("token", FORMAT.stop)
def test_stop_tokens_end_an_answer_and_are_not_part_of_it(tiny_model: Path, token: str) -> None:
    import torch

    model = tiny(tiny_model, 4)
    wanted = model._tokenizer.convert_tokens_to_ids(token)
    head, seen = model._model.lm_head.forward, [0]

    def stop_at_the_fourth(hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(hidden)
        seen[0] += 1
        logits[..., wanted] = 1e4 if seen[0] == 4 else -1e4
        return logits

    model._model.lm_head.forward = stop_at_the_fourth
    [[sample]] = answers(model, PROMPTS[:1], Sampling(max_tokens=20))
    assert (sample.tokens, sample.truncated) == (4, False)
    assert token not in sample.text
    [[cut]] = answers(model, PROMPTS[:1], Sampling(max_tokens=20))  # the head no longer stops it
    assert (cut.tokens, cut.truncated) == (20, True)


def test_rows_are_planned_longest_first_and_all_once() -> None:
    batches = plan([3, 9, 5], draws=3, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert [index for batch in batches for index, _ in batch] == [1] * 3 + [2] * 3 + [0] * 3
    assert len({row for batch in batches for row in batch}) == 9


def test_what_does_not_fit_is_said_before_anything_is_generated(tiny_model: Path) -> None:
    with pytest.raises(BadInput, match="exceed the model's context of 2048; set max_tokens to at most"):
        answers(tiny(tiny_model, 4), PROMPTS, Sampling(max_tokens=2048))


def test_what_is_no_model_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(BadInput, match=r"no config\.json"):
        tiny(tmp_path, 1)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(BadInput, match="cannot be loaded"):
        tiny(tmp_path, 1)
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match=r"runtime\.device=cpu"):
            Transformers(tiny_model, FORMAT, device="cuda")


# ----------------------------------------------------------------------------------------------------- OpenAI-compatible server

Reply = tuple[int, Any, dict[str, str]]


def completion(content: str | None, finish: str | None = "stop", **message: Any) -> Reply:
    return 200, {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}], "usage": {"completion_tokens": 7}}, {}


class Server:
    """Replies as a test says; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models = ["only"]
        self.reply: Callable[[int, dict[str, Any]], Reply] = lambda number, body: completion("ok")
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.headers.append(dict(self.headers))
                known = self.path == "/v1/models"
                self._send((200 if known else 404, {"data": [{"id": name} for name in outer.models]}, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                    outer.asked.append(body)
                    outer.headers.append(dict(self.headers))
                    number = len(outer.asked)
                reply = outer.reply(number, body)
                with outer.lock:
                    outer.at_once -= 1
                self._send(reply)

            def _send(self, reply: Reply) -> None:
                status, value, headers = reply
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are part of the tests
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def client(server: Server, **changes: Any) -> OpenAIServer:
    return OpenAIServer(server.url, FORMAT, **{"pause": 0.01, "concurrency": 3, "timeout": 10, **changes})


def test_a_request_for_each_sample_with_a_seed_of_its_own(server: Server) -> None:
    server.reply = lambda number, body: (time.sleep(0.05), completion(f"{body['messages'][0]['content']} {body['seed']}"))[1]
    sampling = Sampling(n=2, temperature=0.5, top_p=0.9, max_tokens=30)
    made = answers(client(server), PROMPTS, sampling)
    assert [[sample.text.rpartition(" ")[0] for sample in samples] for samples in made] == [[text, text] for text in TEXTS]
    assert len({body["seed"] for body in server.asked}) == 10
    expected = {"model": "only", "temperature": 0.5, "top_p": 0.9, "max_tokens": 30, "stop": list(FORMAT.stop)}
    assert all({name: body.get(name) for name in expected} == expected and "n" not in body for body in server.asked)
    assert 1 < server.most_at_once <= 3
    assert made == answers(client(server, concurrency=1), PROMPTS, sampling)  # no order decides
    some = dict(client(server).generate(PROMPTS, sampling, skip={0, 2, 3}))
    assert some == {1: made[1], 4: made[4]}


def test_greedy_asks_once_and_counts_n_times(server: Server) -> None:
    assert answers(client(server), PROMPTS[:2], Sampling(n=4)) == [[Sample("ok", 7, False)] * 4] * 2
    assert len(server.asked) == 2


def test_truncation_and_the_reasoning_a_server_splits_off(server: Server) -> None:
    replies = [
        (completion("half an", "length"), Sample("half an", 7, True)),
        (completion("\n\nthe code", reasoning_content="a thought\n"), Sample("a thought\n</think>\n\nthe code", 7, False)),
        (completion("the code", reasoning="a thought"), Sample("a thought\n</think>\n\nthe code", 7, False)),
        (completion("half", "length", reasoning="a thought"), Sample("a thought\n</think>\n\nhalf", 7, True)),
        (completion(None, "length", reasoning="half a thou"), Sample("half a thou", 7, True)),
        (completion("", reasoning="all thought"), Sample("all thought\n</think>\n\n", 7, False)),
        (completion(None), Sample("", 7, False)),
        (completion("\ud800"), Sample("?", 7, False)),
    ]
    for reply, expected in replies:
        server.reply = lambda number, body, reply=reply: reply  # type: ignore[misc]
        assert answers(client(server), PROMPTS[:1], Sampling()) == [[expected]]
    server.reply = lambda number, body: (200, {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}, {})
    assert answers(client(server), PROMPTS[:1], Sampling()) == [[Sample("x", None, False)]]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_is_tried_again(server: Server, status: int) -> None:
    server.reply = lambda number, body: (
        (status, {"error": {"message": "busy"}}, {"Retry-After": "0"}) if number < 4 else completion("at last")
    )
    assert answers(client(server), PROMPTS[:1], Sampling()) == [[Sample("at last", 7, False)]]
    assert len(server.asked) == 4


def test_an_aborted_answer_is_asked_for_again(server: Server) -> None:
    server.reply = lambda number, body: completion("ha", "abort") if number == 1 else completion("whole")
    assert answers(client(server), PROMPTS[:1], Sampling()) == [[Sample("whole", 7, False)]]


def test_a_server_that_stays_busy_is_unavailable(server: Server) -> None:
    server.reply = lambda number, body: (503, {"error": {"message": "loading"}}, {})
    with pytest.raises(Unavailable, match=r"answered 503 \(loading\), in 5 tries"):
        answers(client(server, model="m"), PROMPTS[:1], Sampling())
    assert len(server.asked) == 5


def test_silence_is_unavailable(server: Server) -> None:
    hold = threading.Event()
    server.reply = lambda number, body: (hold.wait(20), completion("late"))[1]
    with pytest.raises(Unavailable, match="did not answer"):
        answers(client(server, model="m", timeout=0.1), PROMPTS[:1], Sampling())
    hold.set()


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="is the server up"):
        answers(OpenAIServer("http://127.0.0.1:9/v1", FORMAT, pause=0.01), PROMPTS[:1], Sampling())


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            (400, {"error": {"message": "maximum context length is 512 tokens"}}, {}),
            r"maximum context length is 512 tokens.*evaluate\.max_tokens",
        ),
        ((401, {"error": "no"}, {}), r"answered 401 \(no\); set OPENAI_API_KEY"),
        ((404, {"object": "error", "message": "The model `x` does not exist."}, {}), r"does not exist.*evaluate\.served_model"),
        ((422, b"<html>\nno\n</html>", {}), "<html> no </html>"),
        ((302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}), "redirects are not followed"),
        ((200, b"<html>", {}), "did not answer JSON"),
        ((200, ["a list"], {}), "JSON object"),
        ((200, {"object": "nothing"}, {}), "no chat completion"),
        ((200, {"choices": []}, {}), "no chat completion"),
    ],
)
def test_refusals_are_bad_input_and_not_tried_again(server: Server, reply: Reply, words: str) -> None:
    server.reply = lambda number, body: reply
    with pytest.raises(BadInput, match=words) as caught:
        answers(client(server), PROMPTS[:1], Sampling())
    assert len(server.asked) == 1
    assert "\n" not in str(caught.value)


def test_the_served_model_is_asked_for(server: Server) -> None:
    assert client(server).model == "only"
    assert client(server, model="mine").model == "mine"
    server.models = ["one", "two"]
    with pytest.raises(BadInput, match=r"serves 2 models \(one, two\).*evaluate\.served_model"):
        answers(client(server), PROMPTS, Sampling())
    server.models = []
    with pytest.raises(BadInput, match="serves 0 models"):
        answers(client(server), PROMPTS, Sampling())
    with pytest.raises(BadInput, match="ends in /v1"):
        answers(OpenAIServer(server.url.removesuffix("/v1"), FORMAT, pause=0.01), PROMPTS, Sampling())


def test_the_key_is_sent_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(client(server), PROMPTS[:1], Sampling())
    assert all("Authorization" not in headers for headers in server.headers)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret\n")
    server.reply = lambda number, body: (401, {"error": {"message": "Incorrect API key provided: sk-very-secret."}}, {})
    with pytest.raises(BadInput) as caught:
        answers(client(server), PROMPTS[:1], Sampling())
    assert server.headers[-1]["Authorization"] == "Bearer sk-very-secret"
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very\nsecret")
    with pytest.raises(BadInput, match="no HTTP header") as caught:
        answers(client(server), PROMPTS[:1], Sampling())
    assert "very" not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "file:///etc/passwd", "ftp://host/v1", "http:///v1", "http://me:word@host/v1"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(BadInput, match="base_url") as caught:
        OpenAIServer(url, FORMAT)
    assert "word" not in str(caught.value).replace("password", "")


def test_an_error_ends_it_without_waiting_for_the_rest(server: Server) -> None:
    hold = threading.Event()
    server.reply = lambda number, body: (
        (400, {"error": "no"}, {}) if "hello" in str(body["messages"]) else (hold.wait(20), completion("x"))[1]
    )
    with pytest.raises(BadInput):
        answers(client(server, timeout=30), PROMPTS, Sampling())
    assert not hold.is_set()
    hold.set()


def test_a_real_server_says_what_transformers_says(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from gwen25.llamacpp import LlamaCpp
    from gwen25.pipelines import gguf

    gguf.convert(tiny_model, tmp_path / "tiny.gguf", "f32", chat_format=FORMAT)
    here, sampling = answers(tiny(tiny_model, 4), PROMPTS, Sampling(max_tokens=16)), Sampling(n=2, temperature=1.0, max_tokens=12)
    with LlamaCpp(tmp_path / "tiny.gguf", n_ctx=512, threads=1) as running:
        served = OpenAIServer(f"{running.base_url}/v1", FORMAT, concurrency=2)
        assert served.model.endswith("tiny.gguf")
        there = answers(served, PROMPTS, Sampling(max_tokens=16))
        assert [(mine.tokens, mine.truncated) for [mine] in here] == [(theirs.tokens, theirs.truncated) for [theirs] in there]
        # llama.cpp counts the newline after <think> to the answer, and drops half a character at its end
        texts = [theirs.text.lstrip("\n").rstrip("\ufffd") for [theirs] in there]
        assert any(texts) and all(mine.text.startswith(text) for [mine], text in zip(here, texts, strict=True))
        drawn = answers(served, PROMPTS[:2], sampling)
        assert drawn == answers(served, PROMPTS[:2], sampling) and drawn[0][0] != drawn[0][1]
        with pytest.raises(BadInput, match=r"exceeds the available context size.*evaluate\.max_tokens"):
            answers(served, [[{"role": "user", "content": "word " * 2000}]], Sampling())  # one: none is under way when the server ends
