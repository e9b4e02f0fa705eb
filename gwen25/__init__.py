"""gwen25: Qwen2.5 into a reasoning code model, from data set to laptop, as one flow that can be trusted."""

__version__ = "0.1.0"
