"""What one worker process does: make the environment once, then roll out, write and commit group after group."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import worldsim
from worldsim.config import instantiate_allowed
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.writer import EpisodeWriter
from worldsim.rollout import EpisodeJob, RowPolicies, rollout
from worldsim.types import Policy

__all__ = ["Recipe", "Worker", "make_env", "worldsim"]


@dataclass(frozen=True)
class Recipe:
    """How any group of a dataset is made; JSON types only, so that it travels to every worker.

    Attributes:
        env: Id of a registered environment, ``module:Id`` imports the module first.
        kwargs: Its keywords.
        rows: Rows B of a group.
        batched: Whether the environment itself steps B rows; otherwise B copies step in turn.
        wrappers: Configs of wrappers around each single environment, innermost first.
        noise: Config of the action noise that ``action_noise`` of a scenario is merged into.
        state_names: Labelled state to record.
    """

    env: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 1
    batched: bool = False
    wrappers: tuple[Mapping[str, Any], ...] = ()
    noise: Mapping[str, Any] = field(default_factory=dict)
    state_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """What became of one episode: its commit record's numbers."""

    id: int
    status: str
    frames: int
    reason: str = ""


def make_env(recipe: Recipe) -> VectorEnv[Any, Any, Any]:
    """Make the environment of a recipe, with autoreset disabled.

    Raises:
        ValueError: The id or a keyword is unknown, or the environment refuses.
    """
    try:
        if recipe.batched:
            return gym.make_vec(recipe.env, num_envs=recipe.rows, vectorization_mode="vector_entry_point", **recipe.kwargs)
        return SyncVectorEnv([lambda: _make_single(recipe)] * recipe.rows, autoreset_mode=AutoresetMode.DISABLED)
    except (gym.error.Error, ImportError, TypeError) as error:
        raise DatasetError(f"environment {recipe.env!r} with {dict(recipe.kwargs)} cannot be made: {error}") from error


def _make_single(recipe: Recipe) -> gym.Env[Any, Any]:
    module, _, name = recipe.env.rpartition(":")
    if module:
        importlib.import_module(module)
    spec = gym.spec(name)
    # Given as a spec, since gym.make cannot pass on a keyword called "id".
    env: gym.Env[Any, Any] = gym.make(dataclasses.replace(spec, kwargs={**spec.kwargs, **recipe.kwargs}))
    for wrapper in recipe.wrappers:
        env = instantiate_allowed(wrapper, env=env)
    return env


class Worker:
    """Runs groups of one dataset.

    Args:
        path: The dataset.
        recipe: How its groups are made.
        on_step: Called with the number of frames after every step.
    """

    def __init__(self, path: str, recipe: Recipe, on_step: Callable[[int], None]) -> None:
        self.recipe = recipe
        self.on_step = on_step
        self.writer = EpisodeWriter(path)
        self.env = make_env(recipe)

    def run(self, jobs: Sequence[EpisodeJob]) -> list[Recorded]:
        """Roll out, write and commit one group; episodes that are committed already stay as they are.

        Raises:
            ValueError: Names the episodes and what went wrong.
        """
        started = time.monotonic()
        try:
            episodes = rollout(self.env, self._policy(jobs), jobs, state_names=self.recipe.state_names, on_step=self.on_step)
        except Exception as error:
            which = f"episodes {jobs[0].id} to {jobs[-1].id}" if len(jobs) > 1 else f"episode {jobs[0].id}"
            raise DatasetError(f"{which} (scenario {jobs[0].scenario!r}, seed {jobs[0].seed}): {type(error).__name__}: {error}") from error
        seconds = (time.monotonic() - started) / len(jobs)
        out = []
        for job, episode in zip(jobs, episodes, strict=True):
            if not self.writer.is_done(job.id):
                self.writer.write(job, episode, seconds=seconds)
            out.append(Recorded(job.id, episode.status, len(episode.frames), episode.reason))
        return out

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _policy(self, jobs: Sequence[EpisodeJob]) -> RowPolicies:
        names = [job.scenario for job in jobs] + [jobs[-1].scenario] * (self.recipe.rows - len(jobs))
        parts = [([row for row, other in enumerate(names) if other == name], self._build(name)) for name in dict.fromkeys(names)]
        return RowPolicies(parts, self.env.single_action_space)

    def _build(self, scenario: str) -> Policy:
        space, config = self.env.single_action_space, self.writer.plan.scenarios[scenario]
        policy: Policy = instantiate_allowed(config["policy"], action_space=space)
        if config["action_noise"]:
            policy = instantiate_allowed({**self.recipe.noise, **config["action_noise"]}, policy=policy, action_space=space)
        return policy


_worker: Worker | None = None


def start_process(path: str, recipe: Recipe, queue: Any, lifeline: Connection) -> None:
    """Prepare a fresh worker process: one thread, its environment made, its steps reported through ``queue``.

    It ends at once when the process at the other end of ``lifeline`` closes it or dies.
    """
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent answers it
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    _worker = Worker(path, recipe, queue.put)


def _end_with(lifeline: Connection) -> None:
    """Wait for the end of ``lifeline``, then leave without clean-up: what is not committed by now does not count."""
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def run_in_process(jobs: Sequence[EpisodeJob]) -> list[Recorded]:
    """Run one group in a process that ``start_process`` prepared."""
    assert _worker is not None
    return _worker.run(jobs)
