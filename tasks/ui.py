"""What a node shows in Prefect's UI: a progress bar while it runs, a page about its artifact after.

A broken page or bar never fails the work: the server may be gone for an hour while a training goes on.
"""

from __future__ import annotations

import base64
import contextvars
import html
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from gwen25.artifacts import Artifact, Manifest

PROGRESS_SECONDS = 2.0  # every update is an event that the server keeps for a week
PICTURE_BYTES = 150_000  # larger pages take the UI seconds to open
COLOURS = 8  # of a picture that would be larger: GRPO's eight curves are 0.2 to 0.7 MB as they are, and 0.11 in these, were they noise


class Progress:
    """A progress bar, sent from a thread of its own: an update blocks while the server is away, the reading of logs must not."""

    def __init__(self, name: str):
        self._name = name
        self._latest: dict[str, Any] | None = None
        self._ended = threading.Event()
        context = contextvars.copy_context()  # artifacts attach to the task run by context
        self._thread = threading.Thread(target=context.run, args=(self._send_all,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(timeout=5)

    def update(self, progress: dict[str, Any]) -> None:
        """Keep the newest {"step", "total", ...}; it is sent within two seconds."""
        self._latest = progress

    def _send_all(self) -> None:
        logger = get_run_logger()
        artifact: UUID | None = None
        sent: dict[str, Any] | None = None
        while True:
            ended = self._ended.wait(PROGRESS_SECONDS)
            latest = self._latest
            if latest is not None and latest is not sent and latest.get("total"):
                percent, text = 100.0 * latest["step"] / latest["total"], _describe(latest)
                try:
                    if artifact is None:
                        made = create_progress_artifact(percent, key=f"progress-{self._name}", description=text)
                        assert isinstance(made, UUID)  # a coroutine only where an event loop runs
                        artifact = made
                    else:
                        update_progress_artifact(artifact, percent, description=text)
                    sent = latest
                except Exception as error:  # whatever the server does, the training goes on
                    logger.debug("the progress bar could not be updated: %s", error)
            if ended:
                return


def _describe(progress: Mapping[str, Any]) -> str:
    numbers = [f"{name} {value:.4g}" for name, value in progress.items() if isinstance(value, float)]
    return f"step {progress['step']} of {progress['total']}" + (": " + ", ".join(numbers) if numbers else "")


def publish(artifact: Artifact) -> None:
    """A page about an artifact: facts, metrics, report, curves."""
    try:
        create_markdown_artifact(page(artifact), key=f"{artifact.stage}-artifact", description=f"{artifact.stage}:{artifact.key[:8]}")
    except Exception as error:  # the artifact is in the store; its page is not worth the run
        get_run_logger().warning("no page for %s: %s", artifact.stage, error)


def summary(page: str, key: str = "finetune-summary", about: str = "nodes, artifacts and evaluation") -> None:
    """The run's own page. A key collects the pages of all runs."""
    try:
        create_markdown_artifact(page, key=key, description=about)
    except Exception as error:  # everything is made by now
        get_run_logger().warning("no summary page: %s", error)


def tag(word: str) -> None:
    """A tag on the flow run, seen and searched for in lists of runs."""
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(str(flow_run.id)), tags=[*flow_run.tags, word])
    except Exception as error:  # no run is lost for want of a tag
        get_run_logger().warning("no tag %s: %s", word, error)


def page(artifact: Artifact) -> str:
    """The Markdown of an artifact's page."""
    manifest = Manifest.read(artifact.path)
    parts = [f"## {artifact.stage}:{artifact.key[:8]}", f"`{artifact.path}`"]
    parts += [report.read_text(encoding="utf-8") for report in sorted(artifact.path.glob("*/report.md"))]
    parts += [_table("metric", manifest.metrics), _table("fact", manifest.facts)]
    parts += [_picture(picture) for picture in sorted(artifact.path.glob("*/*.png"))]
    return "\n\n".join(part for part in parts if part)


def _table(kind: str, values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items() if value is not None]
    return "\n".join([f"| {kind} | value |", "|---|---|", *rows]) if rows else ""


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= 300 else text[:300] + "...").replace("|", "\\|").replace("\n", " ")


def _picture(path: Path) -> str:
    """A picture in the page itself, in few colours where it is large; nothing where that does not do."""
    content = path.read_bytes()
    if len(content) > PICTURE_BYTES:
        content = _in_few_colours(content)
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(content).decode()})" if len(content) <= PICTURE_BYTES else ""


def _in_few_colours(content: bytes) -> bytes:
    from PIL import Image

    smaller = io.BytesIO()
    try:
        picture = Image.open(io.BytesIO(content)).convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")  # else what is transparent would be black
        Image.alpha_composite(paper, picture).convert("RGB").quantize(COLOURS).save(smaller, "PNG", optimize=True)
    except Exception:  # no picture, or one of billions of pixels: the page is worth more than it
        return content
    return smaller.getvalue()
