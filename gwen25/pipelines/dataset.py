"""Dataset: OpenCodeReasoning's rows, or a file of yours in its schema -> rows that SFT and GRPO can trust.

    python -m gwen25.pipelines.dataset WORK_DIR          (started by `gwen25 dataset`)

A row is kept when its reasoning is finished, its program is Python and fits the context, and passes the examples that the
statement itself holds. Every other row is counted under exactly one of `REASONS`, so that read == kept + dropped. No chat
template is baked in: the rows hold messages, reasoning and code, and `chat` makes text of them. With dataset.target=solution the
reasoning is left out: the prompt still opens the think block, and the answer closes it at once.

    payload/train.jsonl     id, messages, reasoning, code, source, difficulty, license, tokens
    payload/heldout.jsonl   the same; none of its statements is in train.jsonl
    payload/grpo.jsonl      id, messages, tests, func_name, starter_code, difficulty; one row for a statement of train.jsonl

With dataset.grpo_source the rows of grpo.jsonl are that file's problems instead, whose tests the prompt need not show; a problem whose
statement is held out is left out.
Rows stream through in chunks: memory grows by less than 1 kB a row, for the hashes that find repetitions.
Not here: cutting rows to fit, mending programs, tests other than the statement's own.
"""

from __future__ import annotations

import ast
import hashlib
import heapq
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from gwen25 import chat, sandbox
from gwen25.config import DatasetConfig
from gwen25.data import Message, Problem, TestCase, json_object, read_jsonl, read_lines, storable
from gwen25.errors import BadInput, Unavailable, unknown
from gwen25.job import Job, Result, main
from gwen25.mining import accepts_several_outputs, mine_examples
from gwen25.sandbox.compare import tolerance_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# why a row is dropped, in the order in which it is asked, and what to do where a reason takes every row
REASONS: Final[dict[str, str]] = {
    "not_sampled": "raise dataset.max_samples",
    "not_text": "take lone surrogates (half a character, written \\udXXX in JSON) out of the text",
    "no_statement": "take a configuration whose `input` holds the statement: split_0 does, split_1 does not",
    "no_output": "take rows whose `output` is a reasoning trace",
    "special_token": "take the model's special tokens out of the text",
    "unfinished_reasoning": "an `output` is its reasoning, </think>, and the answer",
    "no_reasoning": "an `output` has its reasoning before </think>; dataset.target=solution asks for none",
    "no_code": "an `output` has a fenced python block after </think>",
    "unfinished_code": "an `output` closes its last fence",
    "not_python": "programs must be Python 3",
    "ambiguous_format": "take <think> out of the reasoning, and lines that begin with a fence out of the program",
    "duplicate": "the same statement and program came before",
    "too_long": "raise dataset.max_length, take shorter rows, or leave the reasoning out: dataset.target=solution",
    "seam": "the tokenizer merges the end of the prompt with the start of the answer",
    "fails_examples": "the programs fail the examples of their statements; dataset.verify_solutions=false keeps them",
}
MALFORMED: Final = "malformed"  # no reason to drop a row: the stage stops at it, and only `check_file` goes on
COLUMNS: Final = ("id", "input", "output")  # the ones needed; source, license, difficulty, starter_code, func_name are read where they are
TEXTS: Final = (*COLUMNS, "source", "license", "difficulty", "starter_code", "func_name")
CHUNK: Final = 64  # rows in memory at once; the longest make some 30 MB of text and ids
SHUFFLE_BUFFER: Final = 1000  # rows over which the hub's stream is shuffled, some 25 MB
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Raw:
    """A row as it was read; `where` names it in an error."""

    where: str
    columns: dict[str, Any]


class Checked(NamedTuple):
    """A line of a user's file. `reason` None: it would be kept; MALFORMED: `detail` says why it is no row."""

    where: str
    reason: str | None
    detail: str = ""


@dataclass(slots=True)
class Row:
    """A row whose parts are known. `verified`: its program passed the statement's examples."""

    problem: Problem
    messages: list[Message]
    reasoning: str
    code: str
    source: str
    license: str
    prompt_tokens: int = 0
    tokens: int = 0  # prompt, answer and end token
    verified: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the rows. `dropped` is by reason, `noted` counts what is worth knowing of rows that were kept."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)


def run(job: Job) -> Result:
    """Make the rows.

    Raises BadInput for data that cannot be read, or of which nothing is left; Unavailable for a hub or a sandbox that is away.
    """
    config: DatasetConfig = job.config
    tokenizer = tokenizer_file(job)
    filters = Filters(config, load_tokenizer(tokenizer), workers=job.runtime.sandbox_workers)
    tally, lengths, statements = filters.tally, list[int](), list[str]()
    kept = job.aside / "kept.jsonl"  # in order; divided when all statements are known
    with kept.open("w", encoding="utf-8") as out:
        for chunk in _chunks(_source(job, tally)):
            for row in filters.judge(chunk):
                if isinstance(row, Row):
                    lengths.append(row.tokens)
                    statements.append(_statement_digest(row.problem))
                    out.write(_line(_record(row, config)))
            job.progress(tally.read, None, kept=tally.kept)
    assert tally.read == tally.kept + tally.dropped.total()
    if not tally.kept:
        raise BadInput(_nothing_left(config, tally))
    heldout = choose_heldout(statements, config.heldout_fraction, config.seed)
    counts = _divide(kept, job.payload, statements, heldout)
    kept.unlink()
    if "grpo_data" in job.locations:
        counts = _take_problems(Path(job.locations["grpo_data"]), job.payload, filters, heldout, counts)
    if not counts["grpo"]:
        job.warn(f"no prompt has at most dataset.max_prompt_length = {config.max_prompt_length} tokens: there are no rows for GRPO")
    dropped = ", ".join(f"{count} {reason}" for reason, count in tally.dropped.items() if count) or "none"
    job.say(f"{tally.read} rows read, {tally.kept} kept ({counts['train']} train, {counts['heldout']} held out); dropped: {dropped}")
    if "grpo_data" in job.locations:
        left_out = f"{counts['grpo_held_out']} left out that are held out, {counts['grpo_prompt_too_long']} with a prompt that is too long"
        job.say(f"{counts['grpo']} problems of {config.grpo_source} for GRPO; {left_out}")
    return Result(_facts(job, tokenizer, counts), _metrics(tally, lengths, counts))


def check_file(file: Path, config: DatasetConfig, tokenizer: Path, workers: int = 2) -> Iterator[Checked]:
    """Each line of a file with the reason that would drop it, MALFORMED for one that is no row: the stage would stop at that one.

    Raises BadInput for a file that is not there, or holds no line.
    """
    filters, some = Filters(config, load_tokenizer(tokenizer), workers=workers), False
    for chunk in _chunks(_lines(file)):
        some = True
        judged = iter(filters.judge([line for line in chunk if isinstance(line, Raw)]))
        for line in chunk:
            if isinstance(line, Checked):
                yield line
            else:
                row = next(judged)
                yield Checked(line.where, row if isinstance(row, str) else None)
    if not some:
        raise _no_rows(file)


def _lines(file: Path) -> Iterator[Raw | Checked]:
    """Each line as a row, or as what is wrong with it; the last one says where the file breaks off."""
    number = 0
    try:
        for number, line in read_lines(file):
            where = f"{file}, line {number}"
            try:
                columns = json_object(where, line)
                check_columns(where, columns)
                yield Raw(where, columns)
            except BadInput as error:
                yield Checked(where, MALFORMED, str(error).removeprefix(f"{where}: "))
    except BadInput as error:
        if number == 0:
            raise
        yield Checked(f"{file}, after line {number}", MALFORMED, str(error).removeprefix(f"{file}, after line {number}: "))


# Where rows come from


def _source(job: Job, tally: Tally) -> Iterator[Raw]:
    config: DatasetConfig = job.config
    if "data" in job.locations:
        return local_rows(Path(job.locations["data"]), config.max_samples, config.seed, tally)
    return hub_rows(config, job.externals["data"]["revision"], tally)


def local_rows(file: Path, max_samples: int | None, seed: int, tally: Tally) -> Iterator[Raw]:
    """The sampled rows of a .jsonl or .jsonl.gz file, in its order; the others are tallied as not sampled.

    Every line is checked before the first row is given. The hash of seed and line number decides, so that a larger sample
    holds a smaller one.
    """
    lowest: list[tuple[int, int]] = []  # a heap of (-rank, line number)
    for number, columns in read_jsonl(file):
        check_columns(f"{file}, line {number}", columns)
        tally.read += 1
        if max_samples is None or len(lowest) < max_samples:
            heapq.heappush(lowest, (-_rank(seed, str(number)), number))
        else:
            heapq.heappushpop(lowest, (-_rank(seed, str(number)), number))
    if not lowest:
        raise _no_rows(file)
    tally.dropped["not_sampled"] += tally.read - len(lowest)
    sample = {number for _, number in lowest}
    for number, columns in read_jsonl(file):
        if number in sample:
            yield Raw(f"{file}, line {number}", columns)


def _no_rows(file: Path) -> BadInput:
    return BadInput(f"{file} holds no rows; one JSON object a line is expected, with the columns {', '.join(COLUMNS)}")


def hub_rows(config: DatasetConfig, revision: str | None, tally: Tally) -> Iterator[Raw]:
    """`max_samples` rows of the hub's stream, shuffled by seed over a bounded buffer; all of them, in order, where it is None."""
    import httpx2  # the client of huggingface_hub; its transport errors are no OSErrors
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name = f"data set {config.source} (name {config.name}, split {config.split})"
    try:
        stream = load_dataset(config.source, config.name, split=config.split, streaming=True, revision=revision)
        if config.max_samples is not None:
            stream = stream.shuffle(seed=config.seed, buffer_size=SHUFFLE_BUFFER)
        for number, columns in enumerate(islice(stream, config.max_samples), 1):
            check_columns(f"{name}, row {number}", columns)
            tally.read += 1
            yield Raw(f"{name}, row {number}", dict(columns))
    except (DatasetsError, ValueError) as error:  # a name or a split that is not there is a ValueError
        raise BadInput(f"{name}: {' '.join(str(error).split())}") from error
    except (OSError, httpx2.HTTPError) as error:
        raise Unavailable(f"{name}: the hub stopped answering ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error


def check_columns(where: str, columns: Mapping[str, Any]) -> None:
    """Raises BadInput for a row without a needed column, or whose text is no text. A null is for the filters."""
    for name in COLUMNS:
        if name not in columns:
            found = ", ".join(map(str, columns)) or "nothing"
            raise BadInput(f"{where}: no column {name!r}; OpenCodeReasoning's schema is expected ({', '.join(COLUMNS)}), found: {found}")
        if name != "id" and not isinstance(columns[name], str | None):
            raise BadInput(f"{where}: column {name!r} holds {type(columns[name]).__name__}, text is expected")


def tokenizer_file(job: Job) -> Path:
    """The base model's tokenizer.json. Raises BadInput where a directory holds none, Unavailable where the hub does not give it."""
    if "tokenizer" in job.locations:
        file = Path(job.locations["tokenizer"]) / "tokenizer.json"
        if not file.is_file():
            raise BadInput(f"{file.parent} holds no tokenizer.json; set base_model to a directory with a fast tokenizer, or to a hub id")
        return file
    import httpx2  # the client of huggingface_hub; its transport errors are no OSErrors
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    model, revision = job.config.base_model, job.externals["tokenizer"]["revision"]
    try:
        return Path(hf_hub_download(model, "tokenizer.json", revision=revision))
    except LocalEntryNotFoundError as error:  # the hub is away and the cache does not hold it
        raise Unavailable(f"the tokenizer of {model} cannot be had: {' '.join(str(error).split())[:200]}") from error
    except EntryNotFoundError as error:
        raise BadInput(f"{model} holds no tokenizer.json at {revision}; a base model needs a fast tokenizer") from error
    except (OSError, httpx2.HTTPError) as error:
        raise Unavailable(f"the tokenizer of {model} cannot be had: {' '.join(str(error).split())[:200]}") from error


def load_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer, without cutting or padding. Raises BadInput for a file that is not one."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises a bare Exception
        raise BadInput(f"{file} is not a tokenizer ({' '.join(str(error).split())[:200]})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


# What is kept


class Filters:
    """The filters in their order, and the tally of what they let through. Remembers the rows it has seen, for repetitions."""

    def __init__(self, config: DatasetConfig, tokenizer: Tokenizer, *, workers: int):
        if config.chat_format not in chat.FORMATS:
            raise unknown("chat format", config.chat_format, chat.FORMATS)
        self.config, self.format, self.tokenizer, self.workers = config, chat.FORMATS[config.chat_format], tokenizer, workers
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        self.special = sorted({*added, *self.format.stop, self.format.eos, self.format.pad})
        self.seen: set[str] = set()
        self.tally = Tally()

    def judge(self, chunk: Sequence[Raw]) -> list[Row | str]:
        """For each row of the chunk the Row that is kept, or the reason why it is not. Tallies both."""
        read = [self._read(raw.columns) for raw in chunk]
        rows = [row for row in read if isinstance(row, Row)]
        lost = self._measure(rows)
        lost |= self._verify([row for row in rows if id(row) not in lost])
        judged = [lost.get(id(row), row) if isinstance(row, Row) else row for row in read]
        self.tally.dropped.update(row for row in judged if isinstance(row, str))
        self.tally.kept += sum(isinstance(row, Row) for row in judged)
        return judged

    def _read(self, columns: Mapping[str, Any]) -> Row | str:
        """The parts of a row, or the reason why it has none."""
        statement, output = columns["input"], columns["output"]
        if not all(storable(text) for name in TEXTS if isinstance(text := columns.get(name), str)):
            return "not_text"
        if statement is None or statement.strip() in ("", "-"):
            return "no_statement"
        if output is None or not output.strip():
            return "no_output"
        if any(token in text for text in (statement, output) for token in self.special):
            return "special_token"
        answer = self.format.parse(output)
        if answer.reasoning is None:
            return "unfinished_reasoning"
        taught = answer.reasoning if self.config.target == "reasoning" else ""
        if self.config.target == "reasoning" and not taught:
            return "no_reasoning"
        if answer.code is None or not answer.code.strip():
            return "no_code"
        if not answer.finished:
            return "unfinished_code"
        if not is_python(answer.code):
            return "not_python"
        again = self.format.parse(self.format.answer(taught, answer.code))
        if not again.well_formed or again.reasoning != taught:
            return "ambiguous_format"
        seen = _digest(_words(statement), answer.code.strip())
        if seen in self.seen:
            return "duplicate"
        self.seen.add(seen)
        return _row(columns, statement, taught, answer.code)

    def _measure(self, rows: list[Row]) -> dict[int, str]:
        """Count tokens; the rows (by identity) that are too long, or whose ids differ together and apart."""
        prompts = [self.format.render(row.messages) for row in rows]
        answers = [self.format.answer(row.reasoning, row.code) for row in rows]
        apart = list(zip(self._ids(prompts), self._ids(answers), strict=True))
        lost, fitting = {}, []
        for at, (row, (before, after)) in enumerate(zip(rows, apart, strict=True)):
            row.prompt_tokens, row.tokens = len(before), len(before) + len(after) + 1
            if row.tokens > self.config.max_length:
                lost[id(row)] = "too_long"
            else:
                fitting.append(at)
        together = self._ids([prompts[at] + answers[at] for at in fitting])
        for at, ids in zip(fitting, together, strict=True):
            if ids != apart[at][0] + apart[at][1]:
                lost[id(rows[at])] = "seam"
        return lost

    def prompt_fits(self, problem: Problem) -> bool:
        """Whether the problem's prompt has at most dataset.max_prompt_length tokens. Raises BadInput where it holds a special token."""
        if met := [token for token in self.special if token in problem.statement]:
            raise BadInput(f"question {problem.id} holds {met[0]!r}, a special token of the model; take it out of the statement")
        return len(self._ids([self.format.render(chat.problem_messages(problem))])[0]) <= self.config.max_prompt_length

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _verify(self, rows: list[Row]) -> dict[int, str]:
        """Run programs on their statements' examples; the rows (by identity) that fail. Unknown is not a failure."""
        self.tally.noted["without_examples"] += sum(not row.problem.tests for row in rows)
        if not self.config.verify_solutions:
            return {}
        tested = [row for row in rows if row.problem.tests]
        self.tally.noted.update(dict.fromkeys(("examples_passed", "examples_unknown", "examples_undecided"), 0))  # asked, so known
        verdicts = sandbox.grade_many([_judged(row) for row in tested], workers=self.workers) if tested else []
        lost = {}
        for row, verdict in zip(tested, verdicts, strict=True):
            row.verified = verdict.passed
            if verdict.passed:
                self.tally.noted["examples_passed"] += 1
            elif verdict.status == "unknown":
                self.tally.noted["examples_unknown"] += 1
            elif verdict.status == "wrong" and accepts_several_outputs(row.problem.statement):
                self.tally.noted["examples_undecided"] += 1  # another output than the example's may be right
            else:
                lost[id(row)] = "fails_examples"
        return lost


def _row(columns: Mapping[str, Any], statement: str, reasoning: str, code: str) -> Row:
    starter_code, func_name = str(columns.get("starter_code") or ""), columns.get("func_name") or None
    problem = Problem(
        id=str(columns["id"]),
        statement=statement,
        tests=() if starter_code or func_name else mine_examples(statement),  # examples in prose do not say how to call
        difficulty=str(columns.get("difficulty") or "unknown"),
        starter_code=starter_code,
        func_name=func_name,
    )
    source, license = (str(columns.get(name) or "unknown") for name in ("source", "license"))
    return Row(problem, chat.problem_messages(problem), reasoning, code, source, license)


def _judged(row: Row) -> sandbox.Job:
    return sandbox.Job(row.code, row.problem.tests, tolerance=tolerance_of(row.problem.statement))


def is_python(code: str) -> bool:
    """True where the program parses. Nothing is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a SyntaxWarning about an escape is no verdict
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # null bytes; nesting too deep for the parser
        return False
    return True


# What is written


def choose_heldout(statements: Iterable[str], fraction: float, seed: int) -> set[str]:
    """The statements that training does not see: the number nearest to the fraction, but one at least, and one at least is left.

    None where the fraction is 0 or there is only one statement. The hash of seed and statement decides.
    """
    distinct = sorted(set(statements), key=lambda statement: (_rank(seed, statement), statement))
    if not fraction or len(distinct) < 2:
        return set()
    return set(distinct[: min(len(distinct) - 1, max(1, round(fraction * len(distinct))))])


def _record(row: Row, config: DatasetConfig) -> dict[str, Any]:
    """A kept row as it waits to be divided: its line for SFT, and what GRPO adds.

    Tests that a right program may fail are no tests: they go where the statement accepts other outputs, and where programs
    were run but this one could not be judged.
    """
    problem = row.problem
    trusted = (row.verified or not config.verify_solutions) and not accepts_several_outputs(problem.statement)
    return {
        "sft": {
            "id": problem.id,
            "messages": row.messages,
            "reasoning": row.reasoning,
            "code": row.code,
            "source": row.source,
            "difficulty": problem.difficulty,
            "license": row.license,
            "tokens": row.tokens,
        },
        "grpo": _grpo_record(problem, problem.tests[: config.max_tests] if trusted else ()),
        "fits": row.prompt_tokens <= config.max_prompt_length,
    }


def _grpo_record(problem: Problem, tests: Sequence[TestCase]) -> dict[str, Any]:
    return {
        "id": problem.id,
        "messages": chat.problem_messages(problem),
        "tests": [asdict(test) for test in tests],
        "func_name": problem.func_name,
        "starter_code": problem.starter_code,
        "difficulty": problem.difficulty,
    }


def _divide(kept: Path, payload: Path, statements: Sequence[str], heldout: set[str]) -> Counter[str]:
    """Write the three files from the kept rows, in their order. Counts rows by file, and licenses as `license:NAME`."""
    counts, asked = Counter[str](), set[str]()
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((payload / f"{name}.jsonl").open("w", encoding="utf-8")) for name in ("train", "heldout", "grpo")
        }

        def write(name: str, row: Mapping[str, Any]) -> None:
            files[name].write(_line(row))
            counts[name] += 1

        for statement, (_, record) in zip(statements, read_jsonl(kept), strict=True):
            write("heldout" if statement in heldout else "train", record["sft"])
            counts[f"license:{record['sft']['license']}"] += 1
            if statement in heldout or statement in asked:
                continue
            asked.add(statement)
            if record["fits"]:
                write("grpo", record["grpo"])
                counts["grpo_with_tests"] += bool(record["grpo"]["tests"])
            else:
                counts["grpo_prompt_too_long"] += 1
    return counts


def _take_problems(file: Path, payload: Path, filters: Filters, heldout: set[str], counts: Counter[str]) -> Counter[str]:
    """Write grpo.jsonl anew, from problems in LiveCodeBench's schema; returns the counts with it."""
    from gwen25.benchmarks.problems import read

    counts = Counter({name: count for name, count in counts.items() if not name.startswith("grpo")})
    with (payload / "grpo.jsonl").open("w", encoding="utf-8") as out:
        for problem in read([file]):
            if _statement_digest(problem) in heldout:
                counts["grpo_held_out"] += 1
            elif filters.prompt_fits(problem):
                out.write(_line(_grpo_record(problem, problem.tests[: filters.config.max_tests])))
                counts.update(("grpo", "grpo_with_tests"))
            else:
                counts["grpo_prompt_too_long"] += 1
    return counts


def _facts(job: Job, tokenizer: Path, counts: Counter[str]) -> dict[str, Any]:
    config: DatasetConfig = job.config
    return {
        "data": dict(job.externals.get("data", {})),
        **({"grpo_data": dict(job.externals["grpo_data"])} if "grpo_data" in job.externals else {}),
        "target": config.target,
        "rows_train": counts["train"],
        "rows_heldout": counts["heldout"],
        "rows_grpo": counts["grpo"],
        "rows_grpo_with_tests": counts["grpo_with_tests"],
        "solutions_verified": config.verify_solutions,
        "chat_format": {"name": config.chat_format, "digest": chat.FORMATS[config.chat_format].digest},
        "tokenizer": hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
        "licenses": {name.removeprefix("license:"): count for name, count in sorted(counts.items()) if name.startswith("license:")},
    }


def _metrics(tally: Tally, lengths: list[int], counts: Counter[str]) -> dict[str, Any]:
    """Counts, and the lengths of kept rows in tokens. What examples say is absent where no program was run."""
    ordered = sorted(lengths)
    return {
        "rows_read": tally.read,
        "rows_kept": tally.kept,
        "dropped": {reason: tally.dropped[reason] for reason in REASONS},
        "grpo_prompt_too_long": counts["grpo_prompt_too_long"],
        **tally.noted,
        "tokens": {
            "total": sum(ordered),
            "min": ordered[0],
            "median": ordered[len(ordered) // 2],
            "p90": ordered[len(ordered) * 9 // 10],
            "max": ordered[-1],
        },
    }


def _nothing_left(config: DatasetConfig, tally: Tally) -> str:
    took = [(count, reason) for reason in REASONS if (count := tally.dropped[reason])]
    most = max(took)[1] if took else "not_sampled"
    lost = ", ".join(f"{count} {reason}" for count, reason in took)
    return f"{config.source}: of {tally.read} rows none is left (dropped: {lost}); mostly {most}: {REASONS[most]}"


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _rank(seed: int, name: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _words(text: str) -> str:
    """Text less its layout: two statements that differ in blanks alone are one."""
    return " ".join(text.split())


def _statement_digest(problem: Problem) -> str:
    return _digest(_words(problem.statement))


if __name__ == "__main__":
    main(run)
