"""`gwen25 estimate`: what a run will need, before it is started: memory by term, hours, the judge, disk."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from gwen25.commands.common import configuration
from gwen25.config import Config
from gwen25.estimate import Estimate, Node, estimate, fit, memory, work
from gwen25.estimate.terms import Term, on_gpu

NAME, SIZE = 22, 9  # columns of a term's name and of its gigabytes


def run(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    found = estimate(config)
    print(json.dumps(as_json(config, found), indent=1) if arguments.json else "\n".join(lines(config, found)))
    return 0


def lines(config: Config, found: Estimate) -> Iterator[str]:
    rank, shape = config.sft.lora_r, found.shape
    yield f"{config.base_model}: {shape.parameters:,} parameters; an adapter of rank {rank}: {shape.lora(rank):,}"
    device = "GPU" if on_gpu(config) else "CPU"
    there = (
        "its memory is not known" if found.device_bytes is None else f"{_gb(found.device_bytes)} GB ({found.device_bytes / 2**30:.3g} GiB)"
    )
    count = max(memory.processes(config, stage) for stage in ("sft", "grpo"))
    yield f"device: {device}, {there}" + (f"; {count} processes, each on a device of its own" if count > 1 else "")
    yield "\nPeak memory, GB: the largest moment of each node"
    for node in found.nodes.values():
        yield from _node(node)
    yield f"\nTime, without imports, programs and requests; if {work.machine(config).source}"
    for name, hours in found.hours.items():
        yield f"  {name:{NAME}}{'unknown' if hours.seconds is None else _time(hours.seconds):>{SIZE}}  {hours.how}"
    known = [hours.seconds for hours in found.hours.values() if hours.seconds is not None]
    redrawn = found.hours.get("redraws")
    said = ["at most, with all redraws"] if redrawn and redrawn.seconds is not None else []
    said += ["and what is unknown"] if len(known) < len(found.hours) else []
    yield f"  {'in all':{NAME}}{_time(sum(known)):>{SIZE}}  {', '.join(said)}".rstrip()
    yield "\nJudge"
    yield from _judge(found)
    yield f"\nDisk, GB: {_gb(sum(term.bytes for term in found.disk))} in all"
    yield from map(_term, found.disk)


def _node(node: Node) -> Iterator[str]:
    verdict = f"  {node.verdict}" if node.verdict else ""
    if node.verdict not in (None, "fits"):
        verdict += f"; it would fit with {fit.told(node.remedy)}" if node.remedy else "; no setting here would make it fit"
    yield f"{node.name} ({node.device}, {node.peak.name}): {_gb(node.peak.bytes)}{verdict}"
    yield from map(_term, node.peak.terms)
    for phase in node.phases:
        if own := [term for term in phase.terms if term not in node.peak.terms]:
            yield f"  at another time, {phase.name}: {_gb(phase.bytes)}, with"
            yield from (f"  {_term(term)}" for term in own)


def _term(term: Term) -> str:
    return f"  {term.name:{NAME}}{_gb(term.bytes):>{SIZE}}  {term.how}".rstrip()


def _judge(found: Estimate) -> Iterator[str]:
    judging = found.judging
    if judging is None:
        yield "  none: rewards need no service"
        return
    cost = "cost unknown" if judging.dollars is None else f"${judging.dollars:.2f} without thinking"
    yield f"  at most {judging.requests:,} requests without retries, {judging.tokens_in:,} tokens in, {judging.tokens_out:,} out; {cost}"
    for term in judging.terms:
        yield f"  {term.name:{NAME}}{term.requests:>{SIZE},}  at most: {term.how}"
    yield f"  {judging.how}"


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def as_json(config: Config, found: Estimate) -> dict[str, Any]:
    """Bytes and seconds as numbers; null where something is not known."""
    return {
        "base_model": config.base_model,
        "parameters": found.shape.parameters,
        "lora_parameters": found.shape.lora(config.sft.lora_r),
        "device_bytes": found.device_bytes,
        "nodes": {name: _node_json(node) for name, node in found.nodes.items()},
        "hours": {name: {"hours": None if h.seconds is None else h.seconds / 3600, "how": h.how} for name, h in found.hours.items()},
        "throughput": asdict(work.machine(config)),
        "judge": None if found.judging is None else asdict(found.judging),
        "disk_bytes": sum(term.bytes for term in found.disk),
        "disk": [asdict(term) for term in found.disk],
    }


def _node_json(node: Node) -> dict[str, Any]:
    phases = [{"name": phase.name, "bytes": phase.bytes, "terms": [asdict(term) for term in phase.terms]} for phase in node.phases]
    peak = {"peak_bytes": node.peak.bytes, "peak_phase": node.peak.name}
    return {"device": node.device, **peak, "verdict": node.verdict, "remedy": node.remedy, "phases": phases}
