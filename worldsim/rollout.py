"""One loop that records any Gymnasium vector environment: a real simulator or a learned world.

A group of episodes runs as one fixed batch: a row that has ended is reset and its further data ignored, so what a row sees
never depends on when its neighbours end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
from gymnasium import Space
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from worldsim.episode import Conditioning, Episode
from worldsim.spaces import to_row
from worldsim.types import Actions, Frames, Observation, Policy

LATENTS = ("none", "beside", "instead")
"""What can be recorded of a learned world's latents: nothing, latents beside frames, or latents and no frames."""


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to record, fixed before it runs.

    Attributes:
        id: Its place in the plan, from 0.
        seed: Seed of the environment's reset and of the policy's randomness, at least 0.
        horizon: Most steps; an episode that reaches it is truncated there.
        scenario: Name of the scenario it belongs to.
        policy: Name of its policy, for the record.
        options: Reset options of the environment, JSON types only.
        conditioning: What the environment is told, recorded where the environment reports none itself.
        params: Whatever else describes the episode, JSON types only.
    """

    id: int
    seed: int
    horizon: int
    scenario: str = ""
    policy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    conditioning: Conditioning = field(default_factory=Conditioning)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """A group of episodes at one step, after the environment moved and before anybody has seen or recorded where to.

    Attributes:
        step: Actions that came before; all episodes of a group are at the same step.
        frames: Newest frames ``(B, H, W, 3)`` uint8; ``(B, 0, 0, 3)`` where none are made.
        latents: Newest latents ``(B, C, h, w)`` float16; None where none are recorded.
        state: Labelled state by name, each ``(B,)`` float32.
        live: ``(B,)`` bool, True where the episode goes on from here.
        infos: What the environment told.
        actions: ``(B, A)`` rows of the actions that led here; None at step 0.
        rewards: ``(B,)`` of the same step; None at step 0.
        labels: Pictures of what frames show, by name, each ``(B, H, W)`` uint8; empty where none are recorded.
        stopped: ``(B,)`` bool, True where a watcher truncates the episode here, at step 1 at the earliest; None for nowhere.
    """

    step: int
    frames: Frames
    latents: NDArray[np.float16] | None
    state: Mapping[str, NDArray[np.float32]]
    live: NDArray[np.bool_]
    infos: Mapping[str, Any]
    actions: NDArray[Any] | None = None
    rewards: NDArray[np.float32] | None = None
    labels: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    stopped: NDArray[np.bool_] | None = None


class Watcher(Protocol):
    """Takes part in a rollout: sees each moment first, and says what of it the policy sees and the recorder keeps."""

    def watch(self, env: VectorEnv[Any, Any, Any], moment: Moment) -> Moment:
        """Return the moment, or one with other frames, latents, state or ``stopped``; rows of ``env`` that are live may be reset.

        Arrays of ``moment`` are replaced, never written into.
        """
        ...


class RowPolicies:
    """Several policies as one: each acts on its own rows of the batch.

    Args:
        parts: Pairs of row indices ``(n,)`` and the policy that drives them; together they cover rows 0..B-1 once.
        action_space: Space of one action.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Policy]], action_space: Space[Any]) -> None:
        self.parts = [(np.asarray(rows, dtype=np.int64), policy) for rows, policy in parts]
        self.action_space = action_space

    def act(self, observation: Observation) -> Actions:
        """Return one action a row, laid out as ``batch_space(action_space, B)``."""
        size = len(observation.frames)
        actions: list[Any] = [None] * size
        for rows, policy in self.parts:
            for row, action in zip(rows, iterate_actions(self.action_space, policy.act(_select(observation, rows))), strict=True):
                actions[row] = action
        return stack_actions(self.action_space, actions)


def iterate_actions(action_space: Space[Any], actions: Actions) -> list[Any]:
    """Take a batch of actions apart into single ones."""
    size = len(next(iter(actions.values())) if isinstance(actions, Mapping) else actions)
    return list(iterate(batch_space(action_space, size), actions))


def stack_actions(action_space: Space[Any], actions: Sequence[Any]) -> Actions:
    """Lay single actions out as ``batch_space(action_space, B)``."""
    room: Any = create_empty_array(action_space, n=len(actions))
    stacked: Any = concatenate(action_space, actions, room)
    return cast("Actions", stacked)


def reset(env: VectorEnv[Any, Any, Any], *, seeds: Sequence[int], options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """Reset a vector environment with a seed a row, which Gymnasium's environments take and its annotation leaves out."""
    call: Any = env.reset
    frames, infos = call(seed=list(seeds), options=options)
    return frames, infos


def rollout(
    env: VectorEnv[Any, Any, Any],
    policy: Policy,
    jobs: Sequence[EpisodeJob],
    *,
    state_names: Sequence[str] = (),
    latents: str = "none",
    labels: Sequence[str] = (),
    on_step: Callable[[int], None] | None = None,
    watcher: Watcher | None = None,
) -> list[Episode]:
    """Record one group of episodes as one batch.

    ``frames[t + 1]`` is what ``actions[t]`` led to. With fewer jobs than rows, the last job fills the batch and is recorded once.

    Args:
        env: B rows whose observation is the frame, ``(B, H, W, 3)`` uint8, with autoreset disabled; as ``latents`` says, it gives
            latents ``(B, C, h, w)`` too.
        policy: Drives all rows; ``RowPolicies`` combines several.
        jobs: 1 to B episodes.
        state_names: Names of the labelled state to record from ``infos["state"]``.
        latents: ``none``; ``beside``: also record ``infos["latent"]``; ``instead``: the observation is the latent, no frame is made,
            and policies see frames ``(B, 0, 0, 3)``.
        labels: Names of the pictures ``(B, H, W)`` uint8 to record from ``infos``, as ``segmentation``.
        on_step: Called after every step with the number of frames recorded by it.
        watcher: Sees every moment before the policy and the recorder do, and may change it.

    Returns:
        One episode a job, in order.

    Raises:
        ValueError: There are no jobs or too many, a job's options do not fit the environment, or what is observed is not as above.
    """
    if latents not in LATENTS:
        raise ValueError(f"latents={latents!r} is unknown: use {', '.join(LATENTS)}")
    if not 1 <= len(jobs) <= env.num_envs:
        raise ValueError(f"{len(jobs)} jobs do not fit an environment of {env.num_envs} rows: give 1 to {env.num_envs}")
    rows = [*jobs, *[jobs[-1]] * (env.num_envs - len(jobs))]
    seeds = [job.seed for job in rows]
    observed, infos = reset(env, seeds=seeds, options=_reset_options(env, rows))
    size, horizons = env.num_envs, np.array([job.horizon for job in rows])
    seen = _Seen.of(observed, infos, latents, labels)
    first, live = np.ones(size, dtype=np.bool_), np.ones(size, dtype=np.bool_)
    now = Moment(0, seen.frames, seen.latents, _state_arrays(infos, state_names, size), live, infos, labels=seen.labels)
    now = now if watcher is None else watcher.watch(env, now)
    tapes = [_Tape(job, _row_of(now, b), row_info(infos, b)) for b, job in enumerate(rows)]
    while any(tape.live for tape in tapes[: len(jobs)]):
        actions = policy.act(Observation(now.frames, now.state, first, np.asarray(seeds, dtype=np.int64)))
        observed, rewards, terminated, truncated, infos = env.step(actions)
        seen = _Seen.of(observed, infos, latents, labels)
        taken = np.stack(
            [to_row(env.single_action_space, action) for action in iterate_actions(env.single_action_space, actions)]
        )  # (B, A)
        live = np.array([tape.live for tape in tapes])
        now = Moment(
            step=now.step + 1,
            frames=seen.frames,
            latents=seen.latents,
            state=_state_arrays(infos, state_names, size),
            live=live & ~(terminated | truncated | (now.step + 1 >= horizons)),
            infos=infos,
            actions=taken,
            rewards=np.asarray(rewards, dtype=np.float32),
            labels=seen.labels,
        )
        now = now if watcher is None else watcher.watch(env, now)
        cut = truncated if now.stopped is None else truncated | now.stopped
        for b in np.flatnonzero(live).tolist():
            tapes[b].add(taken[b], _row_of(now, b), rewards[b], terminated[b], cut[b], row_info(infos, b))
        first = np.asarray(terminated | truncated, dtype=np.bool_)
        if first.any() and any(tape.live for tape in tapes[: len(jobs)]):
            observed, infos = reset(env, seeds=seeds, options=_reset_options(env, rows, first))
            now = _renewed(now, first, _Seen.of(observed, infos, latents, labels), _state_arrays(infos, state_names, size))
        if on_step is not None:
            on_step(int(live[: len(jobs)].sum()))
    return [tape.episode() for tape in tapes[: len(jobs)]]


def row_info(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Take one row's info out of a vector environment's, following its ``_name`` masks."""
    out: dict[str, Any] = {}
    for name, value in infos.items():
        mask = infos.get(f"_{name}")
        if (name.startswith("_") and name[1:] in infos) or (mask is not None and not mask[row]):
            continue
        if isinstance(value, Mapping):
            out[name] = row_info(value, row)
        elif isinstance(value, np.ndarray | list | tuple):
            out[name] = value[row]
        else:
            out[name] = value
    return out


@dataclass(frozen=True)
class _Seen:
    """The newest frames ``(B, H, W, 3)``, ``(B, 0, 0, 3)`` without, latents ``(B, C, h, w)`` float16, None without, and labels."""

    frames: Frames
    latents: NDArray[np.float16] | None
    labels: Mapping[str, NDArray[np.uint8]]

    @staticmethod
    def of(observed: Any, infos: Mapping[str, Any], latents: str, labels: Sequence[str]) -> _Seen:
        """Take apart what an environment gave."""
        told = {name: _checked_label(name, infos.get(name)) for name in labels}
        if latents == "none":
            return _Seen(_checked(observed), None, told)
        if latents == "beside":
            return _Seen(_checked(observed), _checked_latents(infos.get("latent")), told)
        return _Seen(np.zeros((len(observed), 0, 0, 3), dtype=np.uint8), _checked_latents(observed), told)


@dataclass(frozen=True)
class _Row:
    """Copies of what is recorded of one row: frame ``(H, W, 3)``, latent ``(C, h, w)``, labelled state ``(S,)``, labels ``(H, W)``."""

    frame: Frames
    latent: NDArray[np.float16] | None
    state: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.uint8]]


def _row_of(moment: Moment, b: int) -> _Row:
    state = np.array([values[b] for values in moment.state.values()], dtype=np.float32)
    labels = {name: np.array(values[b]) for name, values in moment.labels.items()}
    return _Row(np.array(moment.frames[b]), None if moment.latents is None else np.array(moment.latents[b]), state, labels)


def _renewed(moment: Moment, fresh: NDArray[np.bool_], seen: _Seen, state: Mapping[str, NDArray[np.float32]]) -> Moment:
    """Return a moment in which the rows ``fresh (B,)`` are as their reset left them."""
    where = fresh[:, None, None, None]
    kept = {name: np.where(fresh, state[name], values) for name, values in moment.state.items()}
    latents = None if moment.latents is None or seen.latents is None else np.where(where, seen.latents, moment.latents)
    labels = {name: np.where(where[..., 0], seen.labels[name], values) for name, values in moment.labels.items()}
    return replace(moment, frames=np.where(where, seen.frames, moment.frames), latents=latents, state=kept, labels=labels)


class _Tape:
    """What one row has recorded so far."""

    def __init__(self, job: EpisodeJob, seen: _Row, info: Mapping[str, Any]) -> None:
        self.job = job
        self.seen = [seen]
        self.actions: list[NDArray[Any]] = []
        self.rewards: list[float] = []
        self.terminated: list[bool] = []
        self.truncated: list[bool] = []
        self.conditioning = _conditioning(info.get("conditioning"), job.conditioning)
        self.status, self.reason, self.live = "ok", "", True
        self._check_newest()

    def add(
        self,
        action: NDArray[Any],
        seen: _Row,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any],
    ) -> None:
        self.actions.append(action)
        self.seen.append(seen)
        self.rewards.append(float(reward))
        self.terminated.append(bool(terminated))
        reached = len(self.actions) >= self.job.horizon and not terminated
        self.truncated.append(bool(truncated) or reached)
        if info.get("truncation_reason"):
            self.status, self.reason = "rejected", str(info["truncation_reason"])
        self._check(np.asarray(reward), "reward")
        self._check_newest()
        self.live = self.live and not (self.terminated[-1] or self.truncated[-1])

    def _check_newest(self) -> None:
        self._check(self.seen[-1].state, "state")
        if (latent := self.seen[-1].latent) is not None:
            self._check(latent, "latent as float16")

    def _check(self, values: NDArray[Any], what: str) -> None:
        if not np.isfinite(values).all():
            self.status, self.reason, self.live = "failed", f"{what} is not finite at step {len(self.actions)}", False

    def episode(self) -> Episode:
        width = len(self.actions[0]) if self.actions else 0
        return Episode(
            frames=np.stack([row.frame for row in self.seen]),
            actions=np.stack(self.actions) if self.actions else np.zeros((0, width), dtype=np.float32),
            rewards=np.asarray(self.rewards, dtype=np.float32),
            terminated=np.asarray(self.terminated, dtype=np.bool_),
            truncated=np.asarray(self.truncated, dtype=np.bool_),
            state=np.stack([row.state for row in self.seen]),
            seed=self.job.seed,
            scenario=self.job.scenario,
            policy=self.job.policy,
            conditioning=self.conditioning,
            params=self.job.params,
            status=self.status,
            reason=self.reason,
            latents=None if self.seen[0].latent is None else np.stack([row.latent for row in self.seen if row.latent is not None]),
            labels={name: np.stack([row.labels[name] for row in self.seen]) for name in self.seen[0].labels},
        )


def _select(observation: Observation, rows: NDArray[np.int64]) -> Observation:
    return replace(
        observation,
        frames=observation.frames[rows],
        state={name: values[rows] for name, values in observation.state.items()},
        first=observation.first[rows],
        seeds=observation.seeds[rows],
    )


def _reset_options(
    env: VectorEnv[Any, Any, Any], rows: Sequence[EpisodeJob], mask: NDArray[np.bool_] | None = None
) -> dict[str, Any] | None:
    options: dict[str, Any] = {}
    if any(job.options for job in rows):
        if not isinstance(env.unwrapped, SyncVectorEnv):
            options["rows"] = [dict(job.options) for job in rows]
        elif any(job.options != rows[0].options for job in rows):
            raise ValueError("episodes of one group have different reset options, which this environment cannot take: use groups of 1")
        else:
            options.update(rows[0].options)
    if mask is not None:
        options["reset_mask"] = mask
    return options or None


def _checked(frames: Any) -> Frames:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        what = f"{frames.dtype} of shape {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise ValueError(f"observations are {what}, not frames (B, H, W, 3) uint8: record the environment through worldsim/Gym-v0")
    return frames


def _checked_latents(latents: Any) -> NDArray[np.float16]:
    if not isinstance(latents, np.ndarray) or latents.dtype != np.float32 or latents.ndim != 4:
        what = f"{latents.dtype} of shape {latents.shape}" if isinstance(latents, np.ndarray) else type(latents).__name__
        raise ValueError(f"latents are {what}, not (B, C, h, w) float32: only a learned world has them, record others by 'latents=none'")
    with np.errstate(over="ignore"):  # an episode whose latents do not fit is told to have failed
        return latents.astype(np.float16)


def _checked_label(name: str, values: Any) -> NDArray[np.uint8]:
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8 or values.ndim != 3:
        what = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"infos[{name!r}] is {what}, not class numbers (B, H, W) uint8: record the environment without labels")
    return values


def _state_arrays(infos: Mapping[str, Any], names: Sequence[str], size: int) -> dict[str, NDArray[np.float32]]:
    state = infos.get("state", {})
    missing = np.full(size, math.nan, dtype=np.float32)
    return {name: np.asarray(state.get(name, missing), dtype=np.float32) for name in names}


def _conditioning(info: Mapping[str, Any] | None, told: Conditioning) -> Conditioning:
    return Conditioning.from_json(info) if info else told
