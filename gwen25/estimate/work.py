"""Hours, judge and disk of a run: arithmetic on the config under throughputs that are stated, each with its source.

    hours(config, shape)["grpo"]         Hours(seconds=31_000, how="100 steps x ...")
    judge(config, date.today())          requests, tokens, and dollars where the price is known
    disk(config, shape)                  terms in bytes

What is not known is None and said so, never zero: the length of a file of yours, the price of a model that is not listed, the
thinking that a judge bills. Time for imports, programs and requests is left out. How many groups of GRPO agree is not known either: groups
drawn again (`grpo.redraw_zero_spread`) and programs judged beside (`grpo.judge_agreement`) are terms of their own, each at most.
Not here: memory (`memory`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from gwen25 import samples
from gwen25.benchmarks import releases
from gwen25.config import Config, GrpoConfig, SftConfig
from gwen25.estimate.memory import processes
from gwen25.estimate.terms import ADAM, FLOAT, GGUF, K_QUANT, SIZE, Term, on_gpu
from gwen25.models import Shape

# Rows of R1's reasoning under Qwen2.5's tokenizer: (tokens of a row at most, share of rows that fit, mean tokens of those). Counted
# on 738 complete rows with answers to Codeforces problems; other sources, and other tokenizers, will differ.
R1_ROWS: Final = (
    (1024, 0.003, 920),
    (2048, 0.039, 1590),
    (4096, 0.207, 2783),
    (8192, 0.516, 4755),
    (16384, 0.893, 7703),
    (24576, 0.997, 8893),
    (32768, 1.0, 8936),
)
# the same rows with their programs alone (dataset.target=solution)
R1_SOLUTIONS: Final = ((1024, 0.772, 699), (2048, 0.996, 826), (4096, 1.0, 832))
R1_SOURCE: Final = "nvidia/OpenCodeReasoning"
PROMPT: Final = 600  # mean tokens of a prompt, on the same rows
PROBLEMS: Final = {"release_v1": 400, "release_v2": 511, "release_v3": 612, "release_v4": 713, "release_v5": 880, "release_v6": 1055}
SAMPLE_ROWS: Final = 250  # tokens of a packaged row, on average
JUDGED: Final = (1100, 20)  # tokens of a request and its reply: the judge's words 250, a statement 600, a program 240; thinking left out


@dataclass(frozen=True, slots=True)
class Machine:
    """Assumed throughput. `flops`: useful arithmetic a second; a decoding step takes `step` + rows x `row` seconds for each layer."""

    name: str
    flops: float
    step: float
    row: float
    source: str


A100: Final = Machine(
    "A100", 0.35 * 312e12, 1.0e-3, 0.0, "312 TFLOP/s (data sheet) at 35 %; 1 ms a layer and step, bound by launches: assumed"
)
T4: Final = Machine(
    "T4",
    0.25 * 65e12,
    1.0e-3,
    0.15e-3,
    "65 TFLOP/s (data sheet) at 25 %: assumed; steps fitted to transformers pull request 45776's 202 tok/s",
)
CPU: Final = Machine("2 cores", 50e9, 2.0e-3, 0.2e-3, "measured with SmolLM2-135M in float32 on 2 cores without AVX-512")


@dataclass(frozen=True, slots=True)
class Hours:
    """`seconds` None: not known, and `how` says what is missing."""

    seconds: float | None
    how: str


def machine(config: Config) -> Machine:
    """By what the config says: float16 is what one chooses where there is no bfloat16."""
    if not on_gpu(config):
        return CPU
    return T4 if config.sft.dtype == "float16" else A100


# ------------------------------------------------------------------------------------------------------------------- hours


def hours(config: Config, shape: Shape) -> dict[str, Hours]:
    """By node; what GRPO draws again is `redraws`, the base model's own evaluation `baseline`. Nodes of seconds to minutes are left out."""
    found = {"sft": _sft(config, shape), "grpo": _grpo(config, shape)}
    if config.grpo.redraw_zero_spread:
        found["redraws"] = _redraws(config, shape)
    found |= {"score": _score(config, shape), "evaluate": _evaluate(config, shape, 1)}
    if config.evaluate.baseline:
        found["baseline"] = _evaluate(config, shape, 2)  # under both prompts
    return found


def rows(config: Config) -> tuple[float | None, float, str]:
    """Rows to train on, their mean tokens, and where both come from. None where the number of rows is not known."""
    given, limit = config.dataset, min(config.dataset.max_length, config.sft.max_length)
    train = 1 - given.heldout_fraction
    if given.source == R1_SOURCE:
        known, what = (R1_ROWS, "rows") if given.target == "reasoning" else (R1_SOLUTIONS, "solutions")
        _, share, mean = max((row for row in known if row[0] <= limit), default=(0, 0.0, limit))
        wanted = None if given.max_samples is None else given.max_samples * share * train
        return wanted, mean, f"{share:.1%} of R1's {what} fit {limit:,} tokens, {mean:,} on average"
    count = _lines(given.source)
    if count is not None and given.max_samples is not None:
        count = min(count, given.max_samples)
    mean, how = (SAMPLE_ROWS, "on average") if given.source == "samples" else (limit, "at most")
    return None if count is None else count * train, mean, f"rows of {mean:,} tokens {how}"


def _lines(source: str) -> int | None:
    """Rows of a local file; None for other sources, and for what cannot be counted quickly."""
    path = samples.path("rows.jsonl") if source == "samples" else Path(source).expanduser()
    if not source.endswith(".jsonl") and source != "samples":
        return None
    try:
        with path.open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return None


def _sft(config: Config, shape: Shape) -> Hours:
    section, world = config.sft, processes(config, "sft")
    count, mean, how = rows(config)
    effective = section.per_device_train_batch_size * section.gradient_accumulation_steps
    if section.max_steps > 0:
        count, epochs = float(section.max_steps * effective), 1.0
    else:
        epochs = section.num_train_epochs
    if count is None:
        return Hours(None, f"the number of rows is not known; {how}")
    tokens = count * epochs * mean
    seconds = tokens * _flops(shape, section, mean) / machine(config).flops / world
    return Hours(seconds, f"{count:,.0f} rows x {epochs:g} epochs; {how}")


def _flops(shape: Shape, section: SftConfig | GrpoConfig, length: float) -> float:
    """Arithmetic of one trained token: forward, backward to the inputs (frozen weights need no gradient), and what is made again."""
    forward = 2 * (shape.linear + shape.embedding) + 2 * length * shape.hidden_size * shape.num_hidden_layers
    return forward * (3 if section.gradient_checkpointing else 2)


def _grpo(config: Config, shape: Shape) -> Hours:
    section, world, speed = config.grpo, processes(config, "grpo"), machine(config)
    effective = _effective(section)
    prompt, answer = min(PROMPT, config.dataset.max_prompt_length), section.max_completion_length
    sampling, drawn = _sampling(config, shape), _draws(section)
    tokens = effective / world * (prompt + answer)
    update = tokens * _flops(shape, section, prompt + answer) / speed.flops
    passes = tokens * _passes(section) * 2 * shape.linear / speed.flops
    training = section.max_steps * update + drawn * passes
    if section.vllm != "off":
        known = f"{training / 3600:.1f} h of it are training"
        return Hours(None, f"vLLM samples, whose throughput is not known; {known}")
    steps = f"{section.max_steps} steps x "
    if drawn == section.max_steps:
        steps += f"({sampling:,.0f} s sampling + {update + passes:,.0f} s training)"
    else:
        steps += f"{update:,.0f} s training + {drawn} x ({sampling:,.0f} s sampling + {passes:,.0f} s of forward passes)"
    return Hours(drawn * sampling + training, f"{steps}, all {effective} answers of {answer:,} tokens")


def _passes(section: GrpoConfig) -> int:
    """Forward passes over a batch once it is drawn, under TRL's conditions: the reference's probabilities, and those at sampling.

    TRL needs the latter where a batch makes several steps, or to correct vLLM's.
    """
    at_sampling = section.num_iterations > 1 or (section.vllm != "off" and section.vllm_importance_sampling_correction)
    return (section.beta > 0) + at_sampling


def _redraws(config: Config, shape: Shape) -> Hours:
    """At most: in every round all groups of the batch are drawn again, and none ever has a spread."""
    section = config.grpo
    rounds = f"{section.redraw_zero_spread} rounds x {_draws(section)}"
    if section.vllm != "off":
        return Hours(None, f"at most {rounds} further batches, of which vLLM samples at a throughput that is not known")
    sampling = _sampling(config, shape)
    how = f"at most: {rounds} batches x {sampling:,.0f} s sampling, where no group ever has a spread"
    return Hours(section.redraw_zero_spread * _draws(section) * sampling, how)


def _sampling(config: Config, shape: Shape) -> float:
    """Seconds of one batch of answers of full length, each process its share at once."""
    speed, rows = machine(config), _effective(config.grpo) / processes(config, "grpo")
    return config.grpo.max_completion_length * shape.num_hidden_layers * (speed.step + speed.row * rows)


def _effective(section: GrpoConfig) -> int:
    """Answers of one batch, of all processes together."""
    return section.per_device_train_batch_size * section.gradient_accumulation_steps


def _draws(section: GrpoConfig) -> int:
    """Batches that are sampled: one for every `num_iterations` steps."""
    return -(-section.max_steps // section.num_iterations)


def _evaluate(config: Config, shape: Shape, prompts: int) -> Hours:
    section, speed = config.evaluate, machine(config)
    if section.backend == "openai":
        return Hours(None, "a server answers; its throughput is not known")
    count = PROBLEMS.get(section.release) if section.problems == "livecodebench/code_generation_lite" else _problems(section.problems)
    if count is None or section.start_date or section.end_date:
        return Hours(None, "the number of problems is not known")
    count = min(count, section.max_problems or count)
    answers = count * (section.n if section.temperature > 0 else 1) * prompts
    step = shape.num_hidden_layers * (speed.step + speed.row * section.batch_size)
    seconds = -(-answers // section.batch_size) * section.max_tokens * step
    return Hours(seconds, f"{answers:,} answers, {section.batch_size} at once, the longest of each batch {section.max_tokens:,} tokens")


HOST_BYTES: Final = {"A100": 40e9, "T4": 12e9, "2 cores": 8e9}  # of weights that llama.cpp reads a second on the host's CPU: assumed


def _score(config: Config, shape: Shape) -> Hours:
    """The merged model's answers in batches, then llama.cpp's, a token and a reading of the whole file at a time."""
    section, speed = config.score, machine(config)
    step = shape.num_hidden_layers * (speed.step + speed.row * section.batch_size)
    first = -(-section.max_problems // section.batch_size) * section.max_tokens * step
    tokens = section.max_problems * section.max_tokens + section.positions
    rate = HOST_BYTES[speed.name] / (shape.parameters * GGUF.get(config.gguf.type, K_QUANT))
    how = f"{tokens:,} tokens at most in llama.cpp on the CPU, {rate:.3g} a second (assumed); {first:,.0f} s of the merged model's answers"
    return Hours(first + tokens / rate, how)


def _problems(source: str) -> int | None:
    if source == "samples":
        with samples.path("problems.jsonl").open("rb") as lines:
            return sum(1 for _ in lines)
    return _lines(source)


# ------------------------------------------------------------------------------------------------------------------- judge

PRICES_READ: Final = date(2026, 10, 7)  # on ai.google.dev/gemini-api/docs/pricing, the paid tier
# dollars for a million tokens in and out, from a day on
PRICES: Final[dict[str, tuple[tuple[date, float, float], ...]]] = {
    "gemini-3.8-flash": ((date(2026, 1, 1), 0.75, 3.75), (date(2027, 1, 1), 1.50, 7.50)),
    "gemini-3.5-flash": ((date(2026, 1, 1), 1.50, 9.00),),
    "gemini-3.5-flash-lite": ((date(2026, 1, 1), 0.30, 2.50),),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One reason to ask the judge, and its requests at most."""

    name: str
    requests: int
    how: str


@dataclass(frozen=True, slots=True)
class Judging:
    """At most: equal programs are asked once, and rows with tests are not asked where `execution` is a reward too.

    Retries are left out. `requests` may be fewer than the sum of `terms`: each of them is as large as it can be, which not all can at once.
    """

    requests: int
    tokens_in: int
    tokens_out: int
    dollars: float | None
    how: str
    terms: tuple[Asked, ...]


def judge(config: Config, today: date) -> Judging | None:
    """What a run of GRPO asks at most; None where the judge is no reward. `dollars` None: the price is not known."""
    section = config.grpo
    if "judge" not in section.rewards:
        return None
    terms, requests = _asked(section), _draws(section) * (1 + section.redraw_zero_spread) * _effective(section)
    most, bound = section.judge.max_calls, ""
    if most is not None and requests > most:
        requests, bound = most, f"judge.max_calls = {most} bounds them all; "
    asked, said = requests * JUDGED[0], requests * JUDGED[1]
    known = [price for price in PRICES.get(section.judge.model, ()) if price[0] <= today]
    if not known or section.judge.base_url is not None:
        return Judging(requests, asked, said, None, f"{bound}the price of {section.judge.model} is not known here", terms)
    _, per_in, per_out = known[-1]
    dollars = (asked * per_in + said * per_out) / 1e6
    how = (
        f"{bound}{section.judge.model}: ${per_in:.2f} in, ${per_out:.2f} out a million tokens, read {PRICES_READ}; "
        "its thinking, billed as output, is not known"
    )
    return Judging(requests, asked, said, dollars, how, terms)


def _asked(section: GrpoConfig) -> tuple[Asked, ...]:
    """Why the judge is asked.

    The panel has an answer run or judged, never both, and `judge_agreement` asks about answers of the first draw that were run. With
    those that its rewards ask about they are a batch at most: agreement is paid for, but does not raise the most that can be asked.
    """
    drawn, effective, most = _draws(section), _effective(section), section.judge.max_calls
    untested = ", those of rows without tests" if "execution" in section.rewards else ""
    terms = [Asked("rewards", drawn * effective, f"{drawn} batches x {effective} answers{untested}")]
    if section.redraw_zero_spread:
        again = section.redraw_zero_spread * drawn
        how = f"{section.redraw_zero_spread} rounds x {drawn} batches x {effective} answers{untested}, where no group ever has a spread"
        terms.append(Asked("redraws", again * effective, how))
    if section.judge_agreement:
        beside = min(section.judge_agreement, effective)
        how = f"{drawn} batches x {beside} programs that were run; each is one that the rewards do not ask about"
        terms.append(Asked("agreement", drawn * beside, how))
    if most is None:
        return tuple(terms)
    bounds = {"agreement": (most // 2, f"; half of judge.max_calls = {most}")}
    return tuple(_within(term, *bounds.get(term.name, (most, f"; judge.max_calls = {most} bounds all"))) for term in terms)


def _within(term: Asked, most: int, why: str) -> Asked:
    """The term under a bound; `why` is told where it binds."""
    return term if term.requests <= most else Asked(term.name, most, term.how + why)


# -------------------------------------------------------------------------------------------------------------------- disk

CHECKPOINTS: Final = 3  # the last two, and one that is being written


# of test.jsonl, test2.jsonl ... as the hub lists them, read in 2025
RELEASE_GB: Final = (1.25, 0.71, 0.62, 1.2, 0.56, 0.13)


def disk(config: Config, shape: Shape) -> list[Term]:
    """What a whole run leaves in the store and the hub's cache, and what it needs while it runs."""
    count, lora = shape.parameters, shape.lora(config.sft.lora_r)
    packed = GGUF.get(config.gguf.type, K_QUANT)
    optimiser = max(ADAM[config.sft.optim], ADAM[config.grpo.optim])
    terms = [
        Term("base model", 2.0 * count, "as the hub holds it, in 16 bits")
        if "/" in config.base_model
        else Term("base model", 4.0 * count, "made here"),
        Term("adapters", 3.0 * lora * FLOAT, "of sft, grpo and adapters"),
        Term(
            "checkpoints",
            CHECKPOINTS * lora * (FLOAT + optimiser),
            "while a trainer runs: weights and optimiser, twice kept and once in writing",
        ),
        Term("merged model", float(count * SIZE[config.merge.dtype]), f"{count:,} x {SIZE[config.merge.dtype]} bytes"),
        Term("GGUF", count * packed, f"{config.gguf.type}; the Ollama package is a hard link to it"),
    ]
    if config.evaluate.problems == releases.REPO:
        size = sum(RELEASE_GB[: int(config.evaluate.release.removeprefix("release_v"))]) * 1e9
        terms.append(Term("benchmark", size, f"LiveCodeBench's files to {config.evaluate.release}, in the hub's cache (assumed)"))
    if config.gguf.type not in GGUF:
        terms.append(Term("plain GGUF", 2.0 * count, "while the K-quant is made"))
    return terms
