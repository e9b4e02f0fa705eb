"""How samples/tokenizer.json was made: Qwen2's tokenizer with a vocabulary of 640, trained on the packaged rows.

    python -m gwen25.samples.train_tokenizer [OUT.json]

Everything but the vocabulary is Qwen2.5's: NFC, the same pre-tokenizer regex, byte-level BPE, special tokens after the base
vocabulary. So `>` merges with the newline after it, `<think>` is ordinary tokens, and a sloppy seam between prompt and target
breaks here as it does on the real model. Run once, after the rows change; the file is committed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from gwen25 import chat, samples
from gwen25.data import Problem, read_jsonl

VOCABULARY: Final = 640  # 256 bytes and 384 merges: rows stay below 512 tokens, the model below 100k parameters

# transformers/models/qwen2/tokenization_qwen2.py, PRETOKENIZE_REGEX
REGEX: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED: Final = ("<tool_call>", "</tool_call>")  # added, but not special: as in Qwen2.5, decoding keeps them


def train(texts: Iterable[str], vocabulary: int = VOCABULARY) -> str:
    """tokenizer.json as text: `vocabulary` base tokens, all 256 bytes among them, then the special and the added ones."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(REGEX), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    parts: dict[str, Any] = json.loads(tokenizer.to_str())
    parts["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}  # the trainer writes null, which means the same
    parts["decoder"] = parts["post_processor"]  # both are ByteLevel without options, as in Qwen's file
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")) + "\n"


def corpus() -> Iterable[str]:
    """What the tiny model will see: prompts and answers in the chat format, cut where its special tokens stand."""
    shape = chat.FORMATS["chatml-think"]
    for _, row in read_jsonl(samples.path("rows.jsonl")):
        problem = Problem(id=row["id"], statement=row["input"], tests=())
        yield from shape.render(chat.problem_messages(problem)).replace("<|im_start|>", "<|im_end|>").split("<|im_end|>")
        yield (row["output"] or "").removeprefix("<think>\n")


def main(out: Path) -> None:
    out.write_text(train(corpus()), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("tokenizer.json"))
