"""JSON lines that survive a kill: what a long stage has done so far, so that the next attempt goes on from there.

    journal = Journal(path, lambda row: row["question_id"] in wanted)
    journal.rows["q1"]; journal.add([{"question_id": "q2", ...}])

Appended whole and fsynced; on opening, all from the first line that is not good is cut off. Not here: what the rows mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Journal:
    """`rows` by question_id, in memory and on disk. `good` refuses a row of another plan."""

    def __init__(self, path: Path, good: Callable[[dict[str, Any]], bool]):
        self._path, self.rows = path, dict[str, dict[str, Any]]()
        end = 0
        with path.open("ab+") as file:
            file.seek(0)
            for line in file:
                row = _row(line)
                if row is None or not good(row):
                    break
                self.rows[row["question_id"]] = row
                end += len(line)
            file.truncate(end)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._path.open("ab") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows.update((row["question_id"], row) for row in rows)


def _row(line: bytes) -> dict[str, Any] | None:
    """A journal's line, None where it was not written to its end."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
