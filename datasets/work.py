"""What one worker process does: make the environment once, then roll out, write and commit group after group."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium import Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from worldsim.config import instantiate_allowed
from worldsim.datasets.behind import WriteBehind
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.scenarios import driver_of, is_scripted, start_options
from worldsim.datasets.writer import EpisodeWriter
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob, RowPolicies, rollout
from worldsim.scenario.director import Director
from worldsim.scenario.director_verdict import judge
from worldsim.scenario.script import Script, script
from worldsim.types import Policy

_LATENTS: Mapping[str, Mapping[str, Any]] = {"none": {}, "beside": {"latents": True}, "instead": {"observation": "latent"}}
"""Keywords by which a batched world gives what is to be recorded."""


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
        checkpoint: What the world says of its weights (name, sha256); no other world may run by the recipe. Empty for a simulator.
        latents: One of ``worldsim.rollout.LATENTS``: whether a world's latents are recorded, beside its frames or instead of them.
        labels: Whether pictures of labels are recorded, those that the environment's ``metadata["labels"]`` names.
        stored: The part of ``state_names`` that episodes hold; None for all. Policies and expressions read all of it.
    """

    env: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 1
    batched: bool = False
    wrappers: tuple[Mapping[str, Any], ...] = ()
    noise: Mapping[str, Any] = field(default_factory=dict)
    state_names: tuple[str, ...] = ()
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    latents: str = "none"
    labels: bool = False
    stored: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Describe the recipe in JSON types; without latents or labels it is what it was before there were any."""
        told = {**dataclasses.asdict(self), "wrappers": list(self.wrappers), "state_names": list(self.state_names)}
        return {key: value for key, value in told.items() if (key, value) not in (("latents", "none"), ("labels", False), ("stored", None))}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Recipe:
        """Build what ``to_json`` described.

        Raises:
            ValueError: It is none.
        """
        try:
            stored = {"stored": tuple(data["stored"])} if data.get("stored") is not None else {}
            return Recipe(**{**data, "wrappers": tuple(data["wrappers"]), "state_names": tuple(data["state_names"]), **stored})
        except (KeyError, TypeError) as error:
            raise DatasetError(f"the plan's recipe cannot be read ({error}): was it made by a newer release?") from error

    def here(self, *, world: str | None = None, device: str | None = None) -> Recipe:
        """Return the recipe with the place of its world, or the device, on this machine."""
        own = {key: value for key, value in (("world", world), ("device", device)) if value is not None}
        if own and "world" not in self.kwargs:
            raise DatasetError(f"{', '.join(own)}: the dataset is recorded from {self.env!r}, which is no learned world; leave it out")
        return dataclasses.replace(self, kwargs={**self.kwargs, **own})


@dataclass(frozen=True)
class Recorded:
    """What became of one episode: its commit record's numbers."""

    id: int
    status: str
    frames: int
    reason: str = ""


@dataclass(frozen=True)
class Task:
    """What a launcher gives to its workers; plain types only, so that it travels anywhere.

    Attributes:
        path: The dataset.
        recipe: How its groups are made.
        attempts: How often an episode that fails is tried in all; None: once more by every run.
        keep_going: Whether a group that raises is committed as failed, rather than ending the job.
        retries: How often a group is given to another worker after its own has died.
    """

    path: str
    recipe: Recipe
    attempts: int | None = None
    keep_going: bool = False
    retries: int = 1


def make_env(recipe: Recipe) -> VectorEnv[Any, Any, Any]:
    """Make the environment of a recipe, with autoreset disabled.

    Raises:
        ValueError: The id or a keyword is unknown, the environment refuses, or its world is not the recipe's.
    """
    try:
        env = _make(recipe)
    except (gym.error.Error, ImportError, TypeError) as error:
        raise DatasetError(f"environment {recipe.env!r} with {dict(recipe.kwargs)} cannot be made: {error}") from error
    told, found = dict(recipe.checkpoint), dict(env.metadata.get("checkpoint") or {})
    if told and told.get("sha256") != found.get("sha256"):
        env.close()
        raise DatasetError(
            f"world {recipe.kwargs.get('world', recipe.env)!r} is not the plan's: its weights are {found.get('sha256', 'unknown')}, "
            f"the plan was made for {told.get('name')} with {told.get('sha256')}; give that one by 'world=...', or plan a new dataset"
        )
    if recipe.labels and not env.metadata.get("labels"):
        env.close()
        raise DatasetError(f"environment {recipe.env!r} tells no labels beside its frames: use record.labels=false")
    return env


def _make(recipe: Recipe) -> VectorEnv[Any, Any, Any]:
    if recipe.batched:
        keywords = {**_keywords(recipe), **_LATENTS[recipe.latents]}
        return gym.make_vec(recipe.env, num_envs=recipe.rows, vectorization_mode="vector_entry_point", **keywords)
    return SyncVectorEnv([lambda: _make_single(recipe)] * recipe.rows, autoreset_mode=AutoresetMode.DISABLED)


def _keywords(recipe: Recipe) -> dict[str, Any]:
    return {**recipe.kwargs, "labels": True} if recipe.labels else dict(recipe.kwargs)


def _make_single(recipe: Recipe) -> gym.Env[Any, Any]:
    module, _, name = recipe.env.rpartition(":")
    if module:
        importlib.import_module(module)
    spec = gym.spec(name)
    # Given as a spec, since gym.make cannot pass on a keyword called "id".
    env: gym.Env[Any, Any] = gym.make(dataclasses.replace(spec, kwargs={**spec.kwargs, **_keywords(recipe)}))
    for wrapper in recipe.wrappers:
        env = instantiate_allowed(wrapper, env=env)
    return env


class Worker:
    """Runs groups of one dataset, one after another; they are written behind the next one's back.

    Args:
        task: What to run.
        on_step: Called with the number of frames after every step.
    """

    def __init__(self, task: Task, on_step: Callable[[int], None] | None = None) -> None:
        self.task = task
        self.recipe = task.recipe
        self.on_step = on_step
        self.env = make_env(task.recipe)
        self.writer = EpisodeWriter(task.path)
        self._behind = WriteBehind()

    def run_group(self, jobs: Sequence[EpisodeJob]) -> Future[list[Recorded]]:
        """Roll one group out now, and write and commit it soon; episodes that are done already stay as they are.

        A group all of whose episodes are done is not run. The group is done when the future is.

        Raises:
            ValueError: Names the episodes and what went wrong in the rollout; what goes wrong in writing is the future's error.
        """
        missing = [job for job in jobs if not self.writer.is_done(job.id, attempts=self.task.attempts)]
        if not missing:
            return self._behind.submit(list)
        started = time.monotonic()
        try:
            episodes = self.roll(jobs)
        except DatasetError as error:
            if not self.task.keep_going:
                raise
            reason = str(error)
            return self._behind.submit(lambda: [self._fail(job, reason) for job in missing])
        seconds = (time.monotonic() - started) / len(jobs)
        kept = [(job, episode) for job, episode in zip(jobs, episodes, strict=True) if job in missing]
        return self._behind.submit(lambda: [self._write(job, episode, seconds) for job, episode in kept])

    def roll(self, jobs: Sequence[EpisodeJob]) -> list[Episode]:
        """Roll one group out and write nothing.

        Raises:
            ValueError: Names the episodes and what went wrong.
        """
        try:
            scenarios = self.writer.plan.scenarios
            if all(is_scripted(scenarios[job.scenario]) for job in jobs):
                return self._direct(jobs, [script(job, scenarios[job.scenario]) for job in jobs])
            names, latents = self.recipe.state_names, self.recipe.latents
            return rollout(
                self.env,
                self._policy(jobs),
                jobs,
                state_names=names,
                latents=latents,
                labels=self._labels(),
                on_step=self.on_step,
            )
        except Exception as error:
            which = f"episodes {jobs[0].id} to {jobs[-1].id}" if len(jobs) > 1 else f"episode {jobs[0].id}"
            raise DatasetError(f"{which} (scenario {jobs[0].scenario!r}, seed {jobs[0].seed}): {type(error).__name__}: {error}") from error

    def _labels(self) -> tuple[str, ...]:
        return tuple(self.env.metadata["labels"]) if self.recipe.labels else ()

    def close(self) -> None:
        """Finish what is being written, and close the environment."""
        self._behind.close()
        self.env.close()

    def _write(self, job: EpisodeJob, episode: Episode, seconds: float) -> Recorded:
        self.writer.write(job, episode, seconds=seconds)
        return Recorded(job.id, episode.status, len(episode.frames), episode.reason)

    def _fail(self, job: EpisodeJob, reason: str) -> Recorded:
        self.writer.fail(job, reason)
        return Recorded(job.id, "failed", 0, reason)

    def _direct(self, jobs: Sequence[EpisodeJob], scripts: Sequence[Script]) -> list[Episode]:
        """Roll one group out as its scripts say; missing rows are filled by the last."""
        idle, names = self.recipe.rows - len(jobs), self.recipe.state_names
        space, fps = self.env.single_action_space, float(self.env.metadata.get("render_fps") or 30.0)
        director = Director(
            [*scripts, *[scripts[-1]] * idle],
            [*(job.seed for job in jobs), *[jobs[-1].seed] * idle],
            space,
            build=lambda config: build_policy(self.recipe, config, {}, space),
            fps=fps,
            start_options=start_options,
        )
        latents = self.recipe.latents
        labels = self._labels()
        episodes = rollout(
            self.env, director, jobs, state_names=names, latents=latents, labels=labels, on_step=self.on_step, watcher=director
        )
        noted = [dataclasses.replace(one, params={**one.params, **director.notes(row)}) for row, one in enumerate(episodes)]
        judged = [judge(one, told, state_names=names, fps=fps) for one, told in zip(noted, scripts, strict=True)]
        if self.recipe.stored is None:
            return judged
        columns = [names.index(name) for name in self.recipe.stored]
        return [dataclasses.replace(one, state=one.state[:, columns]) for one in judged]

    def _policy(self, jobs: Sequence[EpisodeJob]) -> RowPolicies:
        drivers = [driver_of(self.writer.plan.scenarios[job.scenario]) for job in jobs]
        drivers += [drivers[-1]] * (self.recipe.rows - len(jobs))
        space = self.env.single_action_space
        parts = [
            ([row for row, other in enumerate(drivers) if other == driver], build_policy(self.recipe, *driver, space))
            for i, driver in enumerate(drivers)
            if driver not in drivers[:i]
        ]
        return RowPolicies(parts, space)


def build_policy(recipe: Recipe, config: Mapping[str, Any], noise: Mapping[str, Any], space: Space[Any]) -> Policy:
    """Build what drives an episode: a policy's config, and the noise around it, empty for none."""
    policy: Policy = instantiate_allowed(config, action_space=space)
    if noise:
        policy = instantiate_allowed({**recipe.noise, **noise}, policy=policy, action_space=space)
    return policy


def use_one_thread() -> None:
    """Have this process compute with one thread, as every worker does: so that bits do not depend on a machine's cores."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
