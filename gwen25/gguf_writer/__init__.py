"""A Qwen2 or plain Llama checkpoint in the Hugging Face layout -> one GGUF file in f32, f16, bf16 or q8_0.

    write(Path("merged"), Path("model.gguf"), "q8_0", chat_format=FORMATS["chatml-think"])

Keys, values, tensor order and tensor bytes are those of llama.cpp's convert_hf_to_gguf.py, without torch and without the
model in memory: each tensor is read in small pieces (pread, not a mapping, whose pages count as ours), converted, appended.
What is not a plain Qwen2ForCausalLM or LlamaForCausalLM under a tokenizer that is known here is refused by name: a GGUF with a
wrong pre-tokenizer or a dropped rope scaling loads everywhere and is wrong everywhere. One difference is meant: a head that is
a copy of the embedding it is tied to is left out, where the converter writes the copy.

    source        which tensors lie where in the safetensors files
    architecture  what each is called in a GGUF, and the model's keys
    vocabulary    the tokenizer's keys
    agreement     the files beside tokenizer.json name the same tokens
    header        keys and tensors' places, as bytes
    numbers       pieces of a tensor in another type
    stream        made ahead by threads, on their way to the disk meanwhile
    file          all of it, in order, durable

Not here: K-quants (`llamacpp.quantize`), proof that the file loads (`pipelines.gguf`).
"""

from gwen25.gguf_writer.file import WRITTEN_TYPES, source_type, whole, write
from gwen25.gguf_writer.stream import keep_freed_memory

__all__ = ["WRITTEN_TYPES", "keep_freed_memory", "source_type", "whole", "write"]
