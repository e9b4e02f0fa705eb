"""Benchmarks: what a model is measured by. `passk` is the arithmetic, `livecodebench` the problems and their judge, `report` the page.

Prompts come from `chat`, verdicts from `sandbox`. Not here: generation (`generate`), the stage (`pipelines.evaluate`).
"""
