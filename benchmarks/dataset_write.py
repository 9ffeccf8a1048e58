"""What writing costs: the same groups rolled out alone, and rolled out, compressed, written and committed behind the next one's back.

python benchmarks/dataset_write.py --world carracing-nano
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, describe, interleave, save, spread
from rich.console import Console

from worldsim.config import compose
from worldsim.datasets.generate import plan_dataset
from worldsim.datasets.job import read_job
from worldsim.datasets.launch.here import one_thread
from worldsim.datasets.work import Task, Worker
from worldsim.evaluation.speed import machine_facts


def planned(path: Path, world: str, groups: int, batch: int, horizon: int) -> Path:
    """Plan groups of random driving."""
    settings = ["scenario=[aimless]", f"world={world}", f"count={groups * batch}", f"batch={batch}", f"horizon={horizon}", f"out={path}"]
    from omegaconf import OmegaConf

    cfg: Any = OmegaConf.to_container(compose("data_plan", settings), resolve=True)
    plan_dataset(cfg, console=Console(quiet=True))
    return path


def measure(path: Path, *, write: bool, clock: Callable[[], float]) -> tuple[float, int, int]:
    """Return seconds by ``clock``, frames and bytes of a dataset's groups."""
    plan, recipe = read_job(path)
    worker, frames = Worker(Task(str(path), recipe)), 0
    with one_thread():
        worker.roll(plan.groups()[0])  # warm
        started, futures = clock(), []
        for jobs in plan.groups():
            if write:
                futures.append(worker.run_group(jobs))
            else:
                frames += sum(len(episode.frames) for episode in worker.roll(jobs))
        frames += sum(one.frames for future in futures for one in future.result())
        seconds = clock() - started
    worker.close()
    return seconds, frames, sum(file.stat().st_size for file in path.rglob("c.*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    numbers = iter(range(10**6))
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:

        def taken(write: bool, clock: Callable[[], float]) -> float:
            path = planned(Path(folder) / str(next(numbers)), options.world, options.groups, options.batch, options.horizon)
            seconds, sizes["frames"], size = measure(path, write=write, clock=clock)
            sizes["bytes"] = max(size, sizes.get("bytes", 0))
            return sizes["frames"] / seconds

        rates = interleave(
            options.rounds,
            {
                "alone, CPU": lambda: taken(False, time.process_time),
                "written, CPU": lambda: taken(True, time.process_time),
                "alone, wall": lambda: taken(False, time.perf_counter),
                "written, wall": lambda: taken(True, time.perf_counter),
            },
        )
    medians = {name: spread(values, 1) for name, values in rates.items()}
    share = {clock: medians[f"written, {clock}"]["median"] / medians[f"alone, {clock}"]["median"] for clock in ("CPU", "wall")}
    figures = {"made": machine_facts(), "world": options.world, "batch": options.batch, "rates": medians, "share": share, **sizes}
    rows = "\n".join(f"| {name} | {one['median']} | {one['low']} to {one['high']} |" for name, one in medians.items())
    rate = medians["written, wall"]["median"] * sizes["bytes"] / sizes["frames"] / 1e6
    text = f"""# Writing beside generating

{options.world}, {options.groups} groups of {options.batch} episodes of {options.horizon} steps, one thread, {options.rounds} rounds.

| | frames a second | over the rounds |
|---|---|---|
{rows}

Written is **{share["CPU"]:.1%}** of the generator alone by CPU time of all threads together, and {share["wall"]:.1%} by the wall
clock (one that others share); {rate:.2f} MB/s reach the disk, {sizes["bytes"] / sizes["frames"]:.0f} bytes a frame.

{describe(figures["made"])}
"""
    save("dataset_write", figures, text, options.out)


if __name__ == "__main__":
    main()
