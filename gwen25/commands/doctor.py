"""`gwen25 doctor`: what this machine lacks for a run, a line each, for people and (`--json`) for programs.

Without --profile the machine is held against the reference recipe.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter
from dataclasses import asdict, replace

from gwen25.checks import Asked, Finding
from gwen25.commands.common import configuration
from gwen25.doctor import examine
from gwen25.job import Redactor

COLUMNS = 100
INDENT = 22  # below "status  name of the check  "


def run(arguments: argparse.Namespace) -> int:
    """Every finding as its check ends. 0 where all is well or only warned of, 1 where a check failed."""
    rows = []
    redact = Redactor()  # no check shows a secret; an error of somebody else's might
    for name, found in examine(Asked(configuration(arguments), arguments.profile)):
        finding = replace(found, what=redact(found.what), todo=redact(found.todo))
        rows.append({"check": name, **asdict(finding)})
        if not arguments.json:
            print(lines(name, finding), flush=True)
    counts = Counter(row["status"] for row in rows)
    if arguments.json:
        print(json.dumps({"healthy": not counts["fail"], "findings": rows}, indent=1))
    else:
        print(f"\n{counts['ok']} fine, {counts['warn']} warnings, {counts['fail']} failures")
    return 1 if counts["fail"] else 0


def lines(name: str, finding: Finding) -> str:
    """A finding in lines of at most 100 columns; what to do follows an arrow."""
    told = f"{finding.status:6}{name:16}{finding.what}"
    parts = [told, f"{' ' * INDENT}-> {finding.todo}"] if finding.todo else [told]
    return "\n".join(line for part in parts for line in textwrap.wrap(part, COLUMNS, subsequent_indent=" " * INDENT))
