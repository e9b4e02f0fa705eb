"""The judge of programs: run what a model wrote, isolated, and say whether it does what the tests ask.

    from gwen25.sandbox import grade
    verdict = grade("print(int(input()) * 2)", [TestCase("4\\n", "8\\n")])
    verdict.passed, verdict.status, verdict.cpu_seconds

A program runs in a fresh interpreter, locked in before its first line: Landlock (reads the interpreter, its packages and the system's
libraries, writes one scratch folder), seccomp (no sockets, processes, programs, tracing, mounts, signals to others), resource limits, no
capabilities, an environment of five fixed names, and a user of its own where the grader is root and that user can read the interpreter.
Nothing is left when it ends, and it ends when the grader does. `probe` says what is in force here.

What this does not stop: seeing that a path exists (`stat`); up to 64 deleted files held open, of `output_bytes` each; reading what lies
among the interpreter's packages; bugs of the kernel that both share; in a function's tests, one call leaving state for the next.
A program that sleeps or waits for ever ends as "unknown" when wall time runs out; `grade_surely` makes up its mind about those.
Not here: prompts and parsing (`chat`), rewards, pass@k.
"""

from gwen25.sandbox.isolate import Isolation, Limits
from gwen25.sandbox.judge import Job, Status, Verdict, grade, grade_many
from gwen25.sandbox.layers import probe
from gwen25.sandbox.sure import STALLED, Settled, grade_surely

__all__ = ["STALLED", "Isolation", "Job", "Limits", "Settled", "Status", "Verdict", "grade", "grade_many", "grade_surely", "probe"]
