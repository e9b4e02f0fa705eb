"""LiveCodeBench's own evaluator, in a process of its own: `python official.py CHECKOUT WORKERS TIMEOUT`, started by `methods` alone.

Reads a line of JSON, a list of [program, inputs, outputs, func_name]; writes a line of JSON, whether each passed. The evaluator is run as
it runs itself: a pool of WORKERS processes, a process a program, TIMEOUT seconds of wall time a test. Nothing of ours is imported here.
"""

from __future__ import annotations

import json
import os
import sys


def main(checkout: str, workers: int, timeout: int) -> None:
    answers = os.fdopen(os.dup(1), "w")  # what programs and evaluator print must not get among the answers
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path.insert(0, checkout)
    from lcb_runner.evaluation.compute_code_generation_metrics import evaluate_generations  # type: ignore[import-not-found]

    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        jobs = json.loads(line)
        samples = [
            {"input_output": json.dumps({"inputs": inputs, "outputs": outputs, "fn_name": name})} for _, inputs, outputs, name in jobs
        ]
        results, _ = evaluate_generations(samples, [[job[0]] for job in jobs], debug=False, num_process_evaluate=workers, timeout=timeout)
        # a test's result is True, or a negative number that says how it failed; the first failure is the last result
        print(json.dumps([all(result is True for result in results[at][0]) for at in range(len(jobs))]), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
