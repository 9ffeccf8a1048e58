"""The batch engine: run a plan's missing groups on worker processes, and show how it goes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space
from rich.console import Console

from worldsim.datasets.finalize import finalize
from worldsim.datasets.layout import DatasetError, DatasetSpec
from worldsim.datasets.plan import Plan
from worldsim.datasets.preview import contact_sheet, preview_video
from worldsim.datasets.progress import Meter, print_summary, rows_by_scenario
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.work import Recipe, Recorded, Worker, make_env, run_in_process, start_process
from worldsim.datasets.writer import EpisodeWriter, create_dataset, write_error
from worldsim.rollout import EpisodeJob, reset, row_info


@dataclass(frozen=True)
class Probe:
    """What an environment says of itself on its first reset.

    Attributes:
        frame_size: Height and width in pixels.
        fps: Frames a second of simulated time.
        action_space: Space of one action.
        state_names: Names of its labelled state.
        checkpoint: What a learned world says of its weights (``metadata["checkpoint"]``: name, sha256); empty for a simulator.
    """

    frame_size: tuple[int, int]
    fps: float
    action_space: Space[Any]
    state_names: tuple[str, ...]
    checkpoint: Mapping[str, Any]


def probe(recipe: Recipe, *, seed: int, options: dict[str, Any] | None = None) -> Probe:
    """Make and reset an environment once to see what it gives.

    Raises:
        ValueError: It cannot be made, or its observations are no frames.
    """
    env = make_env(replace(recipe, rows=1))
    try:
        frames, infos = reset(env, seeds=[seed], options=options)
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise DatasetError(
                f"environment {recipe.env!r} observes {env.single_observation_space}, not frames (H, W, 3) uint8: "
                "record it by 'source=gym source.id=...'"
            )
        fps = env.metadata.get("render_fps") or 30.0
        names = tuple(row_info(infos, 0).get("state", {}))
        size = (frames.shape[1], frames.shape[2])
        return Probe(size, float(fps), env.single_action_space, names, dict(env.metadata.get("checkpoint") or {}))
    except gym.error.Error as error:
        raise DatasetError(f"environment {recipe.env!r} cannot be reset: {error}") from error
    finally:
        env.close()


def run_plan(path: Path | str, spec: DatasetSpec, plan: Plan, recipe: Recipe, *, workers: int = 1, meter: Meter | None = None) -> Plan:
    """Record what the dataset lacks of a plan.

    Args:
        path: Folder of the dataset, made if it is not there.
        spec: What the dataset says of itself.
        plan: All its episodes; those committed already are left alone.
        recipe: How groups are made.
        workers: Processes; 1 runs in this one.
        meter: Shows progress.

    Returns:
        The plan with the places that its episodes have in this dataset.

    Raises:
        DatasetError: The folder holds another plan, a group failed, a worker died, or the disk refuses. Commits are kept.
    """
    meter = meter or Meter(quiet=True)
    plan = create_dataset(path, spec, plan)
    writer = EpisodeWriter(path)
    groups = [jobs for jobs in plan.groups() if not all(writer.is_done(job.id) for job in jobs)]
    missing = sum(len(jobs) for jobs in groups)
    meter.start(frames=sum(job.horizon + 1 for jobs in groups for job in jobs), episodes=missing, there=len(plan.jobs) - missing)
    runner = _run_here if min(workers, len(groups)) <= 1 else _run_processes
    with meter, closing(runner(str(path), recipe, groups, workers, meter.step)) as results:
        for jobs, recorded in results:
            meter.finish(jobs, recorded)
    return plan


def close_run(path: Path | str, meter: Meter, console: Console, *, preview: bool) -> EpisodeReader:
    """Draw the previews, finalize a dataset that is complete, and print its table.

    Raises:
        DatasetError: No episode is usable, or the disk refuses.
    """
    root = Path(path)
    records = read_commits(root)
    store = EpisodeReader(root)
    if not len(store):
        raise DatasetError(f"none of the {len(records)} episodes in {root} is usable; the first reason: {records[0]['reason']}")
    files = []
    if preview:
        try:
            files = [contact_sheet(store, root / "contact_sheet.png"), preview_video(store, root / "preview.mp4")]
        except OSError as error:
            raise write_error(root, error) from error
    summary = finalize(root)
    print_summary(console, root, summary, meter.rate(), rows_by_scenario(records))
    for file in files:
        console.print(str(file), soft_wrap=True)
    return store


_Results = Generator[tuple[Sequence[EpisodeJob], list[Recorded]], None, None]


def _run_here(path: str, recipe: Recipe, groups: Sequence[Sequence[EpisodeJob]], workers: int, on_step: Callable[[int], None]) -> _Results:
    del workers
    if not groups:
        return
    worker = Worker(path, recipe, on_step)
    try:
        for jobs in groups:
            yield jobs, worker.run(jobs)
    finally:
        worker.close()


def _run_processes(
    path: str, recipe: Recipe, groups: Sequence[Sequence[EpisodeJob]], workers: int, on_step: Callable[[int], None]
) -> _Results:
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    theirs, lifeline = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(groups)), context, start_process, (path, recipe, queue, theirs))
    try:
        waiting: dict[Future[list[Recorded]], Sequence[EpisodeJob]] = {pool.submit(run_in_process, jobs): jobs for jobs in groups}
        while waiting:
            done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            on_step(_drain(queue))
            for future in done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise DatasetError(
            f"a worker process died (killed, or out of memory?) while recording {path}: committed episodes are kept; "
            "run the same command again, with fewer 'workers' if memory is short"
        ) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        lifeline.close()  # workers end now rather than after their groups
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for end in (lifeline, theirs, queue):
            end.close()


def _drain(queue: Any) -> int:
    total = 0
    while True:
        try:
            total += queue.get_nowait()
        except Empty:
            return total
