"""The packaged samples: their schemas, that they say what they claim, and that the tiny model is a Qwen2 in miniature."""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gwen25 import chat, samples
from gwen25.data import Problem, TestCase, read_jsonl
from gwen25.errors import BadInput
from gwen25.mining import mine_examples
from gwen25.samples import tiny, train_tokenizer
from gwen25.sandbox import grade_many

FORMAT = chat.FORMATS["chatml-think"]
ROWS = [row for _, row in read_jsonl(samples.path("rows.jsonl"))]
PROBLEMS = [row for _, row in read_jsonl(samples.path("problems.jsonl"))]

# one right program for each problem, so that its tests are tests: right passes, and something wrong does not
SOLUTIONS = {
    "smp001_a": """\
a, b = map(int, input().split())
print(a + b)
""",
    "smp001_b": """\
input()
print(input()[::-1])
""",
    "1900A-s": """\
n = int(input())
print(sum(b > a for a, b in (map(int, input().split()) for _ in range(n))))
""",
    "9001": """\
class Solution:
    def countUpTo(self, nums, limit):
        return sum(x <= limit for x in nums)
""",
    "smp002_c": """\
n, k = map(int, input().split())
a = list(map(int, input().split()))
s = best = sum(a[:k])
for i in range(k, n):
    s += a[i] - a[i - k]
    best = max(best, s)
print(best)
""",
    "1901B-s": """\
for _ in range(int(input())):
    stack = []
    good = True
    for c in input().strip():
        if c in '([':
            stack.append(')' if c == '(' else ']')
        elif not stack or stack.pop() != c:
            good = False
            break
    print('Yes' if good and not stack else 'No')
""",
    "9002": """\
class Solution:
    def groupByLetters(self, words):
        groups = {}
        for w in words:
            groups.setdefault(''.join(sorted(w)), []).append(w)
        return list(groups.values())
""",
    "smp003_d": """\
from math import gcd
a, b = map(int, input().split())
g = gcd(a, b)
print(g, a // g * b)
""",
    "smp004_e": """\
import heapq
n, m = map(int, input().split())
g = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v, w = map(int, input().split())
    g[u].append((v, w))
    g[v].append((u, w))
d = [None] * (n + 1)
q = [(0, 1)]
while q:
    c, u = heapq.heappop(q)
    if d[u] is not None:
        continue
    d[u] = c
    for v, w in g[u]:
        if d[v] is None:
            heapq.heappush(q, (c + w, v))
print(-1 if d[n] is None else d[n])
""",
    "1902D-s": """\
n = int(input())
d = [1] + [0] * n
for p in range(1, n + 1):
    for x in range(p, n + 1):
        d[x] += d[x - p]
print(d[n])
""",
    "9003": """\
class Solution:
    def widestPoster(self, heights):
        stack, best = [], 0
        for i, h in enumerate(heights + [0]):
            start = i
            while stack and stack[-1][1] >= h:
                start, top = stack.pop()
                best = max(best, top * (i - start))
            stack.append((start, h))
        return best
""",
    "smp005_f": """\
n, q = map(int, input().split())
t = [0] * (n + 1)
done = set()
out = []

def pre(i):
    s = i * (i + 1) // 2
    while i:
        s += t[i]
        i -= i & -i
    return s

for _ in range(q):
    l, r = map(int, input().split())
    out.append(pre(r) - pre(l - 1))
    if l not in done:
        done.add(l)
        i = l
        while i <= n:
            t[i] += l
            i += i & -i
print(*out, sep='\\n')
""",
}


def test_rows_have_open_code_reasonings_columns() -> None:
    columns = {"id", "input", "output", "source", "license", "dataset", "split", "difficulty", "solution"}
    assert all(set(row) == columns for row in ROWS)
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    assert {row["license"] for row in ROWS} == {"apache-2.0"}


def test_an_unknown_sample_is_named() -> None:
    with pytest.raises(BadInput, match=r"'row\.jsonl'; did you mean 'rows\.jsonl'"):
        samples.path("row.jsonl")


def test_problems_have_livecodebenchs_columns() -> None:
    columns = {
        "question_title", "question_content", "platform", "question_id", "contest_id", "contest_date", "starter_code", "difficulty",
        "public_test_cases", "private_test_cases", "metadata",
    }  # fmt: skip
    assert all(set(problem) == columns for problem in PROBLEMS)
    assert Counter(problem["difficulty"] for problem in PROBLEMS) == {"easy": 4, "medium": 4, "hard": 4}
    assert sum("func_name" in json.loads(problem["metadata"]) for problem in PROBLEMS) >= 3
    plain = [problem["private_test_cases"].startswith("[") for problem in PROBLEMS]
    assert any(plain) and not all(plain)  # both encodings occur in the official files


class _NoGlobals(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise AssertionError(f"{module}.{name} in a pickle of text")


def _cases(problem: dict[str, Any]) -> list[TestCase]:
    private = problem["private_test_cases"]
    if not private.startswith("["):
        private = _NoGlobals(io.BytesIO(zlib.decompress(base64.b64decode(private)))).load()
    return [
        TestCase(case["input"], case["output"], case["testtype"]) for case in json.loads(problem["public_test_cases"]) + json.loads(private)
    ]


def test_problems_are_solved_by_right_programs_alone() -> None:
    names = [json.loads(problem["metadata"]).get("func_name") for problem in PROBLEMS]
    right = [(SOLUTIONS[problem["question_id"]], _cases(problem), name) for problem, name in zip(PROBLEMS, names, strict=True)]
    wrong = [
        (f"class Solution:\n    def {name}(self, *_):\n        return 1" if name else "print(1)", tests, name) for _, tests, name in right
    ]
    assert [verdict.status for verdict in grade_many(right, workers=2)] == ["passed"] * len(PROBLEMS)
    assert all(verdict.status == "wrong" for verdict in grade_many(wrong, workers=2))


def test_statements_of_stdin_problems_hold_their_public_tests() -> None:
    for problem in PROBLEMS:
        if not problem["starter_code"]:
            public = json.loads(problem["public_test_cases"])
            assert [(test.input, test.output) for test in mine_examples(problem["question_content"])] == [
                (case["input"], case["output"]) for case in public
            ]


# the tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(samples.path("tokenizer.json")))


def test_tokenizer_is_small_and_complete(tokenizer: Tokenizer) -> None:
    assert samples.path("tokenizer.json").stat().st_size <= 60_000
    base = tokenizer.get_vocab(with_added_tokens=False)
    assert sorted(base.values()) == list(range(train_tokenizer.VOCABULARY))
    specials = [*train_tokenizer.SPECIAL, *train_tokenizer.ADDED]
    assert [tokenizer.token_to_id(token) for token in specials] == list(range(len(base), len(base) + len(specials)))


@pytest.mark.parametrize(
    "text",
    ["", "Hi", "x = [1,\n\t2]\r\n", "größer 日本語 🙂 \x00\x7f", "<think>\n\n\n</think>\n\n```python\nprint(1)\n```", "a  b   \n \n"],
)
def test_tokenizer_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_bracket_merges_with_newline_as_in_qwen(tokenizer: Tokenizer) -> None:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    assert encode("<think>\n")[-1] == tokenizer.token_to_id(">Ċ")
    assert encode("</think>\n\n")[-1] == tokenizer.token_to_id(">ĊĊ")
    prompt, target = FORMAT.render([{"role": "user", "content": "Hi"}]), FORMAT.answer("Ok.", "print(1)")
    assert FORMAT.seam_holds(encode, prompt, target)
    assert not FORMAT.seam_holds(encode, prompt, "\n" + target)


def test_all_but_the_vocabulary_is_qwens(tokenizer: Tokenizer, shared_data: Path) -> None:
    qwen = json.loads(gzip.decompress((shared_data / "tokenizer" / "tokenizer.json.gz").read_bytes()))
    ours = json.loads(tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        assert ours[part] == qwen[part]
    assert {key for key in qwen["model"] if ours["model"][key] != qwen["model"][key]} == {"vocab", "merges"}


def test_the_recipe_gives_the_packaged_tokenizer(tokenizer: Tokenizer) -> None:
    """The rows may be edited without a new vocabulary, but the recipe must still make one of the same kind."""
    again = Tokenizer.from_str(train_tokenizer.train(train_tokenizer.corpus()))
    ours, recipe = tokenizer.get_vocab(), again.get_vocab()
    assert len(ours) == len(recipe)
    assert len(ours.keys() & recipe.keys()) > 0.9 * len(ours)


def test_rows_fit_the_smoke_profile(tokenizer: Tokenizer) -> None:
    for row in ROWS:
        prompt = FORMAT.render(chat.problem_messages(Problem(row["id"], row["input"], ())))
        assert len(tokenizer.encode(prompt).ids) <= 320


# the model


def test_the_same_arguments_give_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    tiny.build(tmp_path)
    names = sorted(file.name for file in tiny_model.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert all((tmp_path / name).read_bytes() == (tiny_model / name).read_bytes() for name in names)
    tiny.build(tmp_path, seed=1)
    assert (tmp_path / "model.safetensors").read_bytes() != (tiny_model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_it_whole(tmp_path: Path, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny.build(tmp_path, tie_word_embeddings=tied, num_hidden_layers=3)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.dtype == torch.float32
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"  # as the base ships it
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert len(tokenizer) < model.config.vocab_size  # rows that no token uses, as in Qwen2.5
    text = FORMAT.render([{"role": "user", "content": "Add 1 and 2."}])
    ids = tokenizer(text)["input_ids"]
    assert ids == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits
    assert logits.isfinite().all()
    assert 0.5 < logits.std() < 2


def test_its_template_is_the_wrong_one_on_purpose(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(tiny_model).apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n") and "<think>" not in text


def test_a_real_vocabulary_gets_qwens_rows(shared_data: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tiny.build(
        tmp_path,
        tokenizer=shared_data / "tokenizer",
        hidden_size=8,
        num_hidden_layers=1,
        intermediate_size=8,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == 151_936
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 151_665
    assert tokenizer.encode("<think>\n</think>\n\n") == [13708, 766, 397, 522, 26865, 1339]


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_no_tokenizer_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        tiny.build(tmp_path / "out", tokenizer=tmp_path)
    assert not (tmp_path / "out").exists()


def test_it_learns_at_the_smoke_profiles_rate(tiny_model: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = [FORMAT.answer(answer.reasoning or "", answer.code or "") for answer in (FORMAT.parse(row["output"]) for row in ROWS[:16])]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
