"""A stage that does what it is told: `scripted_stage.py SCRIPT -m gwen25.pipelines.<stage> WORK_DIR`, set as a launcher.

SCRIPT is Python; `job` and `attempt` (from 1) are at hand. The rest, request, result, failure, is the real boundary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gwen25 import job as boundary
from gwen25.errors import BadInput, Unavailable
from gwen25.job import Job, Result

script, work = sys.argv[1], sys.argv[-1]


def run(job: Job) -> Result:
    attempts = job.work / "attempts.json"
    attempt = 1 + len(json.loads(attempts.read_text())["attempts"]) if attempts.exists() else 1
    scope = {
        "job": job,
        "attempt": attempt,
        "result": Result(),
        "BadInput": BadInput,
        "Unavailable": Unavailable,
        "Result": Result,
        "Path": Path,
    }
    (job.payload / "out.txt").write_text(f"{job.config.seed}\n")
    exec(script, scope)
    result = scope["result"]
    assert isinstance(result, Result)
    return result


boundary.main(run, [work])
