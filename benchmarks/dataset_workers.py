"""One plan by 1, 2 and 4 workers in shuffled orders: the same dataset hash; with --scaling, frames a second by 1 and by 2 workers.

python benchmarks/dataset_workers.py
python benchmarks/dataset_workers.py --scaling --world carracing-nano --groups 6 --rounds 2

The latter takes some two minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, describe, interleave, save, spread
from dataset_write import planned
from rich.console import Console

from worldsim.datasets.identity import dataset_hash
from worldsim.datasets.job import run_job
from worldsim.datasets.reader import read_commits
from worldsim.datasets.writer import read_plan
from worldsim.evaluation.speed import machine_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dataset_drills import environment, plan


def run(first: Path, name: str, workers: int, shuffle: int | None, *, launcher: str) -> tuple[str, float]:
    """Run a copy of a plan; return its hash and its frames a second, from the beginning of the first group to the last commit."""
    path = Path(shutil.copytree(first, first.with_name(name)))
    cfg = {"out": str(path), "launcher": launcher, "workers": workers, "attempts": 1, "finalize": False, "shuffle": shuffle}
    assert run_job(cfg, console=Console(quiet=True)) == 0
    told = dataset_hash(path), rate(path)
    shutil.rmtree(path)
    return told


def rate(path: Path) -> float:
    """Return frames a second by the commit records; a group began as many seconds before its first commit as its episodes took."""
    records, batch = read_commits(path), read_plan(path).batch
    began = min(record["committed"] - batch * record["seconds"] for record in records)
    ended = max(record["committed"] for record in records)
    return float(sum(record["frames"] for record in records) / (ended - began))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", action="store_true", help="measure frames a second; on a machine that does nothing else")
    parser.add_argument("--world", default="", help="a learned world; without, a toy that costs nothing")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.update(environment())
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "planned"
        if options.world:
            planned(first, options.world, options.groups, 8, 64)
        else:
            plan(first, count=4 * options.groups, batch=8)
        orders = [(1, None), (1, 0), (2, 1), (2, 2), (4, 3), (4, 4)]
        hashes: dict[str, str] = {}

        def measured(workers: int, shuffle: int | None) -> float:
            launcher = "processes" if workers > 1 or options.scaling else "here"
            name = f"{workers} workers, order {shuffle}, dataset {len(hashes)}"
            hashes[name], frames_a_second = run(first, "copy", workers, shuffle, launcher=launcher)
            return frames_a_second

        rates = interleave(options.rounds, {str(n): lambda n=n: measured(n, None) for n in (1, 2)}) if options.scaling else {}
        if not options.scaling:
            for workers, shuffle in orders:
                measured(workers, shuffle)
    figures = {
        "made": machine_facts(),
        "hashes": hashes,
        "rates": {name: spread(values, 1) for name, values in rates.items()},
        "seconds": round(time.monotonic() - started),
    }
    same = len(set(hashes.values())) == 1
    by = "1 and 2 workers" if rates else "1, 2 and 4 workers, each in the plan's or a shuffled order"
    text = f"""# Workers and orders

{options.world or "A toy world"}, {options.groups} groups of 8 episodes by {by}:
**{"one hash for all" if same else "different hashes"}**, {next(iter(hashes.values()))[:16]} ({len(hashes)} datasets).
"""
    if rates:
        one, two = (figures["rates"][name]["median"] for name in "12")
        text += f"\nFrames a second with 1 worker {one}, with 2 workers {two}: **{two / one:.2f} times**.\n"
    save("dataset_scaling" if rates else "dataset_workers", figures, text + f"\n{describe(figures['made'])}\n", options.out)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
