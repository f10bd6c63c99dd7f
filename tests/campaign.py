#!/usr/bin/env python3
"""Many more drawn cases than the suite has time for, against the float64 oracle.

    python tests/campaign.py --device cpu --seeds 0:1000 --cases 100 --processes 2

draws 100 cases of every form (test_property.py) for each seed in 0 .. 999. A seed draws the same
cases wherever it runs, so that a run goes on with the seeds after those it ended with; a line on
standard output says what a range of seeds gave. Exit code 1 where a case was wrong; its arguments
are printed.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import sys
import time
import traceback

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import test_property

# A test, what it draws, and how often of ten.
TESTS = (
    (test_property.test_every_form, {"form": test_property.forms()}, 8),
    (test_property.test_ssim, {"problem": test_property.problems()}, 2),
)


def run_seed(number: int, cases: int, device: torch.device) -> tuple[int, list[str]]:
    """How many cases were right, and what was wrong."""
    right, wrong = 0, []
    for test, draws, share in TESTS:
        outcomes = outcomes_of(
            test.hypothesis.inner_test, draws, cases * share // 10, number, device
        )
        right += outcomes.count("")
        wrong += [f"seed {number}: {outcome}" for outcome in outcomes if outcome]
    return right, wrong


def outcomes_of(check, draws, cases: int, number: int, device: torch.device) -> list[str]:
    """Of each case: nothing, or what went wrong and with which arguments."""
    outcomes = []
    others = {"way": None} if "way" in inspect.signature(check).parameters else {}

    @seed(number)
    @settings(
        max_examples=max(1, cases),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=st.fixed_dictionaries(draws))
    def run(drawn):
        try:
            check(device=device, **others, **drawn)
        except (AssertionError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            outcomes.append(f"{drawn}\n{traceback.format_exc(limit=-3)}")
        else:
            outcomes.append("")

    run()
    return outcomes


def start_worker() -> None:
    torch.set_num_threads(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--seeds", default="0:10", help="FIRST:END")
    parser.add_argument("--cases", default=100, type=int, help="of a seed")
    parser.add_argument("--processes", default=1, type=int)
    parser.add_argument("--seconds", default=1e9, type=float, help="begin no seed after so many")
    options = parser.parse_args()
    first, end = map(int, options.seeds.split(":"))
    started, right, failures, done = time.monotonic(), 0, [], 0
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, start_worker) as pool:
        batch = 4 * options.processes
        for begin in range(first, end, batch):
            if time.monotonic() - started > options.seconds:
                break
            numbers = range(begin, min(begin + batch, end))
            arguments = [(number, options.cases, options.device) for number in numbers]
            for count, wrong in pool.starmap(run_seed, arguments, chunksize=1):
                right += count
                failures += wrong
            done = numbers.stop
    for failure in failures:
        print(failure)
    print(
        f"{options.device}: seeds {first}:{done}, {options.cases} cases each: {right} right, "
        f"{len(failures)} wrong, {time.monotonic() - started:.0f} s, torch {torch.__version__}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
