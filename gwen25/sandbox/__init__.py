"""The judge of programs: run what a model wrote, isolated, and say whether it does what the tests ask.

    from gwen25.sandbox import grade
    verdict = grade("print(int(input()) * 2)", [TestCase("4\\n", "8\\n")])
    verdict.passed, verdict.status, verdict.cpu_seconds

A program runs in a child of its own, forked for each test from a prepared interpreter (a zygote), and locked in before its first line:
namespaces where bubblewrap can give them (no network, no other process, an own root with the interpreter and its libraries and nothing
else), Landlock, seccomp (no sockets, processes, tracing, mounts, signals to others), resource limits, no capabilities, an environment of
five fixed names, a user of its own where the grader is root. `probe` says what is in force here; docs/sandbox.md draws it.
Nothing is left when it ends, and it ends when the grader does.

What this does not stop: bugs of the kernel that both share; reading what lies among the interpreter's packages; and without namespaces
(level "landlock") seeing that a path exists (`stat`), and filling the disk with up to four times `output_bytes` and a quarter of a second.
A program that sleeps or waits for ever ends as "unknown" when wall time runs out; `grade_surely` makes up its mind about those.
Not here: prompts and parsing (`chat`), rewards, pass@k.
"""

from gwen25.sandbox.isolate import Isolation, Limits
from gwen25.sandbox.judge import Job, Status, Verdict, grade, grade_many
from gwen25.sandbox.layers import probe
from gwen25.sandbox.sure import STALLED, Settled, grade_surely

__all__ = ["STALLED", "Isolation", "Job", "Limits", "Settled", "Status", "Verdict", "grade", "grade_many", "grade_surely", "probe"]
