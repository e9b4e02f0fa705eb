"""Ollama: a GGUF -> a package that `ollama create` takes, and the model itself where a server answers.

    python -m gwen25.pipelines.ollama WORK_DIR

The payload is the package: Modelfile, the GGUF, README.md, and the GGUF's proof (`parity`), without which nothing is packaged; one that
was made without llama.cpp is made whole first where this machine has it. The package is the same with and without a server. Where one
answers, the model is made there under a tag of its own, held against what was sent, asked three problems, and only then given its name
(`ollama.publish`). What was seen lies in `aside/smoke.json`.

Not here: quantizing (`pipelines.gguf`; Ollama knows five types), pushing to ollama.com.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gwen25 import modeling, parity
from gwen25.chat import ChatFormat, prompt_text
from gwen25.config import OllamaConfig
from gwen25.job import Input, Job, Result, main, write_json
from gwen25.ollama import Package, check, check_gguf, parameters, publish, write_package
from gwen25.ollama_api import Ollama


def run(job: Job) -> Result:
    config: OllamaConfig = job.config
    made = job.inputs["gguf"]
    shape = modeling.chat_format(made.facts, "the GGUF")
    gguf = made.payload / made.facts["file"]
    check_gguf(gguf, shape, config.num_ctx)
    proof = parity.require(made.payload / parity.FILE, gguf, shape, job.runtime.num_threads)
    job.say(f"{gguf.name} is proved in {proof.covers}")
    package = _package(config, made, gguf, shape)
    check(package, shape)
    write_package(package, job.payload)
    parity.write(proof, job.payload / parity.FILE)
    facts = {**made.facts, "name": config.name, "created": False}
    url = job.locations.get("ollama")
    if url is None:
        job.say(f"no Ollama server answers: {config.name} is packaged, not created; see README.md in the package")
        return Result(facts=facts)
    metrics, digest = _publish(job, Ollama(url, config.timeout_seconds), package, shape)
    return Result(
        facts={**facts, "created": True, "server_digest": digest}, metrics=metrics
    )  # a later run looks whether it is still this one


def _package(config: OllamaConfig, made: Input, gguf: Path, shape: ChatFormat) -> Package:
    return Package(
        name=config.name,
        gguf=gguf,
        template=shape.ollama,
        system=prompt_text("system"),
        parameters=parameters(config.num_ctx, config.temperature, config.top_p, shape),
        license=made.facts.get("license"),
    )


def _publish(job: Job, server: Ollama, package: Package, shape: ChatFormat) -> tuple[dict[str, Any], str | None]:
    job.say(f"Ollama at {server.url}: making {package.name} of {package.gguf.name}")
    made = publish(
        server,
        package,
        shape,
        smoke=job.config.smoke,
        smoke_tokens=job.config.smoke_tokens,
        keep=lambda seen: write_json(job.aside / "smoke.json", seen),
        warn=job.warn,
        progress=job.progress,
    )
    if made.version != (pinned := job.externals["ollama"]["server"]):
        job.warn(f"the Ollama server is now {made.version}; it was {pinned} when this run began")
    told = made.metrics
    asked, ended, passed = (told[f"smoke_{name}"] for name in ("prompts", "ended", "passed"))
    counted = "an unknown number" if passed is None else passed
    job.say(f"{package.name} is made; of {asked} answers {ended} ended by themselves, {counted} passed")
    return told, made.digest


if __name__ == "__main__":
    main(run)
