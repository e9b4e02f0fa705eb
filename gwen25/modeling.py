"""Where torch is at home: base model, tokenizer in its chat format, adapters on disk.

    directory = base_dir(job)                                    fetched from the hub at its pinned revision, or local
    tokenizer = load_tokenizer(directory, FORMATS["chatml-think"])
    model = load_base(directory, tokenizer, format, dtype="bfloat16", device="cuda")
    save_adapter(peft_model, folder, base_model) ; save_tokenizer(tokenizer, folder)

The chat format rules wherever a tokenizer or a generation config is made here: template, eos, pad and both stop tokens are
set from it, whatever the base ships. What is saved holds no path of this machine and has the same bytes for the same
content. Heavy imports are inside the functions. Not here: training (`training`), sampling (`generate`).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25 import lora, models
from gwen25.chat import FORMATS, ChatFormat
from gwen25.errors import BadInput, Unavailable, unknown
from gwen25.job import Job, write_json
from gwen25.out_of_memory import phase

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_WEIGHTS: Final = lora.WEIGHTS
ADAPTER_CONFIG: Final = lora.CONFIG
read_adapter_config = lora.read_config
# what a base model is made of; the hub's repositories also hold other formats of the same weights
_HUB_FILES: Final = ("*.json", "*.safetensors", "*.txt", "*.jinja", "README.md", "LICENSE*")


def base_dir(job: Job) -> Path:
    """The base model's directory: `job.locations`, or the hub's cache after a download at the pinned revision.

    Raises BadInput for a directory that cannot be used (`models.inspect`), Unavailable where the hub does not answer.
    """
    if (local := job.locations.get("base_model")) is not None:
        directory = Path(local)
    else:
        directory = fetch(job.externals["base_model"]["id"], job.externals["base_model"]["revision"])
    models.inspect(directory)
    return directory


def fetch(hub_id: str, revision: str) -> Path:
    """A hub model's or adapter's directory, from the hub's cache or downloaded. Raises BadInput and Unavailable as `base_dir`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(_HUB_FILES)))
    except GatedRepoError as error:
        raise BadInput(f"model {hub_id!r} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise BadInput(f"model {hub_id!r} at revision {revision} is not on the hub; check the name (private ones need HF_TOKEN)") from error
    except Exception as error:  # the hub's client raises httpx's, the OS's and its own errors, which share no root
        why = " ".join(str(error).split())[:200]
        raise Unavailable(f"model {hub_id!r} at revision {revision[:12]} could not be fetched ({type(error).__name__}: {why})") from error


def chat_format(facts: Mapping[str, Any], what: str) -> ChatFormat:
    """The format that an artifact was made in. Raises BadInput where this version of gwen25 has changed it since."""
    made = facts["chat_format"]
    if made["name"] not in FORMATS:
        raise unknown("chat format", made["name"], FORMATS)
    format = FORMATS[made["name"]]
    if format.digest != made["digest"]:
        raise BadInput(
            f"{what} was made with another version of the chat format {format.name}; train it again, or use the gwen25 that made it"
        )
    return format


def prepare(job: Job) -> str:
    """Threads, device and determinism of this process; returns "cpu" or "cuda:N" (N: the local rank under a launcher).

    On a CPU the same numbers come out bit for bit, as long as the number of threads is the same. On CUDA torch takes
    deterministic kernels where it has them and warns where it has none; two runs are meant to agree on one kind of GPU, which was not
    measured. What warn_only leaves open in the backward pass of attention is closed in `training`.
    Raises BadInput where the config asks for CUDA and torch finds none, or for bfloat16 on a GPU that has none.
    """
    import torch

    if job.runtime.num_threads is not None:
        torch.set_num_threads(job.runtime.num_threads)
    if job.runtime.device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise BadInput("runtime.device=cuda, but torch finds no GPU here; take --profile smoke or set runtime.device=cpu")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(rank)
    _require_dtype(job, torch.cuda.get_device_capability(rank))
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    return f"cuda:{rank}"


def _require_dtype(job: Job, capability: tuple[int, int]) -> None:
    """bfloat16 begins with Ampere (8.0). A Turing (T4: 7.5) or Volta emulates it, slowly, and its fused kernels refuse it."""
    if getattr(job.config, "dtype", None) == "bfloat16" and capability < (8, 0):
        raise BadInput(
            f"{job.stage}.dtype=bfloat16, but this GPU (compute capability {capability[0]}.{capability[1]}) has none: set sft.dtype, "
            "grpo.dtype, merge.dtype and evaluate.dtype to float16, and sft.load_in_4bit=true and grpo.load_in_4bit=true for its memory"
        )


def load_tokenizer(directory: Path, format: ChatFormat) -> PreTrainedTokenizerBase:
    """The directory's tokenizer with the format's template, eos and pad.

    Raises BadInput where it lacks one of the format's tokens, or adds tokens of its own to a text.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in ("<|im_start|>", format.eos, format.pad, *format.stop) if token not in vocabulary]:
        raise BadInput(f"the tokenizer in {directory} lacks {', '.join(missing)} of the chat format {format.name}")
    tokenizer.chat_template = format.jinja
    tokenizer.eos_token = format.eos
    tokenizer.pad_token = format.pad
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise BadInput(f"the tokenizer in {directory} adds tokens of its own to a text; the chat format {format.name} writes them itself")
    return tokenizer


def stop_ids(tokenizer: PreTrainedTokenizerBase, format: ChatFormat) -> list[int]:
    """Ids of the tokens that end an answer, the eos first."""
    return [tokenizer.get_vocab()[token] for token in format.stop]


def generation_config(tokenizer: PreTrainedTokenizerBase, format: ChatFormat) -> GenerationConfig:
    """Stops at every stop token and pads with the pad. The base's own limits are left out: Qwen2.5's cuts answers at 2048 tokens."""
    from transformers import GenerationConfig

    ids = {"eos_token_id": stop_ids(tokenizer, format), "pad_token_id": tokenizer.pad_token_id}
    return GenerationConfig(**ids)  # type: ignore[no-untyped-call]


def four_bit(compute_dtype: Any) -> Any:
    """NF4 with double quantization (QLoRA, arXiv:2305.14314), as Transformers' quantization_config."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute_dtype
    )


def load_base(
    directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    format: ChatFormat,
    *,
    dtype: str,
    device: str = "cpu",
    load_in_4bit: bool = False,
    attn_implementation: str = "sdpa",
) -> PreTrainedModel:
    """A causal language model that knows the format's eos, pad and stop tokens. `dtype` is torch's name of it.

    4-bit computes in `dtype`: see `four_bit`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _quiet()
    kind = getattr(torch, dtype)
    with phase("loading"):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=kind,
            device_map=None if device == "cpu" and not load_in_4bit else {"": device},
            quantization_config=four_bit(kind) if load_in_4bit else None,
            attn_implementation=attn_implementation,
            trust_remote_code=False,
            use_safetensors=True,
        )
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = generation_config(tokenizer, format)
    if device == "cpu" and kind != torch.float32:
        model.get_output_embeddings().register_forward_pre_hook(_contiguous)  # type: ignore[no-untyped-call]
    return model


def _contiguous(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Have the head of a 16-bit model on a CPU multiply its input as one matrix.

    `generate` gives it the last of the prompts' hidden states, (batch, 1, width), a slice. Where the head is frozen, as below an
    adapter, torch 2.13 multiplies that by `batch` copies of it: 32 prompts by 49,152 x 576 numbers took 3.4 s and 1.8 GB, and take
    20 ms, to the same bits but for a rounding here and there. Not reached where PEFT trains tokens, whose layer computes the head.
    """
    return (inputs[0].contiguous(), *inputs[1:])


def _quiet() -> None:
    """Progress bars of the loaders are carriage returns in a log file; PEFT 0.21 still asks transformers by an old name."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja: the same bytes wherever it was loaded from."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for key in ("name_or_path", "is_local", "local_files_only"):
        settings.pop(key, None)
    write_json(file, settings)


def adapter_state(model: Any, name: str = "default") -> dict[str, torch.Tensor]:
    """One adapter's tensors by PEFT's file names, on the CPU. `default` is the trained one: GRPO keeps a frozen `ref` beside it."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {name: state[name].detach().cpu().contiguous() for name in sorted(state)}


def save_adapter(model: Any, folder: Path, base_model: Mapping[str, Any]) -> None:
    """Write a PEFT adapter directory. `base_model` is the pinned identity: it stands where PEFT would put a local path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(adapter_state(model), folder / ADAPTER_WEIGHTS)
    write_json(folder / ADAPTER_CONFIG, portable_config(model.peft_config["default"].to_dict(), base_model))


def write_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """A safetensors file with the mode that the umask says (`save_file` makes it 0600: no other user's server could read it)."""
    from safetensors.torch import save

    file.write_bytes(save(dict(tensors), metadata={"format": "pt"}))


def portable_config(config: Mapping[str, Any], base_model: Mapping[str, Any]) -> dict[str, Any]:
    """adapter_config.json with the base named by its identity and sets in order, ready for JSON."""
    plain = {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in config.items()}
    if isinstance(plain.get("target_modules"), list):
        plain["target_modules"] = sorted(plain["target_modules"])
    plain["peft_type"] = str(getattr(plain.get("peft_type"), "value", plain.get("peft_type")))
    return {**plain, "base_model_name_or_path": models.name_of(base_model), "revision": base_model.get("revision"), "inference_mode": True}


def load_adapter(base: PreTrainedModel, folder: Path, *, trainable: bool = False) -> Any:
    """base + adapter as a PeftModel. Raises BadInput for a directory that holds no adapter.

    A trainable one that has no trainable parameter is an error here: GRPO would run to its end and change nothing.
    """
    from peft import PeftModel

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise BadInput(f"{folder}: no {name}; an adapter directory in PEFT's layout is expected")
    model = PeftModel.from_pretrained(base, folder, is_trainable=trainable)
    # PEFT looks there for the base's config at every save, on the hub where it is no directory
    model.peft_config["default"].base_model_name_or_path = base.name_or_path
    if trainable:
        require_trainable(model)
    return model


def restore_adapter(model: Any, folder: Path, name: str = "default") -> None:
    """Put a directory's numbers into the model's adapter. Raises RuntimeError where they do not stand there bit for bit afterwards."""
    from peft import set_peft_model_state_dict

    stored = read_adapter(folder)
    set_peft_model_state_dict(model, stored, adapter_name=name)
    state = adapter_state(model, name)
    if state.keys() != stored.keys() or not all(state[tensor].equal(stored[tensor]) for tensor in state):
        raise RuntimeError(f"the adapter {name!r} does not hold the numbers of {folder} after they were loaded")


def require_trainable(model: Any) -> int:
    """The number of trainable parameters. Raises RuntimeError for none."""
    count = sum(int(parameter.numel()) for parameter in model.parameters() if parameter.requires_grad)
    if not count:
        raise RuntimeError("no parameter of the adapter is trainable: training would change nothing and say nothing")
    return count


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter directory by name; BadInput where the file is absent or not whole."""
    from safetensors.torch import load_file

    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise BadInput(lora.no_weights(folder))
    models.read_header(file)
    tensors: dict[str, torch.Tensor] = load_file(file)
    return tensors
