"""Refuses every write call of a job by one of four errors, and looks at what the job says and how a later one ends.

python benchmarks/dataset_faults.py
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from common import RESULTS, describe, save

from worldsim.cli import main as worldsim
from worldsim.evaluation.speed import machine_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dataset_drills import ERRORS, environment, fault_drill


def command(arguments: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        code = worldsim(arguments)
    return code, said.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2, help="half the episodes of a dataset")
    parser.add_argument("--every", type=int, default=1, help="1: every write call")
    parser.add_argument("--each", action="store_true", help="refuse a call by each error, rather than by one of them in turn")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as folder:
        told = fault_drill(Path(folder), command, count=options.count, every=options.every, each=options.each)
    figures = {"made": machine_facts(), "errors": [os.strerror(number) for number in ERRORS], "every": options.every, **vars(told)}
    text = f"""# Disks that refuse

A job of {2 * options.count} episodes and its finalizing make {told.calls} write calls (open, fsync, rename, mkdir, Zarr's own).
{told.injected} times a job ran on a disk that refuses from one of them on ({", ".join(os.strerror(number) for number in ERRORS)}):
**{told.clear} of {told.injected}** ended with exit code 2 and one sentence that names the dataset and the reason, and
**{told.completed} of {told.injected}** were completed by a later job, bit-identical to an undisturbed one.

{describe(figures["made"])}
"""
    save("dataset_faults", figures, text + "".join(f"\n- {line}" for line in told.wrong), options.out)
    return 0 if not told.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
