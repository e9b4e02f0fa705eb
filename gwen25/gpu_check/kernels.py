"""What the training stands on, each tried alone against plain arithmetic in float32: number types, 4 bits, 8-bit Adam, attention."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gwen25.gpu_check import Missing, Outcome, Row, Setting

if TYPE_CHECKING:
    import torch

SIDE: Final = {"cuda": 4096, "cpu": 256}  # of the square matrices
# relative error of a product's norm: half an ulp of 8 and of 11 bits, and the rounding of both factors
ROUNDING: Final = {"bfloat16": 1e-2, "float16": 2e-3}
NF4_ROUNDING: Final = 0.2  # 0.1 for normal numbers (QLoRA, arXiv:2305.14314); trained ones are a little worse


def bfloat16(row: Row, setting: Setting) -> Outcome:
    return _matmul("bfloat16", setting)


def float16(row: Row, setting: Setting) -> Outcome:
    return _matmul("float16", setting)


def require_bfloat16(setting: Setting) -> None:
    import torch

    if setting.device == "cuda" and (found := torch.cuda.get_device_capability()) < (8, 0):
        raise Missing(f"bfloat16: it begins with compute capability 8.0, this GPU has {found[0]}.{found[1]}; the profile t4 is for it")


def _matmul(dtype: str, setting: Setting) -> Outcome:
    """A product on the device against the float32 product of the same rounded numbers."""
    import torch

    if dtype == "bfloat16":
        require_bfloat16(setting)
    kind, side = getattr(torch, dtype), SIDE[setting.device]
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=draw).to(setting.device, kind) for _ in range(2))
    found = (a @ b).float()
    expected = a.float() @ b.float()
    error = float((found - expected).norm() / expected.norm())
    if not error <= ROUNDING[dtype]:
        raise ValueError(f"the product of {side} x {side} is off by {error:.2g} of its norm; {ROUNDING[dtype]:g} is rounding")
    return Outcome("ok", f"{side} x {side} product off by {error:.1g} of its norm; {_device(setting)}", {"error": error})


def _device(setting: Setting) -> str:
    import torch

    if setting.device == "cpu":
        return "on a CPU"
    major, minor = torch.cuda.get_device_capability()
    return f"on {torch.cuda.get_device_name()}, {major}.{minor}"


def four_bit(row: Row, setting: Setting) -> Outcome:
    """The tiny model, loaded as `sft` does with load_in_4bit, against itself in full."""
    from bitsandbytes.nn import Linear4bit

    from gwen25 import modeling
    from gwen25.chat import FORMATS
    from gwen25.gpu_check import base

    folder, format = base.tiny(Path(setting.folder)), FORMATS["chatml-think"]
    tokenizer = modeling.load_tokenizer(folder, format)
    dtype = "float16" if setting.device == "cuda" else "float32"
    whole, packed = (
        modeling.load_base(folder, tokenizer, format, dtype=dtype, device=setting.device, load_in_4bit=bits) for bits in (False, True)
    )
    count = sum(isinstance(module, Linear4bit) for module in packed.modules())
    if count != 14:
        raise ValueError(f"{count} layers are in 4 bits, and 14 are expected")
    error = max(
        _off(dict(whole.named_modules())[name], module) for name, module in packed.named_modules() if isinstance(module, Linear4bit)
    )
    if not error < NF4_ROUNDING:
        raise ValueError(f"a layer in 4 bits is off by {error:.2g} of its norm; {NF4_ROUNDING} is rounding")
    return Outcome("ok", f"{count} layers in NF4 by bitsandbytes {metadata.version('bitsandbytes')}, off by {error:.1g} of their norm")


def _off(whole: Any, packed: Any) -> float:
    """How far a packed layer's answers are from the whole one's, on drawn numbers."""
    import torch

    draw = torch.Generator().manual_seed(0)
    given = torch.randn(32, whole.in_features, generator=draw).to(whole.weight.device, whole.weight.dtype)
    with torch.no_grad():
        expected, found = whole(given).float(), packed(given).float()
    return float((found - expected).norm() / expected.norm())


def adamw_8bit(row: Row, setting: Setting) -> Outcome:
    """One step of the optimizer that transformers makes of `optim: adamw_8bit`, against torch's own in 32 bits."""
    import torch
    from transformers import Trainer, TrainingArguments

    place, rate = str(Path(setting.folder) / "adamw"), 1e-3
    given = TrainingArguments(place, optim="adamw_8bit", learning_rate=rate, weight_decay=0.0, use_cpu=setting.device == "cpu")
    kind, options = Trainer.get_optimizer_cls_and_kwargs(given)
    draw = torch.Generator().manual_seed(0)
    start, slope = (torch.randn(1024, 1024, generator=draw).to(setting.device) for _ in range(2))
    moved, states = [], []
    for make, more in ((kind, options), (torch.optim.AdamW, {"lr": rate, "weight_decay": 0.0})):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = slope.clone()
        optimizer = make([weight], **more)
        optimizer.step()
        moved.append(weight.detach() - start)
        states.append(optimizer.state[weight])
    if not any(isinstance(value, torch.Tensor) and value.dtype == torch.uint8 for value in states[0].values()):
        raise ValueError("its moments are not in 8 bits")
    error = float((moved[0] - moved[1]).norm() / moved[1].norm())
    if not error < 0.05:
        raise ValueError(f"a step is off by {error:.2g} of torch's AdamW")
    return Outcome("ok", f"a step of {kind.__name__} off by {error:.1g} of torch's AdamW, moments in 8 bits")


def attention(row: Row, setting: Setting) -> Outcome:
    """Which kernels of torch's fused attention run here forward and backward, with Qwen2.5-3B's heads; and flash-attn."""
    import torch
    from torch.nn.attention import SDPBackend

    kind = torch.float16 if setting.device == "cuda" and torch.cuda.get_device_capability() < (8, 0) else torch.bfloat16
    draw = torch.Generator().manual_seed(0)
    length = 1024 if setting.device == "cuda" else 64
    q, k, v = (torch.randn(1, heads, length, 128, generator=draw).to(setting.device, kind).requires_grad_() for heads in (16, 2, 2))
    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    runs = {name: _attends(backend, q, k, v) for name, backend in backends.items()}
    if not runs["math"]:
        raise ValueError("not even the plain kernel attends")
    fused = [name for name, good in runs.items() if good and name != "math"]
    told = (
        f"sdpa runs {', '.join(fused) or 'no fused kernel'} and math on grouped heads; not {', '.join(n for n, g in runs.items() if not g)}"
    )
    return Outcome("ok", f"{told.removesuffix('; not ')}; {_flash_attn(setting, q, k, v)}", {"kernels": runs})


def _attends(backend: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether a backend takes grouped heads, forward and backward, and agrees with the plain kernel."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def out(by: Any) -> torch.Tensor:
        with sdpa_kernel(by):
            found: torch.Tensor = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return found

    try:
        found = out(backend)
        torch.autograd.backward(found.float().sum())
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise
        return False
    return bool(torch.allclose(found.float(), out(SDPBackend.MATH).float(), atol=3e-2))


def _flash_attn(setting: Setting, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str:
    """The package flash-attn, for attn_implementation=flash_attention_2."""
    try:
        import flash_attn  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return "flash-attn is not installed"
    if setting.device == "cpu":
        return f"flash-attn {flash_attn.__version__} needs a GPU"
    import torch

    found = flash_attn.flash_attn_func(*(tensor.transpose(1, 2) for tensor in (q, k, v)), causal=True)
    torch.autograd.backward(found.float().sum())
    return f"flash-attn {flash_attn.__version__} runs"
