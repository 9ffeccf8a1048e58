"""What writing costs beside generating, and what latents save: groups rolled out alone, and written behind the next one's back.

python benchmarks/dataset_write.py --world carracing-nano

It takes some three minutes on one quiet core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, describe, save, spread
from omegaconf import OmegaConf
from rich.console import Console

from worldsim.config import compose
from worldsim.datasets.behind import WriteBehind
from worldsim.datasets.generate import plan_dataset
from worldsim.datasets.job import read_job
from worldsim.datasets.launch.here import one_thread
from worldsim.datasets.work import Task, Worker
from worldsim.episode import Episode
from worldsim.evaluation.speed import machine_facts
from worldsim.rollout import EpisodeJob

KINDS = ("none", "beside", "instead")


@dataclass(frozen=True)
class Taken:
    """Seconds of the processor and of the wall clock that something took."""

    cpu: float
    wall: float

    @staticmethod
    def by(act: Callable[[], Any]) -> tuple[Taken, Any]:
        """Measure ``act``; give what it returns, too."""
        cpu, wall = time.process_time(), time.perf_counter()
        given = act()
        return Taken(time.process_time() - cpu, time.perf_counter() - wall), given


def planned(path: Path, world: str, groups: int, batch: int, horizon: int, latents: str = "none") -> Path:
    """Plan groups of random driving."""
    settings = ["scenario=[aimless]", f"world={world}", f"count={groups * batch}", f"batch={batch}", f"horizon={horizon}", f"out={path}"]
    cfg: Any = OmegaConf.to_container(compose("data_plan", [*settings, f"record.latents={latents}"]), resolve=True)
    plan_dataset(cfg, console=Console(quiet=True))
    return path


def write(worker: Worker, jobs: Sequence[EpisodeJob], episodes: Sequence[Episode]) -> None:
    """Write a ready group."""
    for job, episode in zip(jobs, episodes, strict=True):
        worker.writer.write(job, episode)


def together(worker: Worker, behind: WriteBehind, jobs: Sequence[EpisodeJob], episodes: Sequence[Episode]) -> None:
    """Roll a group out while one is written behind its back, as in the middle of a job."""
    written = behind.submit(lambda: write(worker, jobs, episodes))
    worker.roll(jobs)
    written.result()


def turn(workers: dict[str, Worker], behind: WriteBehind, group: int, taken: dict[str, list[Taken]]) -> int:
    """Take every measure once with a group; return its frames."""
    for kind, worker in workers.items():
        jobs = worker.writer.plan.groups()[group]
        spent, episodes = Taken.by(partial(worker.roll, jobs))
        taken[f"{kind}, alone"].append(spent)
        if kind == "none":
            taken["none, together"].append(Taken.by(partial(together, worker, behind, jobs, episodes))[0])
            taken["none, alone again"].append(Taken.by(partial(worker.roll, jobs))[0])  # before and after: a machine changes its pace
        taken[f"{kind}, written"].append(Taken.by(partial(write, worker, jobs, episodes))[0])
    return sum(len(episode.frames) for episode in episodes)


def opened(path: Path) -> Worker:
    """Open a planned dataset, and warm its world up."""
    plan, recipe = read_job(path)
    worker = Worker(Task(str(path), recipe))
    worker.roll([replace(job, horizon=4) for job in plan.groups()[0]])
    return worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    names = [*(f"{kind}, {what}" for kind in KINDS for what in ("alone", "written")), "none, together", "none, alone again"]
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    shape, behind, frames = (options.groups, options.batch, options.horizon), WriteBehind(), []
    with tempfile.TemporaryDirectory() as folder, one_thread():
        workers = {kind: opened(planned(Path(folder, kind), options.world, *shape, kind)) for kind in KINDS}
        for _ in range(options.rounds):
            frames += [turn(workers, behind, group, taken) for group in range(options.groups)]
        sizes = {kind: sum(file.stat().st_size for file in Path(folder, kind).rglob("c.*")) for kind in KINDS}
        behind.close()
        for worker in workers.values():
            worker.close()
    report(options, taken, frames, {kind: round(size / sum(frames[: options.groups])) for kind, size in sizes.items()})


def report(options: argparse.Namespace, taken: dict[str, list[Taken]], frames: list[int], sizes: dict[str, int]) -> None:
    """Write down what was measured."""
    rates = {
        f"{name}, {clock}": spread([count / getattr(one, clock) for count, one in zip(frames, taken[name], strict=True)], 1)
        for name in taken
        for clock in ("cpu", "wall")
    }
    pairs = zip(taken["none, alone"], taken.pop("none, alone again"), strict=True)
    taken["none, alone"] = [Taken((a.cpu + b.cpu) / 2, (a.wall + b.wall) / 2) for a, b in pairs]
    overhead = {kind: share(taken[f"{kind}, written"], taken[f"{kind}, alone"], "cpu") for kind in KINDS}
    sustained = {clock: share(taken["none, alone"], taken["none, together"], clock) for clock in ("cpu", "wall")}
    saved = {kind: share(taken["none, alone"], taken[f"{kind}, alone"], "cpu") for kind in KINDS[1:]}
    figures = {
        "made": machine_facts(),
        "world": options.world,
        "shape": {"groups": options.groups, "batch": options.batch, "horizon": options.horizon},
        "rates": rates,
        "overhead": overhead,
        "sustained": sustained,
        "speed": saved,
        "bytes_a_frame": sizes,
    }
    rows = "\n".join(f"| {name} | {one['median']} | {one['low']} to {one['high']} |" for name, one in rates.items())
    text = f"""# Writing beside generating

{options.world}, {options.groups} groups of {options.batch} episodes of {options.horizon} steps, one thread, {options.rounds} rounds;
every ratio is the median of those of two measures taken one after the other.

| frames a second | median | over the rounds |
|---|---|---|
{rows}

Compressing, hashing, writing and committing take **{overhead["none"]:.1%}** of the generator's processor time (with latents beside
frames {overhead["beside"]:.1%}, with latents instead {overhead["instead"]:.1%}). Written behind the next group's back, the generator makes
**{sustained["wall"]:.1%}** of its frames a second by the wall clock, {sustained["cpu"]:.1%} by processor time.
With latents beside frames it is {saved["beside"]:.2f} times as fast as with frames alone, with latents instead of them
**{saved["instead"]:.2f} times**.
A frame takes {sizes["none"]} bytes on disk, {sizes["beside"]} with latents beside it, {sizes["instead"]} as latents.

{describe(figures["made"])}
"""
    save("dataset_write", figures, text, options.out)


def share(part: Sequence[Taken], whole: Sequence[Taken], clock: str) -> float:
    """Return the median ratio of two measures of the same turn."""
    return round(statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in zip(part, whole, strict=True)), 4)


if __name__ == "__main__":
    main()
