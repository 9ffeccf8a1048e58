"""What writing costs beside generating, and what latents save: groups rolled out alone, and written behind the next one's back.

python benchmarks/dataset_write.py --world carracing-nano
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, describe, save, spread
from omegaconf import OmegaConf
from rich.console import Console

from worldsim.config import compose
from worldsim.datasets.generate import plan_dataset
from worldsim.datasets.job import read_job
from worldsim.datasets.launch.here import one_thread
from worldsim.datasets.work import Task, Worker
from worldsim.episode import Episode
from worldsim.evaluation.speed import machine_facts
from worldsim.rollout import EpisodeJob

KINDS = ("none", "beside", "instead")
Group = tuple[Sequence[EpisodeJob], list[Episode]]


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


def alone(worker: Worker) -> list[Group]:
    """Roll every group out, and write nothing."""
    return [(jobs, worker.roll(jobs)) for jobs in worker.writer.plan.groups()]


def write(worker: Worker, groups: list[Group]) -> None:
    """Write ready groups, with nothing beside it."""
    for jobs, episodes in groups:
        for job, episode in zip(jobs, episodes, strict=True):
            worker.writer.write(job, episode)


def together(worker: Worker) -> None:
    """Roll every group out and write it behind the next one's back, as a job does."""
    for future in [worker.run_group(jobs) for jobs in worker.writer.plan.groups()]:
        future.result()


def round_of(first: dict[str, Path], folder: Path, taken: dict[str, list[Taken]], sizes: dict[str, int]) -> None:
    """Take every measure once, each on a fresh copy of its dataset."""
    for kind in KINDS:
        worker = opened(first[kind], folder / kind)
        spent, groups = Taken.by(lambda worker=worker: alone(worker))
        taken[f"{kind}, alone"].append(spent)
        sizes["frames"] = sum(len(episode.frames) for _, episodes in groups for episode in episodes)
        taken[f"{kind}, written"].append(Taken.by(lambda worker=worker, groups=groups: write(worker, groups))[0])
        sizes[kind] = sum(file.stat().st_size for file in (folder / kind).rglob("c.*"))
        closed(worker, folder / kind)
        if kind == "none":
            worker = opened(first[kind], folder / kind)
            taken["none, together"].append(Taken.by(lambda worker=worker: together(worker))[0])
            closed(worker, folder / kind)


def opened(planned: Path, path: Path) -> Worker:
    """Open a copy of a planned dataset, and warm its world up."""
    shutil.copytree(planned, path)
    plan, recipe = read_job(path)
    worker = Worker(Task(str(path), recipe))
    worker.roll([EpisodeJob(**{**vars(job), "horizon": 4}) for job in plan.groups()[0]])
    return worker


def closed(worker: Worker, path: Path) -> None:
    """End a worker, and forget its dataset."""
    worker.close()
    shutil.rmtree(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    taken: dict[str, list[Taken]] = {f"{kind}, {what}": [] for kind in KINDS for what in ("alone", "written")} | {"none, together": []}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, one_thread():
        shape = (options.groups, options.batch, options.horizon)
        first = {kind: planned(Path(folder, f"{kind}-planned"), options.world, *shape, kind) for kind in KINDS}
        for _ in range(options.rounds):
            round_of(first, Path(folder), taken, sizes)
    report(options, taken, sizes)


def report(options: argparse.Namespace, taken: dict[str, list[Taken]], sizes: dict[str, int]) -> None:
    """Write down what was measured."""
    frames = sizes["frames"]
    rates = {name: spread([frames / (one.cpu if "CPU" in name else one.wall) for one in taken[key]], 1) for name, key in named(taken)}
    overhead = {kind: share(taken[f"{kind}, written"], taken[f"{kind}, alone"], "cpu") for kind in KINDS}
    sustained = {clock: share(taken["none, alone"], taken["none, together"], clock) for clock in ("cpu", "wall")}
    saved = {kind: share(taken["none, alone"], taken[f"{kind}, alone"], "cpu") for kind in KINDS[1:]}
    figures = {
        "made": machine_facts(),
        "world": options.world,
        "shape": {"groups": options.groups, "batch": options.batch, "horizon": options.horizon, "frames": frames},
        "rates": rates,
        "overhead": overhead,
        "sustained": sustained,
        "speed": saved,
        "bytes_a_frame": {kind: round(sizes[kind] / frames) for kind in KINDS},
    }
    rows = "\n".join(f"| {name} | {one['median']} | {one['low']} to {one['high']} |" for name, one in rates.items())
    text = f"""# Writing beside generating

{options.world}, {options.groups} groups of {options.batch} episodes of {options.horizon} steps, one thread, {options.rounds} rounds.

| frames a second | median | over the rounds |
|---|---|---|
{rows}

Compressing, hashing, writing and committing take **{overhead["none"]:.1%}** of the generator's processor time (with latents beside
frames {overhead["beside"]:.1%}, with latents instead {overhead["instead"]:.1%}). Written behind the next group's back, the generator makes
**{sustained["wall"]:.1%}** of its frames a second by the wall clock, {sustained["cpu"]:.1%} by processor time.
With latents beside frames it is {saved["beside"]:.2f} times as fast as with frames alone, with latents instead of them
**{saved["instead"]:.2f} times**.
A frame takes {figures["bytes_a_frame"]["none"]} bytes on disk, {figures["bytes_a_frame"]["beside"]} with latents beside it,
{figures["bytes_a_frame"]["instead"]} as latents.

{describe(machine_facts())}
"""
    save("dataset_write", figures, text, options.out)


def named(taken: dict[str, list[Taken]]) -> list[tuple[str, str]]:
    """Return the names of the rates, and what they are of."""
    return [(f"{key}, {clock}", key) for key in taken for clock in ("CPU", "wall")]


def share(part: Sequence[Taken], whole: Sequence[Taken], clock: str) -> float:
    """Return the median ratio of two measures of the same round."""
    return round(statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in zip(part, whole, strict=True)), 4)


if __name__ == "__main__":
    main()
