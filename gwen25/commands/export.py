"""`gwen25 merge ADAPTER OUT_DIR`, `gwen25 gguf MODEL OUT.gguf`: one step on what lies anywhere.

Without these arguments the commands are the nodes of this config's flow (`commands.node`). With them no config and no store takes
part: what comes out is written where the user says, whole or not at all. A model that gwen25 did not train keeps its own tokenizer
and chat template. Not here: what a name means and what is missing (`outside`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gwen25 import llamacpp, models, outside, parity, tokenizer_files
from gwen25.chat import FORMATS
from gwen25.commands import node, outputs
from gwen25.commands.common import say, warn
from gwen25.errors import BadInput, Gwen25Error
from gwen25.gguf_header import read_header
from gwen25.job import write_json
from gwen25.outside import Adapter
from gwen25.parity.dialogues import BARE, TRAPS

_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}  # of a number
MAX_SHARD: Final = 5 * 10**9  # bytes of a safetensors file, as the hub writes it
_GGUF_BYTES: Final = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.07}  # of a weight
_K_QUANT_BYTES: Final = 2.9  # below 0.9, beside the 16-bit file they are made from


def is_node(arguments: argparse.Namespace, first: str, second: str, own: tuple[str, ...]) -> bool:
    """Whether the flow's node is meant. Raises BadInput for half of the arguments, and for options of the other meaning."""
    given = [name for name in (first, second) if getattr(arguments, name) is not None]
    command = f"gwen25 {arguments.command}"
    if len(given) == 1:
        raise BadInput(f"{command} takes {first.upper()} and {second.upper()}, or neither (the node of this config's flow)")
    if not given:
        for option in own:
            if getattr(arguments, option) not in (None, False):
                raise BadInput(
                    f"--{option.replace('_', '-')} belongs to `{command} {first.upper()} {second.upper()}`; the node is set by --set"
                )
        return True
    for option in ("set", "config", "refresh"):
        if getattr(arguments, option):
            raise BadInput(
                f"--{option} is for the node of a flow; `{command} {first.upper()} {second.upper()}` takes its own options alone"
            )
    return False


# --------------------------------------------------------------------------------------------------------------------- merge


def merge(arguments: argparse.Namespace) -> int:
    """Base + adapter into a model directory; or the node."""
    if is_node(arguments, "adapter", "out_dir", ("base", "dtype", "force")):
        return node.run(arguments)
    with outputs.folder(Path(arguments.out_dir), force=arguments.force, mark="config.json") as part:
        adapter = outside.adapter(arguments.adapter, arguments.base, warn)
        told = _require_plain_base(adapter)
        dtype = arguments.dtype or _dtype_of(adapter.base)
        tokenizer = tokenizer_files.folder(adapter.path, adapter.base)
        size = _merge(adapter, part, dtype, tokenizer)
    whose = "the base's" if tokenizer == adapter.base else "the adapter's own"
    print(f"made  {arguments.out_dir}  {size / 1e6:,.1f} MB of weights in {dtype}, {whose} tokenizer{told}")
    return 0


def _require_plain_base(adapter: Adapter) -> str:
    """What the output must say of the base. BadInput for an adapter of a 4-bit base: which base is nearer must be measured, by the node."""
    from gwen25.pipelines.merge import trained_in_4bit

    facts = adapter.place.manifest.facts if adapter.place.manifest else {}
    if trained_in_4bit(facts) is not None:
        raise BadInput(
            f"{adapter.place.name} was trained on a 4-bit base, and which base it is merged into must be measured: `gwen25 merge` without "
            "names does that, the node of its run (with that run's --config and --set)"
        )
    if "sft" in facts or "grpo" in facts:
        return ""
    return "; merged into the plain base (what it was trained on is unknown: one of a 4-bit base may lose by that)"


def _merge(adapter: Adapter, out: Path, dtype: str, tokenizer: Path) -> int:
    from gwen25.merging import merge_adapter

    size = merge_adapter(adapter.base, adapter.path, out, dtype=dtype, max_shard=MAX_SHARD, progress=progress("merged"))
    _write_configs(adapter, out, dtype, tokenizer)
    for name in tokenizer_files.FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, out / name)
    if added := tokenizer_files.added_tokens(adapter.path, adapter.base):
        warn(f"the adapter's tokenizer adds {', '.join(added)}: rows that the base left unused, trained only if the adapter says so")
    for file in adapter.base.glob("LICENSE*"):
        shutil.copyfile(file, out / file.name)
    (out / "README.md").write_text(_card(adapter), encoding="utf-8")
    return size


def _write_configs(adapter: Adapter, out: Path, dtype: str, tokenizer: Path) -> None:
    """The base's config and generation config. An eos of the adapter's own tokenizer is added, or the model would never stop."""
    settings = models.read_config(adapter.base)
    for name in ("_name_or_path", "transformers_version", "quantization_config"):
        settings.pop(name, None)
    generation = _read(adapter.base / "generation_config.json")
    end = tokenizer_files.end_token(tokenizer)
    if tokenizer != adapter.base and end is not None and end not in _ids(settings.get("eos_token_id")):
        say(f"the adapter's tokenizer ends a turn with token {end}, the base with {settings.get('eos_token_id')}: the model stops at both")
        stops = [end, *(one for one in _ids(generation.get("eos_token_id", settings.get("eos_token_id"))) if one != end)]
        settings["eos_token_id"], generation["eos_token_id"] = end, stops
    # transformers 5 writes dtype; readers older than it, and llama.cpp's, look for torch_dtype
    write_json(out / "config.json", {**settings, "dtype": dtype, "torch_dtype": dtype})
    if generation:
        generation.pop("transformers_version", None)
        write_json(out / "generation_config.json", generation)


def _ids(value: Any) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
    return value if isinstance(value, dict) else {}


def _card(adapter: Adapter) -> str:
    """What the merged model is, and the base's licence, which `gwen25 gguf` writes into the file. No path of this machine."""
    licence = models.licence(adapter.hub or {}, adapter.base)
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if adapter.hub:
        lines.append(f"base_model: {adapter.hub['id']}")
    if licence:
        lines.append(f"license: {licence}" if " " not in licence else f"license: other\nlicense_name: {licence}")
    about = f"{adapter.hub['id'] if adapter.hub else 'A base model'} with a LoRA adapter merged into its weights by gwen25."
    return "---\n" + "\n".join(lines) + f"\n---\n\n{about} The base model's licence holds for it ({licence or 'unknown: see the base'}).\n"


def _dtype_of(base: Path) -> str:
    dtype = models.inspect(base).dtype
    if dtype not in _BYTES:
        raise BadInput(f"{base}/config.json: dtype {dtype}; say --dtype {', '.join(_BYTES)}")
    return dtype


def _weights(folder: Path) -> int:
    """Numbers of a checkpoint, from the headers of its files."""
    count = 0
    for shape in models.tensor_shapes(folder).values():
        size = 1
        for length in shape:
            size *= length
        count += size
    return count


# ---------------------------------------------------------------------------------------------------------------------- gguf


def gguf(arguments: argparse.Namespace) -> int:
    """A model directory into one file for llama.cpp; or the node."""
    if is_node(arguments, "model", "out_file", ("type", "force")):
        return node.run(arguments)
    from gwen25.gguf_writer import keep_freed_memory
    from gwen25.pipelines import gguf as packing

    keep_freed_memory()
    out, type = Path(arguments.out_file), arguments.type or "f16"
    if out.suffix != ".gguf":
        raise BadInput(f"{out}: the name of a file that ends in .gguf is expected")
    with outputs.file(out, force=arguments.force) as part:
        model = outside.model(arguments.model, warn)
        outputs.room(out, int(_weights(model.path) * _GGUF_BYTES.get(type, _K_QUANT_BYTES)))
        facts = model.place.manifest.facts if model.place.manifest else {}
        licence = facts.get("license") or models.licence(model.place.hub or {}, model.path)
        # the checkpoint's own chat template: a merge of the store holds its format's, whatever else was trained holds its own
        packing.convert(model.path, part, type, name=_label(model), licence=licence, progress=progress("written"))
        held, (tried, proof) = packing.inspect(part, type), _prove(part, model.path)
        _put_proof(proof, part, parity.beside(out.expanduser()))
    print(f"made  {arguments.out_file}  {type}, {held.bits_per_weight:g} bits a weight{_fallbacks(held.fallbacks)}; {tried}")
    return 0


def _put_proof(proof: parity.Proof | None, part: Path, place: Path) -> None:
    """Before the file itself, and by way of its scratch folder: a death leaves no file without its proof, and nothing half beside it."""
    if proof is None:
        place.unlink(missing_ok=True)  # of a file that this one replaces
        return
    parity.write(proof, parity.beside(part))
    parity.beside(part).replace(place)


def _prove(file: Path, model_dir: Path) -> tuple[str, parity.Proof | None]:
    """Hold the file against its checkpoint; what was looked at, the proof if the format is ours. Raises Gwen25Error where they differ."""
    template = str(read_header(file).fields.get("tokenizer.chat_template") or "").rstrip("\n")
    known = next((format for format in FORMATS.values() if format.jinja.rstrip("\n") == template), None)
    if known is not None:
        proof = parity.prove(file, model_dir, known)
        return f"prompts and token ids agree in {proof.covers}", proof
    if not llamacpp.can_load():
        return "not tried in llama.cpp (pip install 'gwen25[llamacpp]')", None
    return f"{_same_ids(file, model_dir)} token ids agree in llama.cpp, the chat template is the checkpoint's own", None


def _same_ids(file: Path, model_dir: Path) -> int:
    from tokenizers import Tokenizer

    tokenizer, compared = Tokenizer.from_file(str(model_dir / "tokenizer.json")), 0
    with llamacpp.LlamaCpp(file, n_ctx=512, quiet=True) as model:
        for text in (TRAPS, BARE):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if (theirs := model.tokenize(text)) != ids:
                raise Gwen25Error(
                    f"{file.name}: llama.cpp tokenizes {text!r} otherwise than the checkpoint, {theirs[:20]}... not {ids[:20]}..."
                )
            compared += len(ids)
        model.complete(ids, n_predict=1)  # a forward pass
    return compared


def _label(model: outside.Model) -> str:
    """general.name: the hub's short name, or the folder's; never a path of this machine."""
    if model.place.hub:
        return model.place.hub["id"].rpartition("/")[2]
    if model.place.manifest:
        short = models.name_of(model.place.manifest.facts["base_model"]).rpartition("/")[2]
        return "gwen25" if short.startswith("sha256:") else f"{short} gwen25"
    return model.path.name


def _fallbacks(fallbacks: dict[str, str]) -> str:
    return f"; {len(fallbacks)} tensors have rows that the type does not divide and are stored otherwise" if fallbacks else ""


def progress(done: str, unit: str = "tensors", size: int = 1) -> Callable[[int, int], None]:
    """Progress on a terminal, one line, in units of `size`; nothing in a pipe."""
    if not sys.stderr.isatty():
        return lambda at, total: None

    def show(at: int, total: int) -> None:
        shown = f"\r{done} {at / size:,.0f} of {total / size:,.0f} {unit}"
        print(shown, end="\n" if at == total else "", file=sys.stderr, flush=True)

    return show
