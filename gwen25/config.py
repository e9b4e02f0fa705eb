"""What a run intends: strict, frozen sections. The defaults are the reference recipe.

    load_config(profile="smoke", overrides={"grpo.max_steps": 8})

Precedence: defaults < recipe < profile < `--config FILE` < AUTO_HPARAMS < `--set section.key=value`. Field names are TRL's, PEFT's and
llama.cpp's own, so that one name is found from YAML to trainer. `base_model`, `seed` and `chat_format` are written once at
the top and pushed into each section that has them. The environment decides nothing here but AUTO_HPARAMS (read once, here);
secrets never enter a config.

Keyed fields change numbers; the unkeyed `runtime` block says only where and how the same numbers are computed. The
micro-batch is keyed as its product with the accumulation: see `stage.keyed_section`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from gwen25.errors import BadInput, unknown

Dtype = Literal["bfloat16", "float16", "float32"]
GgufType = Literal["f32", "f16", "bf16", "q8_0", "q2_k", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"]
StageName = Literal["dataset", "sft", "grpo", "adapters", "merge", "gguf", "score", "ollama", "evaluate"]


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is not None or parts.query:
        # the value itself must not be told again: configs are kept and shown
        raise PydanticCustomError("secret", "holds a user name, password or query; secrets come from the environment (OPENAI_API_KEY)")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("http(s)://host[:port][/path] is expected")
    return url


def _day(value: object) -> object:
    """YAML reads 2024-03-01 as a date; JSON and the command line give text."""
    try:
        return date.fromisoformat(value).isoformat() if isinstance(value, str) else value.isoformat() if isinstance(value, date) else value
    except ValueError:
        raise ValueError("a day such as 2024-03-01 is expected") from None


def _named(name: str) -> str:
    if not name.strip():  # as a path it would be the current folder
        raise ValueError("a hub id, a directory or sample:tiny-qwen2 is expected")
    return name


def _off(value: object) -> object:
    """YAML reads the word off as false."""
    return "off" if value is False else value


BaseUrl = Annotated[str, AfterValidator(_plain_url)]
Day = Annotated[str, BeforeValidator(_day)]
ModelName = Annotated[str, AfterValidator(_named)]


class Section(BaseModel):
    """One stage's intentions."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(Section):
    """A section that is told the model, the seed and the format; they are written once, at the top of the config."""

    base_model: ModelName = Field("Qwen/Qwen2.5-3B", description="hub id, directory, or sample:tiny-qwen2")
    seed: int = Field(42, ge=0, lt=2**32, description="seed of every random choice in this stage")
    chat_format: str = Field("chatml-think", description="name in gwen25.chat.FORMATS")


class DatasetConfig(ModelSection):
    source: str = Field("nvidia/OpenCodeReasoning", description="hub id, a .jsonl or .jsonl.gz file in its schema, or samples")
    name: str = Field("split_0", description="the hub data set's configuration")
    split: str = Field("split_0", description="the hub data set's split")
    max_samples: int | None = Field(
        100, ge=1, description="rows to consider, drawn by seed; null takes all (the reference runs took 80-100)"
    )
    max_length: int = Field(32768, ge=64, description="tokens of prompt and target together; longer rows are dropped, never cut")
    max_prompt_length: int = Field(2048, ge=16, description="tokens of a GRPO prompt; longer ones are left out of the GRPO rows")
    heldout_fraction: float = Field(0.05, ge=0, lt=1, description="fraction of statements held out of training")
    target: Literal["reasoning", "solution"] = Field(
        "reasoning", description="what SFT teaches: reasoning and program; or the program behind a think block that is closed at once"
    )
    max_tests: int = Field(16, ge=1, description="tests kept of a GRPO row")
    grpo_source: str | None = Field(
        None, description="a .jsonl or .jsonl.gz file of problems in LiveCodeBench's schema for GRPO; null: the rows' own statements"
    )
    verify_solutions: bool = Field(True, description="run each row's program on its statement's examples; drop the row where it fails")


class TrainingSection(ModelSection):
    """What SFT and GRPO share. Names and meanings are those of transformers.TrainingArguments."""

    learning_rate: float = Field(2e-4, gt=0, le=1)
    per_device_train_batch_size: int = Field(1, ge=1, description="rows of one micro-batch (GRPO: completions)")
    gradient_accumulation_steps: int = Field(2, ge=1, description="micro-batches of one optimizer step")
    optim: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch"] = Field("adamw_8bit", description="adamw_8bit is bitsandbytes'")
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(5, ge=0, description="optimizer steps")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    max_grad_norm: float = Field(1.0, gt=0)
    dtype: Dtype = Field("bfloat16", description="of the base weights and the arithmetic")
    load_in_4bit: bool = Field(False, description="NF4 base weights (QLoRA) for small GPUs")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = Field(True, description="recompute activations: slower by about a third, far less memory")
    logging_steps: int = Field(1, ge=1)
    save_steps: int = Field(25, ge=1, description="optimizer steps between checkpoints: the most that a death can cost")


class SftConfig(TrainingSection):
    num_train_epochs: float = Field(2, gt=0)
    max_steps: int = Field(-1, ge=-1, description="optimizer steps; -1: as num_train_epochs says")
    max_length: int = Field(32768, ge=64, description="tokens of a row; the data set's rows must fit")
    lora_r: int = Field(32, ge=1, description="rank")
    lora_alpha: int = Field(64, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    packing: bool = Field(
        False, description="lay whole rows end to end in sequences of max_length tokens, none seeing another: no padding is computed"
    )
    use_rslora: bool = Field(False, description="scale the product by lora_alpha / sqrt(rank) instead of lora_alpha / rank")
    use_dora: bool = Field(False, description="train each weight row's magnitude apart from its direction: slower, more memory")
    neftune_noise_alpha: float | None = Field(None, gt=0, description="uniform noise on the embeddings in training (NEFTune); 5 is usual")
    use_kernels: bool = Field(False, description="layers from the hub's kernels where it has them; needs the package kernels, and the hub")
    trainable_chat_tokens: bool = Field(
        False, description="train the embedding rows of <|im_start|> and <|im_end|> too (PEFT's trainable_token_indices)"
    )
    checkpoint_choice: Literal["last", "heldout_loss", "heldout_execution"] = Field(
        "last", description="whose adapter is kept: the last step's, or of the checkpoints the one with the best held-out loss or programs"
    )
    choice_max_tokens: int = Field(2048, ge=1, description="heldout_execution: tokens of an answer; reasoning takes most of them")
    auto_hparams: bool = Field(False, description="take learning rate, accumulation and warm-up from the data set's size (AUTO_HPARAMS=1)")

    @model_validator(mode="after")
    def _noise_is_a_rows_own(self) -> Self:
        if self.packing and self.neftune_noise_alpha is not None:
            raise ValueError(
                "sft.neftune_noise_alpha needs sft.packing=false: its noise falls with a sequence's length, and packed rows would get less"
            )
        return self


class JudgeConfig(Section):
    """The judge of answers that have no tests. Its key comes from GEMINI_API_KEY or GOOGLE_API_KEY (openai: OPENAI_API_KEY)."""

    provider: Literal["google-genai", "google-generativeai", "openai"] = "google-genai"
    model: str = Field("gemini-3.8-flash", description="the judging model's name at its provider")
    base_url: BaseUrl | None = Field(None, description="another endpoint of the same API; null is the provider's own")
    timeout_seconds: float = Field(60, gt=0, description="wall seconds of one request")
    max_retries: int = Field(3, ge=0, description="further tries of a request that the service may answer later")
    max_concurrency: int = Field(4, ge=1, description="requests in flight")
    max_calls: int | None = Field(None, ge=0, description="requests of one stage; past it a score is unknown. null: no bound")


class GrpoConfig(TrainingSection):
    learning_rate: float = Field(5e-5, gt=0, le=1)
    gradient_accumulation_steps: int = Field(
        4, ge=1, description="micro-batches of one optimizer step; with the micro-batch a multiple of num_generations"
    )
    max_steps: int = Field(100, ge=1, description="optimizer steps")
    num_generations: int = Field(4, ge=2, description="completions of one prompt: the group that advantages compare")
    temperature: float = Field(0.6, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_completion_length: int = Field(8192, ge=8, description="tokens of a completion")
    mask_truncated_completions: bool = Field(True, description="a completion cut by the limit teaches nothing")
    beta: float = Field(0.04, ge=0, description="weight of the KL to the SFT policy; 0 drops it")
    epsilon: float = Field(0.2, gt=0, description="clipping of the probability ratio")
    epsilon_high: float | None = Field(
        None, gt=0, description="clipping from above; null: as epsilon. DAPO: 0.28; loss_type cispo needs it, for the ratio itself (5.0)"
    )
    delta: float | None = Field(None, gt=1, description="two-sided clipping: a ratio above it is cut to it (above 1 + epsilon); null: off")
    num_iterations: int = Field(1, ge=1, description="optimizer steps taken on the same completions")
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="a probability ratio for each token, or one for the sequence (GSPO); loss_type luspo asks for sequence"
    )
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        "sum_then_normalize", description="rewards are summed, then scaled; or each is scaled by itself first (GDPO)"
    )
    redraw_zero_spread: int = Field(
        0, ge=0, description="rounds a step in which groups whose rewards are all alike are replaced by further prompts' (DAPO); 0: none"
    )
    save_steps: int = Field(1, ge=1, description="optimizer steps between checkpoints; a step on a GPU takes minutes, a checkpoint seconds")
    rewards: tuple[str, ...] = Field(
        ("format_exact", "format_approximate", "execution", "judge"), description="names in gwen25.rewards.REWARDS"
    )
    reward_weights: dict[str, float] = Field(default_factory=dict, description="by name; the rewards' own defaults where absent")
    soft_punish_cache: int | None = Field(
        None, ge=1, description="reward overlong: tokens below max_completion_length over which its penalty grows; null: a fifth of it"
    )
    execution_reward: Literal["all", "fraction"] = Field(
        "all", description="1 where all tests pass, else 0; or the fraction that passes, which pays constant answers too"
    )
    shuffle_rewards: bool = Field(
        False, description="a control: the rewards of each group are dealt out among its completions at random, and nothing can be learnt"
    )
    none_policy: Literal["completion", "group"] = Field(
        "completion", description="a correctness reward that is unknown: drop that completion, or that reward for its whole group"
    )
    min_reward_coverage: float = Field(
        0.8, ge=0, le=1, description="share of completions with a known correctness; below it the stage stops"
    )
    coverage_window: int = Field(10, ge=1, description="optimizer steps over which coverage is taken")
    allow_format_only: bool = Field(False, description="train on format alone where rows have neither tests nor a judge")
    judge: JudgeConfig = JudgeConfig()
    judge_agreement: int = Field(
        0, ge=0, description="programs a step that were run and are shown to the judge too, to compare; takes up to half of judge.max_calls"
    )
    log_completions_steps: int = Field(5, ge=1, description="optimizer steps between samples: a group's completions with their rewards")
    vllm: Annotated[Literal["off", "colocate", "server"], BeforeValidator(_off)] = Field(
        "off", description="what samples: Transformers (off), vLLM in this process (colocate), or a vLLM server of TRL's (server)"
    )
    vllm_gpu_memory_utilization: float = Field(
        0.3, gt=0, lt=1, description="colocate: share of the GPU that vLLM takes, for its copy of the weights and its KV cache"
    )
    vllm_enable_sleep_mode: bool = Field(True, description="colocate: vLLM gives its memory back while the trainer works")
    vllm_max_model_length: int | None = Field(None, ge=16, description="colocate: tokens of prompt and answer; null: of the longest")
    vllm_server_base_url: BaseUrl | None = Field(None, description="server: of `trl vllm-serve`, such as http://127.0.0.1:8000")
    vllm_importance_sampling_correction: bool = Field(True, description="weigh what vLLM sampled by the trainer's own probabilities")
    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = Field(
        "sequence_mask", description="a weight for each token or sequence, cut to the two bounds below, or left out beyond them"
    )
    vllm_importance_sampling_clip_max: float | None = Field(3.0, gt=0, description="the highest weight; null: none")
    vllm_importance_sampling_clip_min: float | None = Field(None, gt=0, description="the lowest weight; null: none")

    @model_validator(mode="after")
    def _trl_can_compute(self) -> Self:
        """What TRL or its loss would refuse, or quietly do otherwise."""
        if self.loss_type == "luspo" and self.importance_sampling_level != "sequence":
            raise ValueError("grpo.loss_type=luspo needs grpo.importance_sampling_level=sequence: it is a loss of whole sequences")
        if self.delta is not None and self.loss_type in ("cispo", "sapo", "vespo"):
            raise ValueError(f"grpo.delta does nothing under grpo.loss_type={self.loss_type}, which clips otherwise; set it to null")
        above = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.loss_type == "cispo" and (self.epsilon_high is None or above < 1):
            raise ValueError(
                f"grpo.epsilon_high = {'null' if self.epsilon_high is None else f'{above:g}'} under grpo.loss_type=cispo, which bounds the "
                "ratio itself by it: set it to at least 1, such as 5.0"
            )
        if self.epsilon_high is not None and self.loss_type in ("sapo", "vespo"):
            raise ValueError(f"grpo.epsilon_high does nothing under grpo.loss_type={self.loss_type}, which clips otherwise; set it to null")
        if self.delta is not None and self.delta <= 1 + above:
            raise ValueError(
                f"grpo.delta = {self.delta:g} must be above 1 + {above:g}, where the ratio is clipped already: "
                "raise it, or lower grpo.epsilon_high"
            )
        if self.loss_type == "vespo" and self.importance_sampling_level == "sequence":
            raise ValueError(
                "grpo.loss_type=vespo weighs sequences by itself: grpo.importance_sampling_level=sequence does nothing; set it to token"
            )
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if low is not None and high is not None and low >= high:
            raise ValueError(f"grpo.vllm_importance_sampling_clip_min = {low:g} must be below vllm_importance_sampling_clip_max = {high:g}")
        if low is None and high is None and self.vllm_importance_sampling_mode.endswith("truncate"):
            raise ValueError(
                f"grpo.vllm_importance_sampling_mode={self.vllm_importance_sampling_mode} cuts weights to a bound: set "
                "grpo.vllm_importance_sampling_clip_max or grpo.vllm_importance_sampling_clip_min"
            )
        if self.soft_punish_cache is not None and self.soft_punish_cache > self.max_completion_length:
            raise ValueError(
                f"grpo.soft_punish_cache = {self.soft_punish_cache} is more than grpo.max_completion_length = {self.max_completion_length}"
            )
        if self.soft_punish_cache is not None and "overlong" not in self.rewards:
            raise ValueError("grpo.soft_punish_cache does nothing without the reward overlong: add it to grpo.rewards, or set it to null")
        if self.judge_agreement and not {"execution", "judge"} <= set(self.rewards):
            raise ValueError("grpo.judge_agreement compares two rewards: grpo.rewards must hold both execution and judge")
        return self

    @model_validator(mode="after")
    def _vllm_can_sample(self) -> Self:
        if self.vllm == "server" and self.vllm_server_base_url is None:
            raise ValueError("grpo.vllm=server needs grpo.vllm_server_base_url, such as http://127.0.0.1:8000 (trl vllm-serve)")
        if self.vllm != "off" and self.load_in_4bit:
            raise ValueError(
                f"grpo.vllm={self.vllm} needs grpo.load_in_4bit=false, or grpo.vllm=off: an adapter on 4-bit weights cannot be handed on"
            )
        return self


class AdaptersConfig(ModelSection):
    """Nothing to choose: the adapter is checked and made portable."""


class MergeConfig(Section):
    dtype: Dtype = Field("bfloat16", description="of the merged weights; products are taken in float32 and rounded once")
    max_shard_size: str = Field("5GB", pattern=r"^\d+(MB|GB)$", description="of a safetensors file, as the hub writes it")
    check_prompts: int = Field(2, ge=1, description="prompts on which the merged model's logits are held against base + adapter")


class GgufConfig(Section):
    type: GgufType = Field("q8_0", description="f32, f16, bf16, q8_0 by the gguf package; K-quants by llama.cpp's quantizer")


class ScoreConfig(Section):
    """The GGUF beside the merged model, before it is packaged. Problems are those of `evaluate`, evenly spaced by id."""

    max_problems: int = Field(16, ge=1, description="problems that both answer once, greedily")
    max_tokens: int = Field(2048, ge=1, description="tokens of an answer; llama.cpp makes them on the CPU, one after the other")
    positions: int = Field(
        2000, ge=1, description="tokens of the merged model's answers at which next-token distributions are held against each other"
    )
    top_k: int = Field(1024, ge=2, description="likeliest tokens told apart; below the vocabulary's size the KL is a lower bound")
    dtype: Dtype = Field("float32", description="of the merged model here; 16 bits would add their own rounding to the KL")
    batch_size: int = Field(8, ge=1, description="answers of the merged model made at once")
    min_top1_agreement: float | None = Field(0.8, ge=0, le=1, description="share of positions with the same first choice; null: not asked")
    max_kl: float | None = Field(0.2, ge=0, description="mean KL in nats; null: not asked")
    max_pass_drop: float | None = Field(
        None, ge=0, le=1, description="fall of pass@1 on these few problems, as 0.1; one problem of 16 is 0.06. null: not asked"
    )
    require: bool = Field(True, description="a floor that cannot be checked (no xllamacpp) is an error; false: a warning")


class OllamaConfig(Section):
    name: str = Field(
        "gwen25",
        pattern=r"^(([a-z0-9][a-z0-9.:-]{0,99}/)?[a-z0-9][a-z0-9_-]{0,79}/)?[a-z0-9][a-z0-9._-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,79})?$",
        description="name[:tag] of the model in Ollama, as its own client takes it",
    )
    num_ctx: int = Field(32768, ge=16, description="context in tokens; Ollama's own default is as small as 4096")
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    smoke: Literal["require", "report"] = Field(
        "require",
        description="three small problems at the server: all must end by themselves, parse and run before the name moves; or told only",
    )
    smoke_tokens: int = Field(8192, ge=1, description="tokens that the answer to each smoke prompt may take, where a server answers")
    timeout_seconds: float = Field(600, gt=0, description="wall seconds of one request")


class EvaluateConfig(Section):
    seed: int = Field(42, ge=0, lt=2**32)
    chat_format: str = Field("chatml-think")
    benchmark: Literal["livecodebench"] = "livecodebench"
    problems: str = Field(
        "livecodebench/code_generation_lite", description="hub data set, a .jsonl or .jsonl.gz file in its schema, or samples"
    )
    release: Literal["release_v1", "release_v2", "release_v3", "release_v4", "release_v5", "release_v6"] = "release_v1"
    start_date: Day | None = Field(None, description="contests from this day on, as 2024-03-01")
    end_date: Day | None = Field(None, description="contests up to this day")
    max_problems: int | None = Field(None, ge=1, description="the first of them by id; null takes all")
    prompt: Literal["chat", "base", "both"] = Field(
        "chat", description="ours; the benchmark's own for base models; or both, as the flow always asks the base model"
    )
    n: int = Field(5, ge=1, description="samples of each problem")
    temperature: float = Field(0.2, ge=0, description="0 is greedy")
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(16384, ge=1, description="tokens of an answer; truncated answers are counted in the report")
    backend: Literal["transformers", "openai"] = Field(
        "transformers", description="openai: any OpenAI-compatible server (vLLM, llama.cpp, Ollama)"
    )
    base_url: BaseUrl | None = Field(None, description="of the openai backend, such as http://127.0.0.1:8000/v1")
    served_model: str | None = Field(None, description="the model's name at the server; null asks the server")
    dtype: Dtype = Field("bfloat16", description="of the transformers backend")
    batch_size: int = Field(8, ge=1, description="sequences generated at once (transformers), or requests in flight (openai)")
    baseline: bool = Field(True, description="evaluate the base model too, on the same problems, under both prompts")

    @model_validator(mode="after")
    def _prompt_can_be_sent(self) -> Self:
        if self.backend == "openai" and self.prompt != "chat":
            raise ValueError(
                f"evaluate.prompt={self.prompt} needs evaluate.backend=transformers: a chat server wraps every prompt in its own template"
            )
        return self


class RuntimeConfig(Section):
    """Where and how the same numbers are computed. Never part of a key."""

    device: Literal["cuda", "cpu"] = Field("cuda", description="cuda: a GPU is needed, and its absence is an error before anything runs")
    cuda_visible_devices: str | None = Field(
        None, description="as the environment variable; null: the first visible GPU, or all where the stage has a launcher"
    )
    gpu_memory_gib: float | None = Field(
        None, gt=0, description="memory of the GPU that is meant, for `gwen25 estimate`; null asks the driver of this machine"
    )
    python: dict[StageName, str] = Field(default_factory=dict, description="interpreter by stage; the running one where absent")
    launcher: dict[StageName, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="command before `-m module`, such as [torchrun, --nproc-per-node=2]"
    )
    num_threads: int | None = Field(None, ge=1, description="CPU threads of torch; null leaves its default")
    dataloader_num_workers: int = Field(0, ge=0)
    report_to: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = Field(
        (), description="trackers that sft and grpo log to beside metrics.jsonl; keys come from the environment (WANDB_API_KEY)"
    )
    sandbox_workers: int = Field(2, ge=1, description="programs judged at once")
    grace_seconds: float = Field(20, ge=0, description="what a cancelled stage may take to checkpoint")
    timeout_seconds: float | None = Field(None, gt=0, le=31_536_000, description="wall seconds of one stage; null: no bound")
    max_retries: int = Field(
        3,
        ge=0,
        le=20,
        description="further attempts of a stage that died or found a service away; memory has its own, but none where this is 0",
    )
    retry_delay_seconds: float = Field(10, ge=0, description="before the first further attempt; doubled each time")
    start_as_fitted: bool = Field(
        True, description="begin with the micro-batch, or what else, that fitted here the last time memory ran out; false: as configured"
    )


class Config(Section):
    base_model: ModelName = ModelSection.model_fields["base_model"].default
    seed: int = Field(42, ge=0, lt=2**32)
    chat_format: str = "chatml-think"
    dataset: DatasetConfig = DatasetConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    adapters: AdaptersConfig = AdaptersConfig()
    merge: MergeConfig = MergeConfig()
    gguf: GgufConfig = GgufConfig()
    score: ScoreConfig = ScoreConfig()
    ollama: OllamaConfig = OllamaConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """What one section asks of another, and of TRL's batch arithmetic."""
        batch = self.grpo.per_device_train_batch_size * self.grpo.gradient_accumulation_steps
        if batch % self.grpo.num_generations:
            raise ValueError(
                f"grpo: per_device_train_batch_size x gradient_accumulation_steps = {batch} "
                f"must be divisible by num_generations = {self.grpo.num_generations}"
            )
        if self.grpo.vllm != "off" and self.sft.trainable_chat_tokens:
            raise ValueError(
                f"grpo.vllm={self.grpo.vllm} needs sft.trainable_chat_tokens=false, or grpo.vllm=off: vLLM takes no trained rows"
            )
        if self.dataset.max_length > self.sft.max_length:
            raise ValueError(
                f"dataset.max_length = {self.dataset.max_length} is more than sft.max_length = {self.sft.max_length}: rows would be cut"
            )
        return self


def _subsections(section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


_SECTION_PATHS: Final = frozenset({*(name for name, _ in _subsections(Config)), "grpo.judge"})
_PUSHED: Final = ("base_model", "seed", "chat_format")


def profiles() -> list[str]:
    """Names of the machine profiles."""
    return _yaml_names("gwen25.profiles")


def recipes() -> list[str]:
    """Names of the training recipes."""
    return _yaml_names("gwen25.recipes")


def load_config(
    profile: str | None = None, recipe: str = "reference", file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Merge the layers into a Config.

    `overrides` maps dotted names to values. Raises BadInput for an unknown profile, recipe, section or key (with the nearest
    right name), a wrong type or range, and a file that is missing or not YAML.
    """
    layers = [_packaged("recipe", "gwen25.recipes", recipe)]
    if profile is not None:
        layers.append(_packaged("profile", "gwen25.profiles", profile))
    if file is not None:
        layers.append(read_yaml(file))
    layers.append(_nested(auto_hparams()))
    layers.append(_nested(overrides or {}))
    values: dict[str, Any] = {}
    for layer in layers:
        _merge(values, layer)
    _refuse_unknown(Config, values, "")
    return _beside_vllm(_validate(_push(values)))


# the environment of `make vllm-env`: vLLM's pins exclude Prefect's
VLLM_PYTHON: Final = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"


def _beside_vllm(config: Config) -> Config:
    """Where vLLM samples, grpo runs in the environment that holds it, unless the config names another interpreter."""
    if config.grpo.vllm == "off" or "grpo" in config.runtime.python:
        return config
    python = {**config.runtime.python, "grpo": str(VLLM_PYTHON)}
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"python": python})})


def auto_hparams() -> dict[str, bool]:
    """What AUTO_HPARAMS sets, by dotted name: nothing where it is unset. It stands over a config file, and below `--set`."""
    auto = os.environ.get("AUTO_HPARAMS", "")
    if auto not in ("", "0", "1"):
        raise BadInput(f"AUTO_HPARAMS={auto!r}: 1 takes the recommendations, 0 does not, unset leaves it to sft.auto_hparams")
    return {"sft.auto_hparams": auto == "1"} if auto else {}


def parse_override(text: str) -> tuple[str, Any]:
    """`section.key=value` from a command line; the value is read as YAML, so numbers, null and lists work."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise BadInput(f"--set {text!r}: section.key=value is expected, such as grpo.max_steps=20")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise BadInput(f"--set {name}: the value is not YAML ({_one_line(error)})") from error
    if isinstance(parsed, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", parsed):
        parsed = float(parsed)  # YAML 1.1 reads 5e-5 as text
    return name.strip(), parsed


def _yaml_names(package: str) -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in resources.files(package).iterdir() if entry.name.endswith(".yaml"))


def _packaged(kind: str, package: str, name: str) -> dict[str, Any]:
    names = _yaml_names(package)
    if name not in names:
        raise unknown(kind, name, names)
    return _as_mapping(resources.files(package).joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"{kind} {name}")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names. Mappings that are values (reward_weights, runtime.python) stay whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value and f"{prefix}{name}" in _SECTION_PATHS:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_yaml(file: Path) -> dict[str, Any]:
    """A config file as nested sections. Raises BadInput where it is missing or not a YAML mapping."""
    try:
        return _as_mapping(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the config file {file}: {error}") from error


def _as_mapping(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise BadInput(f"{where}: not YAML ({_one_line(error)})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise BadInput(f"{where}: a mapping of sections is expected, such as `grpo:` with `max_steps: 20` below it")
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        at = values
        for part in path:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise BadInput(f"override {dotted!r}: {part!r} is given a value and a key below it")
        at[last] = value
    return values


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Later layers win key by key; lists are replaced whole."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _refuse_unknown(section: type[BaseModel], values: Mapping[str, Any], prefix: str) -> None:
    """One clear error for a name that is not there, before pydantic lists everything."""
    inner = dict(_subsections(section))
    for key, value in values.items():
        if key not in section.model_fields:
            raise _unknown_key(section, key, prefix)
        if key in inner:
            if not isinstance(value, Mapping):
                raise BadInput(
                    f"config: {prefix}{key} is a section, not a value; "
                    f"set a key of it, such as {prefix}{key}.{next(iter(inner[key].model_fields), '')}"
                )
            _refuse_unknown(inner[key], value, f"{prefix}{key}.")


def _unknown_key(section: type[BaseModel], key: str, prefix: str) -> BadInput:
    if not prefix:
        homes = [f"{name}.{key}" for name, inner in _subsections(section) if key in inner.model_fields]
        if homes:
            return BadInput(f"config: {key!r} is a key of a section: {', '.join(homes)}")
        return unknown("config section or key", key, section.model_fields)
    near = get_close_matches(key, section.model_fields, n=1)
    hint = f"; did you mean {prefix}{near[0]}?" if near else ""
    return BadInput(f"unknown config key {prefix}{key}{hint} (choose from: {', '.join(sorted(section.model_fields))})")


def _push(values: dict[str, Any]) -> dict[str, Any]:
    for name in _PUSHED:
        for section, model in _subsections(Config):
            if name not in model.model_fields:
                continue
            below = values.setdefault(section, {})
            if name in below:
                raise BadInput(f"config: {section}.{name} is set at the top of the config, as {name}, once for all sections")
            if name in values:
                below[name] = values[name]
    return values


_EXPECTED: Final = {  # by pydantic's type of an error, where its own words speak of Python
    "tuple_type": "a list is expected, such as [a, b]",
    "dict_type": "a mapping is expected, such as {a: b}",
    "string_type": "text is expected",
    "bool_type": "true or false is expected",
    "bool_parsing": "true or false is expected",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number is expected"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number is expected"),
    "too_short": "at least one is expected",
}


def _validate(values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = _EXPECTED.get(first["type"]) or re.sub(r"^(Value error, |(Input|String) (?=should))", "", first["msg"])
        given = f", not {first['input']!r}" if where and not isinstance(first["input"], dict) and first["type"] != "secret" else ""
        raise BadInput(f"config: {where + ': ' if where else ''}{message}{given}") from error
