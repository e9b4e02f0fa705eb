"""The merged weights: bit for bit PEFT's, whatever the adapter is; and what stands in the folder when something goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwen25 import merging, models, weights
from gwen25.errors import BadInput
from gwen25.samples import tiny

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"down_proj": 3, r"layers\.1\.self_attn\..*": 12, "q_proj": 5},
    "alpha_pattern": {"layers.0.mlp.up_proj": 40, "model.layers.0.self_attn.v_proj": 1},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "lora_alpha": 16},
    "rank-stabilised": {"r": 6, "lora_alpha": 7, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 9, **PATTERNS},
    "DoRA": {"r": 8, "lora_alpha": 16, "use_dora": True},
    "all at once": {"r": 4, "lora_alpha": 9, "use_dora": True, "use_rslora": True, **PATTERNS},
    "two targets": {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
    "token rows": {"r": 2, "lora_alpha": 3, "trainable_token_indices": [641, 642]},
}


class Made:
    """Bases and adapters, each made once: a base by dtype and tying, an adapter by variant and tying."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def base(self, dtype: str, tied: bool, sharded: bool = False) -> Path:
        folder = self.folder / f"base-{dtype}-{tied}-{sharded}"
        if not folder.exists():
            tiny.build(folder, hidden_size=96, intermediate_size=200, num_attention_heads=3, tie_word_embeddings=tied)
            self._cast(folder, dtype, 100_000 if sharded else 10**9)
        return folder

    @staticmethod
    def _cast(folder: Path, dtype: str, max_shard: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size=max_shard)

    def adapter(self, variant: str, tied: bool) -> Path:
        """As PEFT itself saves it, with random matrices in the place of trained ones."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        folder = self.folder / f"adapter-{variant}-{tied}"
        if not folder.exists():
            settings = {"target_modules": TARGETS, "task_type": "CAUSAL_LM", **VARIANTS[variant]}
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(self.base("float32", tied)), LoraConfig(**settings))
            draw = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
            model.save_pretrained(folder, save_embedding_layers=False)
        return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def plain(made: Made, tmp_path: Path) -> tuple[Path, Path]:
    """A base and an adapter of their own, to be damaged."""
    import shutil

    pair = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(made.base("float32", True), pair[0])
    shutil.copytree(made.adapter("plain", True), pair[1])
    return pair


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for file in models.weight_files(folder):
        tensors |= load_file(file)
    return tensors


def _peft(base: Path, adapter: Path, dtype: str) -> dict[str, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    return dict(PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict())


def _merge(base: Path, adapter: Path, out: Path, dtype: str = "float32", max_shard: int = 10**9) -> int:
    out.mkdir(exist_ok=True)
    return merging.merge_adapter(base, adapter, out, dtype=dtype, max_shard=max_shard)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_merge_is_pefts_bit_for_bit(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, dtype: str) -> None:
    monkeypatch.setattr(weights, "PIECE", 1)  # pieces of 64 rows: 200 rows are three, the last of 72
    number = list(VARIANTS).index(variant) + ["float32", "bfloat16", "float16"].index(dtype)
    tied, sharded = number % 2 == 0, number % 3 == 0
    base, adapter = made.base(dtype, tied, sharded), made.adapter(variant, tied)
    size = _merge(base, adapter, tmp_path / "out", dtype, 100_000 if sharded else 10**9)
    mine, theirs, before = _tensors(tmp_path / "out"), _peft(base, adapter, dtype), _tensors(base)
    assert mine.keys() == theirs.keys() - ({merging.HEAD} if tied else set())  # tied: the embedding is the head
    assert not [name for name in mine if not (mine[name].dtype == theirs[name].dtype and mine[name].equal(theirs[name]))]
    assert sum(not mine[name].equal(before[name]) for name in mine) >= 4  # and something was merged
    assert size == sum(tensor.numel() * tensor.element_size() for tensor in mine.values())
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == sharded


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_dtype_of_a_wide_base_is_rounded_once(made: Made, tmp_path: Path, dtype: str) -> None:
    import torch

    base, adapter = made.base("float32", True), made.adapter("DoRA", True)
    _merge(base, adapter, tmp_path / "out", dtype)
    exact = _peft(base, adapter, "float32")
    assert all(tensor.equal(exact[name].to(getattr(torch, dtype))) for name, tensor in _tensors(tmp_path / "out").items())


@pytest.mark.parametrize("rank", [1, 2, 5, 8, 16, 33, 64, 256])
def test_a_slice_of_rows_has_the_bits_of_the_whole_product(rank: int) -> None:
    import torch

    draw = torch.Generator().manual_seed(rank)
    for rows, columns in ((64, 31), (129, 96), (200, 96), (576, 192), (192, 576), (1100, 130), (5000, 64)):
        up, down = torch.randn(rows, rank, generator=draw), torch.randn(rank, columns, generator=draw)
        whole = up @ down
        cuts = [(start, min(start + 64, rows)) for start in range(0, rows, 64)]
        if rows > 64 and rows % 64:
            cuts[-2:] = [(cuts[-2][0], rows)]
        for given in (cuts, weights.pieces(rows, columns)):
            assert all((up[start:stop] @ down).equal(whole[start:stop]) for start, stop in given)


def test_pieces_cover_every_row_once_and_no_rest_is_alone() -> None:
    for rows, columns in ((0, 5), (1, 1), (64, 10**9), (65, 10**9), (127, 10**9), (128, 10**9), (151_936, 2048), (2048, 11008)):
        pieces = weights.pieces(rows, columns)
        assert [row for start, stop in pieces for row in range(start, stop)] == list(range(rows))
        assert all(start % 64 == 0 for start, _ in pieces) and (len(pieces) < 2 or all(stop - start >= 64 for start, stop in pieces))


@pytest.mark.slow  # two processes that import torch: 13 s on two busy cores
def test_memory_does_not_grow_with_the_model(tmp_path: Path, made: Made) -> None:
    """31 MB more of embedding cost less than 8 MB: what is read is a piece, and no file is mapped."""
    peaks = []
    for rows in (20_000, 100_000):
        base = tmp_path / f"base-{rows}"
        _large(base, made, rows)
        code = (
            "import sys, torch\nfrom pathlib import Path\nfrom gwen25 import merging\n"
            "base, adapter, out = map(Path, sys.argv[1:])\n"
            "merging.merge_adapter(base, adapter, out, dtype='bfloat16', max_shard=10**9)\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        (out := tmp_path / f"out-{rows}").mkdir()
        command = [sys.executable, "-c", code, str(base), str(made.adapter("plain", True)), str(out)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout) / 1024)
    assert peaks[1] - peaks[0] < 8, peaks


def _large(folder: Path, made: Made, rows: int) -> None:
    import shutil

    import torch
    from safetensors.torch import save_file

    shutil.copytree(made.base("float32", True), folder)
    tensors = _tensors(folder) | {merging.EMBEDDING: torch.ones(rows, 96)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# ------------------------------------------------------------------------------------------------------------------------ faults


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "model.safetensors") -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, metadata={"format": "pt"})


Q = "model.layers.0.self_attn.q_proj.weight"
A = f"base_model.model.{Q.replace('.weight', '.lora_A.weight')}"


def _set(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name][1, 2] = value

    return change


def _refused(base: Path, adapter: Path, out: Path, told: str, **options: Any) -> None:
    """The error says so, and the folder holds what it held before."""
    out.mkdir(exist_ok=True)
    (out / "model.safetensors").write_bytes(b"of an earlier merge")
    with pytest.raises(BadInput, match=told):
        _merge(base, adapter, out, **options)
    assert [file.name for file in out.iterdir()] == ["model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == b"of an earlier merge"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [Q, merging.EMBEDDING, "model.layers.1.mlp.down_proj.weight"])
def test_a_number_of_the_base_that_is_none_is_named(plain: tuple[Path, Path], tmp_path: Path, name: str, value: float) -> None:
    _rewrite(plain[0], _set(name, value))
    for dtype in ("float32", "bfloat16"):
        _refused(*plain, tmp_path / "out", rf"model.safetensors: {re.escape(name)} holds a number that is not finite", dtype=dtype)


def test_a_number_of_the_adapter_that_is_none_is_named(plain: tuple[Path, Path], tmp_path: Path) -> None:
    _rewrite(plain[1], _set(A, float("nan")), "adapter_model.safetensors")
    _refused(*plain, tmp_path / "out", rf"{re.escape(A)} holds a number that is not finite")


def test_a_weight_too_large_for_float16_is_named(plain: tuple[Path, Path], tmp_path: Path) -> None:
    _rewrite(plain[0], _set(Q, 1e6))
    _refused(*plain, tmp_path / "out", rf"{re.escape(Q)}: a merged weight is too large for float16", dtype="float16")
    _merge(*plain, tmp_path / "out", "bfloat16")


def test_a_cut_off_file_is_refused(plain: tuple[Path, Path], tmp_path: Path, made: Made) -> None:
    sharded = made.base("float32", False, True)
    import shutil

    shutil.copytree(sharded, tmp_path / "sharded")
    for base, file in ((plain[0], plain[0] / "model.safetensors"), (tmp_path / "sharded", models.weight_files(tmp_path / "sharded")[1])):
        file.write_bytes(file.read_bytes()[:-64])
        _refused(base, plain[1], tmp_path / "out", rf"{file.name} is not a whole safetensors file")


def _move(index: dict[str, Any]) -> None:
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"][Q] = next(name for name in names if name != index["weight_map"][Q])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_move, rf"index and files disagree on where {re.escape(Q)} is"),
        (lambda index: index["weight_map"].pop(Q), rf"index and files disagree on where {re.escape(Q)} is"),
        (lambda index: index["weight_map"].update({Q: "model-00009-of-00009.safetensors"}), "names files that are not there: model-00009"),
        (lambda index: index.pop("weight_map"), "model.safetensors.index.json cannot be read"),
    ],
)
def test_a_wrong_index_is_refused(made: Made, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(made.base("float32", False, True), base)
    file = base / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))
    _refused(base, made.adapter("plain", False), tmp_path / "out", told)


def test_a_model_that_lacks_a_weight_is_refused(plain: tuple[Path, Path], tmp_path: Path) -> None:
    _rewrite(plain[0], lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    _refused(*plain, tmp_path / "out", "weights that config.json tells of are in no file, such as model.layers.1.mlp.up_proj.weight")


def test_an_adapter_of_another_base_is_refused(plain: tuple[Path, Path], tmp_path: Path, made: Made) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        for half in "AB":
            name = A.replace("lora_A", f"lora_{half}")
            tensors[name.replace("layers.0", "layers.7")] = tensors.pop(name)

    narrow = tmp_path / "narrow"
    tiny.build(narrow)
    _refused(
        narrow,
        plain[1],
        tmp_path / "out",
        r"down_proj.lora_A.weight is of shape \(8, 200\) where the base model and r = 8 ask for \(8, 128\)",
    )
    _rewrite(plain[1], rename, "adapter_model.safetensors")
    _refused(
        *plain, tmp_path / "out", "'model.layers.7.self_attn.q_proj.weight', which the base model does not have: an adapter of another"
    )


def test_a_rank_that_is_not_the_configs_is_refused(plain: tuple[Path, Path], tmp_path: Path) -> None:
    file = plain[1] / "adapter_config.json"
    for wrong in ({"r": 4}, {"rank_pattern": {"q_proj": 4}}):
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, **wrong}))
        _refused(*plain, tmp_path / "out", r"of shape \(8, \d+\) where the base model and r = 4 ask for \(4, ")
        file.write_text(json.dumps(config))


def test_the_folders_it_is_made_of_are_not_replaced(plain: tuple[Path, Path]) -> None:
    for folder in plain:
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        with pytest.raises(BadInput, match="would replace what it is made of"):
            _merge(*plain, folder)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


CHILD = """
import resource, signal, sys
from pathlib import Path
from gwen25 import merging
base, adapter, out, limit = sys.argv[1:]
if int(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
print("begin", flush=True)
told = lambda done, _: print(done, flush=True)
merging.merge_adapter(Path(base), Path(adapter), Path(out), dtype="float32", max_shard=100_000, progress=told)
"""


def _child(plain: tuple[Path, Path], out: Path, limit: int = 0) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", CHILD, *map(str, plain), str(out), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_that_cannot_grow_is_a_clear_error(plain: tuple[Path, Path], tmp_path: Path) -> None:
    """The kernel refuses to write on, as it does on a full disk."""
    started = _child(plain, tmp_path / "out", 50_000)
    _, errors = started.communicate(timeout=120)
    assert started.returncode == 1 and "BadInput" in errors.splitlines()[-1] and "no room for the 0.00 GB of merged weights" in errors
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_is_too_small_is_said_at_once(plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = os.statvfs(tmp_path)
    assert usage.f_bavail > 0
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    _refused(*plain, tmp_path / "out", r"the merged weights take 0.00 GB and the disk has 0.00 GB free")


def _unreadable_or_whole(out: Path) -> bool:
    """Killed as the names were given, a model may be whole; else there is none, or its index tells of files that are not there."""
    try:
        return len(weights.stored(out)) in (0, 26)
    except BadInput as error:
        return "names files that are not there" in str(error)


def test_shards_without_all_their_files_are_told_of(plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the names of the first file and the second."""
    rename, given = Path.rename, []

    def once(self: Path, target: Path) -> Path:
        if given:
            raise KeyboardInterrupt
        given.append(target)
        return rename(self, target)

    monkeypatch.setattr(merging, "write_json", lambda file, content: file.write_text(json.dumps(content)))  # it renames too
    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        _merge(*plain, tmp_path / "out", max_shard=100_000)
    with pytest.raises(BadInput, match="the index names files that are not there"):
        weights.stored(tmp_path / "out")


@pytest.mark.parametrize("moments", [("9",), pytest.param(("begin", "1", "17", "26"), marks=pytest.mark.slow)])  # each imports torch
def test_killed_at_any_tensor_leaves_no_model_and_the_next_merge_the_same_bytes(
    plain: tuple[Path, Path], tmp_path: Path, moments: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    for at in moments:
        started = _child(plain, out)
        assert started.stdout is not None
        while (line := started.stdout.readline().strip()) not in (at, ""):
            pass
        assert line == at
        time.sleep(0.002)  # into the tensor that comes next: one takes some milliseconds
        started.send_signal(signal.SIGKILL)
        started.communicate(timeout=60)
        assert _unreadable_or_whole(out)
    (out / ".model.safetensors.index.json.4711").write_bytes(b"")  # what a kill inside `write_json` leaves
    _merge(*plain, out, max_shard=100_000)
    _merge(*plain, tmp_path / "straight", max_shard=100_000)
    held, straight = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in (out, tmp_path / "straight"))
    assert held == straight and len(held) > 3
