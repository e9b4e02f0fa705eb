"""A GGUF as a model in Ollama: `package` writes what `ollama create` takes, `publish` makes the same model over REST and proves it,
`smoke` asks it. The client is `gwen25.ollama_api`; the stage, `gwen25.pipelines.ollama`.

    package = Package("gwen25", Path("model.gguf"), shape.ollama, system, parameters(32768, 0.6, 0.95, shape), "Apache-2.0")
    check(package, shape); write_package(package, folder)
    publish(Ollama(url), package, shape)
"""

from gwen25.ollama.package import Package, check, check_gguf, modelfile, parameters, write_package
from gwen25.ollama.publish import Published, expected, publish, staging_name

__all__ = ["Package", "Published", "check", "check_gguf", "expected", "modelfile", "parameters", "publish", "staging_name", "write_package"]
