"""Run by vLLM's interpreter, which has neither gwen25 nor its packages: answer, sleep, wake, answer again.

python sleeper.py MODEL cuda|cpu SHARE_OF_MEMORY          one line of JSON at the end
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(model: str, device: str, share: float) -> dict[str, Any]:
    import torch
    import vllm
    from vllm import LLM, SamplingParams

    gpu = device == "cuda"
    dtype = "float32" if not gpu else "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"
    more: dict[str, Any] = {"enable_sleep_mode": True, "gpu_memory_utilization": share} if gpu else {}
    engine = LLM(model=model, dtype=dtype, enforce_eager=True, max_model_len=1024, **more)
    settings = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, detokenize=False)

    def answer() -> list[int]:
        [made] = engine.generate([{"prompt_token_ids": list(range(1, 33))}], settings, use_tqdm=False)
        return list(made.outputs[0].token_ids)

    def used() -> int:
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    first = answer()
    found: dict[str, Any] = {"version": vllm.__version__, "tokens": len(first), "slept": gpu}
    if gpu:
        found["awake_bytes"] = used()
        engine.sleep(level=1)
        found["asleep_bytes"] = used()
        engine.wake_up()
    return {**found, "equal": answer() == first}


if __name__ == "__main__":
    print("\n" + json.dumps(main(sys.argv[1], sys.argv[2], float(sys.argv[3]))), flush=True)
