"""Kills jobs at random times, resumes each time, and compares the datasets with one of an undisturbed run.

python benchmarks/dataset_kill.py --kills 100
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, describe, save

from worldsim.evaluation.speed import machine_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dataset_drills import environment, kill_drill


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--count", type=int, default=120, help="half the episodes of a dataset")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=1.5, help="longest time between two kills in seconds")
    parser.add_argument("--forked", action="store_true", help="start jobs and workers by fork, which takes no time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.update(environment())
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        told = kill_drill(
            Path(folder),
            kills=options.kills,
            count=options.count,
            workers=options.workers,
            seed=options.seed,
            most=options.most,
            forked=options.forked,
        )
    figures = {
        "made": machine_facts(),
        "episodes": 2 * options.count,
        "workers": options.workers,
        "seconds": round(time.monotonic() - started),
        **{key: value for key, value in vars(told).items() if key != "waits"},
    }
    text = f"""# Jobs killed at random times

{told.total()} SIGKILLs ({told.job} of the job's main process, {told.everything} of all its processes, {told.worker} of one worker)
at times drawn evenly from 0 to {options.most:g} s, over {told.datasets} datasets of {2 * options.count} episodes with
{options.workers} workers{" that are forked" if options.forked else ""}, resumed each time ({told.starts} starts):
**{told.identical} of {told.datasets} bit-identical** to an undisturbed run, {told.lost} episodes lost, {told.doubled} doubled,
{told.left_over} half-written files left.

Bit-identical: plan, every array file, and every commit record but the keys that tell of its making.

{describe(figures["made"])}
"""
    save("dataset_kill", figures, text, options.out)
    return 0 if told.identical == told.datasets and not told.lost + told.doubled + told.left_over else 1


if __name__ == "__main__":
    sys.exit(main())
