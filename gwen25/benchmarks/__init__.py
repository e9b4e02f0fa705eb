"""Benchmarks: what a model is measured by.

`livecodebench` is the door to problems and their judge, `passk` the arithmetic, `report` the page, `comparison` two reports held against
each other. Verdicts come from `sandbox`. Not here: generation (`generate`), the stage (`pipelines.evaluate`).
"""
