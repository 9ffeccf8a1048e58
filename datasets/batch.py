"""The batch engine: run a plan's missing groups by a launcher, and show how it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space
from rich.console import Console

from worldsim.datasets.finalize import finalize
from worldsim.datasets.launch import find_launcher
from worldsim.datasets.layout import DatasetError, DatasetSpec, LatentSpec, sweep
from worldsim.datasets.lock import job_lock
from worldsim.datasets.plan import Plan
from worldsim.datasets.preview import contact_sheet, preview_video
from worldsim.datasets.progress import Meter, print_summary, rows_by_scenario
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.storage import Root, local_file, place
from worldsim.datasets.work import Recipe, Task, make_env
from worldsim.datasets.writer import create_dataset, write_error
from worldsim.rollout import reset, row_info
from worldsim.types import Observation


@dataclass(frozen=True)
class Probe:
    """What an environment says of itself on its first reset.

    Attributes:
        frame_size: Height and width in pixels.
        fps: Frames a second of simulated time.
        action_space: Space of one action.
        state_names: Names of its labelled state.
        checkpoint: What a learned world says of its weights (``metadata["checkpoint"]``: name, sha256); empty for a simulator.
        latents: What latents episodes will hold by the recipe; None for none.
        observation: What a policy saw, ``(1, ...)``; without frames where latents are recorded instead.
        labels: What pictures of labels episodes will hold by the recipe, and their classes; None for none.
    """

    frame_size: tuple[int, int]
    fps: float
    action_space: Space[Any]
    state_names: tuple[str, ...]
    checkpoint: Mapping[str, Any]
    latents: LatentSpec | None
    observation: Observation
    labels: Mapping[str, Sequence[str]] | None = None


def probe(recipe: Recipe, *, seed: int, options: dict[str, Any] | None = None) -> Probe:
    """Make and reset an environment once to see what it gives.

    Raises:
        ValueError: It cannot be made, or its observations are no frames.
    """
    env = make_env(replace(recipe, rows=1, latents="none" if recipe.latents == "none" else "beside"))
    try:
        frames, infos = reset(env, seeds=[seed], options=options)
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise DatasetError(
                f"environment {recipe.env!r} observes {env.single_observation_space}, not frames (H, W, 3) uint8: "
                "record it by 'source=gym source.id=...'"
            )
        fps = env.metadata.get("render_fps") or 30.0
        info, size = row_info(infos, 0), (frames.shape[1], frames.shape[2])
        state = {name: np.array([value], dtype=np.float32) for name, value in info.get("state", {}).items()}
        seen = Observation(frames[:, :0, :0] if recipe.latents == "instead" else frames, state, np.ones(1, np.bool_), np.array([seed]))
        latents = None if recipe.latents == "none" else LatentSpec(recipe.latents, info["latent"].shape)
        labels = env.metadata.get("labels") if recipe.labels else None
        checkpoint = dict(env.metadata.get("checkpoint") or {})
        return Probe(size, float(fps), env.single_action_space, tuple(state), checkpoint, latents, seen, labels)
    except gym.error.Error as error:
        raise DatasetError(f"environment {recipe.env!r} cannot be reset: {error}") from error
    finally:
        env.close()


def run_plan(path: Root | str, spec: DatasetSpec, plan: Plan, recipe: Recipe, *, workers: int = 1, meter: Meter | None = None) -> Plan:
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
        DatasetError: The folder holds another plan, another job runs in it, a group failed, workers die, or the disk refuses. Commits
            are kept.
    """
    root = place(path)
    try:
        with job_lock(root):
            plan = create_dataset(root, spec, replace(plan, recipe=plan.recipe or recipe.to_json()))
            record(plan, Task(str(root), recipe), launcher="processes" if workers > 1 else "here", workers=workers, meter=meter)
    except OSError as error:
        raise write_error(root, error) from error
    return plan


def record(
    plan: Plan,
    task: Task,
    *,
    launcher: str,
    workers: int,
    cluster: Mapping[str, Any] | None = None,
    shuffle: int | None = None,
    meter: Meter | None = None,
) -> None:
    """Record what a dataset that is there lacks; the caller holds its lock.

    Args:
        plan: The episodes to look at.
        task: How they are recorded.
        launcher: One of ``worldsim.datasets.launch.LAUNCHERS``.
        workers: Processes, actors or array tasks.
        cluster: Settings of the launcher.
        shuffle: Seed of a random order of groups; None: the plan's.
        meter: Shows progress.

    Raises:
        DatasetError: A group failed, workers die, or the disk refuses. Commits are kept.
    """
    meter = meter or Meter(quiet=True)
    launch = find_launcher(launcher)
    root = place(task.path)
    sweep(root)
    done = done_episodes(root, task.attempts)
    groups = [jobs for jobs in plan.groups() if not all(job.id in done for job in jobs)]
    missing = sum(len(jobs) for jobs in groups)
    meter.start(frames=sum(job.horizon + 1 for jobs in groups for job in jobs), episodes=missing, there=len(plan.jobs) - missing)
    if not groups:
        return
    if shuffle is not None:
        groups = [groups[i] for i in np.random.default_rng(shuffle).permutation(len(groups))]
    with meter, closing(launch(task, groups, workers, meter.step, cluster or {})) as results:
        for jobs, recorded in results:
            meter.finish(jobs, recorded)


def done_episodes(root: Root, attempts: int | None) -> set[int]:
    """Return the episodes that are committed, those that failed only once they were tried ``attempts`` times."""
    records = read_commits(root)
    return {int(r["episode"]) for r in records if r["status"] != "failed" or (attempts is not None and r["attempt"] >= attempts)}


def close_run(path: Root | str, meter: Meter, console: Console, *, preview: bool) -> EpisodeReader:
    """Draw the previews, finalize a dataset that is complete, and print its table.

    Raises:
        DatasetError: No episode is usable, or the disk refuses.
    """
    root = place(path)
    records = read_commits(root)
    store = EpisodeReader(root)
    if not len(store):
        raise DatasetError(f"none of the {len(records)} episodes in {root} is usable; the first reason: {records[0]['reason']}")
    files = []
    if preview:
        try:
            files = [
                _drawn(root / "contact_sheet.png", partial(contact_sheet, store)),
                _drawn(root / "preview.mp4", partial(preview_video, store)),
            ]
        except OSError as error:
            raise write_error(root, error) from error
    summary = finalize(root)
    print_summary(console, root, summary, meter.rate(), rows_by_scenario(records))
    for file in files:
        console.print(str(file), soft_wrap=True)
    return store


def _drawn(file: Root, draw: Callable[[Path], Path]) -> Root:
    """Have a picture drawn where ``file`` is; its name may end otherwise."""
    with local_file(file) as local:
        return file.with_name(draw(local).name)
