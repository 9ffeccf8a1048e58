"""Director: has a group of episodes happen as their scripts say.

The order of things at step t: events are asked, and what fires takes effect, cuts first; the camera edits frame t; policies see
it and act; an override takes the policy's place; disturbances change the action, which is clipped to its space; the world moves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from worldsim.episode import Conditioning
from worldsim.rollout import Moment, iterate_actions, reset, row_info, stack_actions
from worldsim.scenario.director_actions import Stage, clip_action, make_stages, overridden
from worldsim.scenario.director_frames import edit_frame
from worldsim.scenario.director_random import derived_seed
from worldsim.scenario.director_triggers import Trigger
from worldsim.scenario.events import Condition, Cut, EditFrames, Effect, FrameEdit, Override, Stop, Switch
from worldsim.scenario.parts import GeneratedStart, Start, Told
from worldsim.scenario.script import Script
from worldsim.spaces import rest_action
from worldsim.types import Actions, Observation, Policy

StartOptions = Callable[[Start, int], Mapping[str, Any]]
"""Turns a start into reset options of a row, with a seed for what the start leaves open."""


@dataclass
class _Row:
    """One episode while it happens.

    Attributes:
        script: What happens.
        seed: Of the episode.
        triggers: One for each event.
        stages: Its disturbances.
        override: The action in the policy's place, and the step at which that is over.
        edits: What the camera does: the edit, the step at which that is over (None: never), and the name of its noise.
        told: What the world is told now.
        changes: What events changed of that, in order.
        cut: The start to go on from, while a step's events are asked.
        stop: Why the episode is to be truncated, once it is.
        happened: What fired: step, index of the event, and what it did.
        notes: What else is to be kept of the episode.
    """

    script: Script
    seed: int
    triggers: list[Trigger]
    stages: list[Stage]
    override: tuple[Any, int] | None = None
    edits: list[tuple[FrameEdit, int | None, str]] = field(default_factory=list)
    told: Conditioning = field(default_factory=Conditioning)
    changes: list[Told] = field(default_factory=list)
    cut: Start | None = None
    stop: str | None = None
    happened: list[list[Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def note_told(self, step: int) -> None:
        """Keep what the world is told from ``step`` on."""
        known = [entry for entry in self.notes.get("told", []) if entry[0] != step]
        self.notes["told"] = [*known, [step, self.told.to_json()]]


class Director:
    """Policy and watcher of one rollout.

    A policy of a row sees the row's frames only while it drives it, and is told ``first`` when it takes over. The seed that it is
    then told is drawn from the episode's seed, the step and the policy's name; at step 0 it is the episode's seed itself.

    Args:
        scripts: What happens in each of the B rows.
        seeds: Seed of each row's episode.
        action_space: Space of one action.
        build: Makes a policy from its config; rows with equal configs share one.
        fps: Steps a second.
        start_options: Needed for cuts.

    Raises:
        ValueError: A policy cannot be built.
    """

    def __init__(
        self,
        scripts: Sequence[Script],
        seeds: Sequence[int],
        action_space: Space[Any],
        *,
        build: Callable[[Mapping[str, Any]], Policy],
        fps: float,
        start_options: StartOptions | None = None,
    ) -> None:
        self._space, self._fps, self._start_options = action_space, fps, start_options
        self._rows = [_make_row(script, seed, action_space, fps) for script, seed in zip(scripts, seeds, strict=True)]
        self._parts, self._policy_of = _cast(scripts, build)
        count = len(self._rows)
        self._driver = np.array([self._policy_of[b][script.policy] for b, script in enumerate(scripts)])
        self._first, self._live = np.ones(count, np.bool_), np.ones(count, np.bool_)
        self._seeds = np.array(seeds, dtype=np.int64)
        self._step = 0
        self._shown: NDArray[np.uint8] | None = None
        self._eventful = [b for b, row in enumerate(self._rows) if row.triggers]
        self._disturbed = [b for b, row in enumerate(self._rows) if row.triggers or row.stages]
        self._rest = rest_action(action_space)

    # ------------------------------------------------------------ who acts, and what becomes of it

    def act(self, observation: Observation) -> Actions:
        """Return one action a row; rows whose episode is over rest."""
        actions = self._acted(observation)
        if not any(self._live[b] and (self._rows[b].override or self._rows[b].stages) for b in self._disturbed):
            return actions
        single = iterate_actions(self._space, actions)
        for b in self._disturbed:
            if self._live[b]:
                single[b] = self._disturb(self._rows[b], single[b])
        return stack_actions(self._space, single)

    def _acted(self, observation: Observation) -> Actions:
        if len(self._parts) == 1 and self._live.all():
            return self._ask(0, observation)
        single: list[Any] = [self._rest] * len(self._rows)
        for number, (rows, _) in enumerate(self._parts):
            driving = self._live[rows] & (self._driver[rows] == number)
            if driving.any():
                given = iterate_actions(self._space, self._ask(number, observation))
                for place in np.flatnonzero(driving).tolist():
                    single[rows[place]] = given[place]
        return stack_actions(self._space, single)

    def _ask(self, number: int, observation: Observation) -> Actions:
        """Have one policy act in all of its rows; to it, those that it does not drive are always at their beginning."""
        rows, policy = self._parts[number]
        driving = self._live & (self._driver == number)
        first = np.where(driving, self._first, True)
        self._first = self._first & ~driving
        if len(rows) == len(self._rows):
            return policy.act(replace(observation, first=first, seeds=self._seeds))
        state = {name: values[rows] for name, values in observation.state.items()}
        return policy.act(Observation(observation.frames[rows], state, first[rows], self._seeds[rows]))

    def _disturb(self, row: _Row, action: Any) -> Any:
        if row.override is not None:
            given, until = row.override
            if self._step < until:
                action = overridden(self._space, action, given)
            else:
                row.override = None
        for stage in row.stages:
            action = stage(action, self._step)
        return clip_action(self._space, action) if row.stages else action

    # ------------------------------------------------------------ what happens

    def watch(self, env: VectorEnv[Any, Any, Any], moment: Moment) -> Moment:
        """Ask the events of a moment, and do what they say.

        Raises:
            ValueError: The environment cannot do what an event says.
        """
        self._step, self._live = moment.step, moment.live
        if not self._eventful:
            return moment
        if moment.step == 0:
            for b in self._eventful:
                told = row_info(moment.infos, b).get("conditioning")
                self._rows[b].told = Conditioning.from_json(told) if told else self._rows[b].script.conditioning or Conditioning()
        retold = self._ask_events(moment)
        moment = self._cut(env, moment)
        self._tell(env, retold)
        moment = self._film(moment)
        stopped = np.array([row.stop is not None for row in self._rows]) & moment.live
        if moment.step == 0 or not stopped.any():
            return moment
        for b in np.flatnonzero(stopped).tolist():
            self._rows[b].notes["stopped"] = [moment.step, self._rows[b].stop]
        self._live = moment.live & ~stopped
        return replace(moment, stopped=stopped, live=self._live)

    def notes(self, row: int) -> dict[str, Any]:
        """Return what is to be kept of a row's episode beside its plan, in JSON types; empty where nothing happened.

        ``happened``: lists of step, index of the event, and names of what it did; ``cuts``: steps whose frame does not follow from
        the one before; ``told``: lists of step and what the world was told from there on; ``stopped``: step and reason.
        """
        own = self._rows[row]
        return {**({"happened": own.happened} if own.happened else {}), **own.notes}

    def _ask_events(self, moment: Moment) -> list[int]:
        """Ask every event, and return the rows whose world is told something else."""
        retold = []
        state = {name: values.tolist() for name, values in moment.state.items()}
        rewards = None if moment.rewards is None else moment.rewards.tolist()
        for b in self._eventful:
            row = self._rows[b]
            if not moment.live[b] or row.stop is not None:
                continue
            values: dict[str, Any] = {name: column[b] for name, column in state.items()}
            values |= {"step": moment.step, "time": moment.step / self._fps}
            if moment.actions is not None and rewards is not None:
                values |= {"action": moment.actions[b].astype(np.float64), "reward": rewards[b]}
            before = len(row.changes)
            for number, trigger in enumerate(row.triggers):
                if trigger.fires(moment.step, values):
                    self._fire(b, number)
            if len(row.changes) > before:
                retold.append(b)
        return retold

    def _fire(self, b: int, number: int) -> None:
        row = self._rows[b]
        effects = row.script.events[number].do
        forked = ["fork"] if number == row.script.fork else []
        row.happened.append([self._step, number, [*forked, *(_NAMES[type(effect)] for effect in effects)]])
        for place, effect in enumerate(effects):
            self._do(b, effect, f"frame/{number}/{place}")

    def _do(self, b: int, effect: Effect, name: str) -> None:
        row = self._rows[b]
        match effect:
            case Switch(policy=policy):
                self._switch(b, policy)
            case Override(action=action, steps=steps):
                row.override = action, self._step + steps
            case Condition(told=told):
                row.changes.append(told)
            case EditFrames(frame=frame, steps=steps):
                row.edits.append((frame, None if steps is None else self._step + steps, name))
            case Cut(to=start):
                row.cut = start
            case Stop(reason=reason):
                row.stop = reason
            case _:
                raise AssertionError("a script has no forks")

    def _switch(self, b: int, policy: str) -> None:
        number = self._policy_of[b][policy]
        if number != self._driver[b]:
            self._driver[b], self._first[b] = number, True
            if self._step > 0:
                self._seeds[b] = derived_seed(self._rows[b].seed, self._step, f"policy/{policy}")

    # ------------------------------------------------------------ what becomes of the world

    def _cut(self, env: VectorEnv[Any, Any, Any], moment: Moment) -> Moment:
        mask = np.array([row.cut is not None for row in self._rows])
        if not mask.any():
            return moment
        assert self._start_options is not None, "cuts need start_options"
        seeds = [derived_seed(row.seed, moment.step, "cut") for row in self._rows]
        options: list[dict[str, Any]] = [{}] * len(self._rows)
        for b in np.flatnonzero(mask).tolist():
            row = self._rows[b]
            assert row.cut is not None
            options[b] = dict(self._start_options(row.cut, seeds[b]))
            if row.script.conditioning is not None or (row.changes and isinstance(row.cut, GeneratedStart)):
                options[b]["conditioning"] = changed(row.script.conditioning or Conditioning(), row.changes).to_json()
        frames, infos = reset(env, seeds=seeds, options={"reset_mask": mask, "rows": options})
        for b in np.flatnonzero(mask).tolist():
            row, row.cut = self._rows[b], None
            row.notes.setdefault("cuts", []).append(moment.step)
            told = Conditioning.from_json(row_info(infos, b).get("conditioning", {}))
            before, row.told = row.told, changed(told, row.changes)
            if row.told != told:
                set_conditioning(env, [b], [row.told])
            if row.told != before:
                row.note_told(moment.step)
        return _replaced(moment, mask, frames, infos)

    def _tell(self, env: VectorEnv[Any, Any, Any], rows: Sequence[int]) -> None:
        for b in rows:
            row = self._rows[b]
            row.told = changed(row.told, row.changes)
            row.note_told(self._step)
        if rows:
            set_conditioning(env, rows, [self._rows[b].told for b in rows])

    def _film(self, moment: Moment) -> Moment:
        """Edit the frames of a moment, and remember what is shown."""
        before, frames = self._shown, moment.frames
        for b in self._eventful:
            row = self._rows[b]
            row.edits = [edit for edit in row.edits if edit[1] is None or moment.step < edit[1]]
            for edit, _, name in row.edits:
                frames = frames.copy() if frames is moment.frames else frames
                shown = None if before is None else before[b]
                frames[b] = edit_frame(frames[b], shown, edit, seed=row.seed, step=moment.step, name=name)
        self._shown = frames
        return moment if frames is moment.frames else replace(moment, frames=frames)


def set_conditioning(env: VectorEnv[Any, Any, Any], rows: Sequence[int], conditionings: Sequence[Conditioning]) -> None:
    """Tell rows of a learned world something else from here on.

    Raises:
        ValueError: The environment is no learned world, or does not know what it is told.
    """
    tell = getattr(env.unwrapped, "set_conditioning", None)
    if tell is None:
        raise ValueError(f"effect 'condition': {type(env.unwrapped).__name__} cannot be told anything on the way: leave the effect out")
    tell(list(rows), list(conditionings))


_NAMES: Mapping[type[Any], str] = {
    Switch: "switch",
    Override: "action",
    Condition: "condition",
    EditFrames: "frame",
    Cut: "cut",
    Stop: "stop",
}


def _make_row(script: Script, seed: int, space: Space[Any], fps: float) -> _Row:
    triggers = [Trigger(event.when, seed=seed, name=f"event/{i}", fps=fps) for i, event in enumerate(script.events)]
    return _Row(script, seed, triggers, make_stages(space, script.perturb, seed))


def _cast(
    scripts: Sequence[Script], build: Callable[[Mapping[str, Any]], Policy]
) -> tuple[list[tuple[NDArray[np.int64], Policy]], list[dict[str, int]]]:
    """Build every policy once, for all rows that may need it; and say by which number each row's names go."""
    numbers: dict[str, int] = {}
    rows: list[list[int]] = []
    policies: list[Policy] = []
    names: list[dict[str, int]] = []
    for b, script in enumerate(scripts):
        own = {}
        for name in sorted(_needed(script)):
            key = json.dumps(script.policies[name], sort_keys=True, default=str)
            if key not in numbers:
                numbers[key] = len(policies)
                policies.append(build(script.policies[name]))
                rows.append([])
            own[name] = numbers[key]
        names.append(own)
        for number in set(own.values()):
            rows[number].append(b)
    return [(np.array(own_rows), policy) for own_rows, policy in zip(rows, policies, strict=True)], names


def _needed(script: Script) -> set[str]:
    return {script.policy} | {effect.policy for event in script.events for effect in event.do if isinstance(effect, Switch)}


def changed(told: Conditioning, changes: Sequence[Told]) -> Conditioning:
    """Return what the world is told after ``changes``; their parts that are None change nothing."""
    for change in changes:
        told = Conditioning(
            told.tags if change.tags is None else tuple(change.tags),
            told.numbers if change.numbers is None else dict(change.numbers),
            told.text if change.text is None else change.text,
        )
    return told


def _replaced(moment: Moment, mask: NDArray[np.bool_], observed: Any, infos: Mapping[str, Any]) -> Moment:
    """Return a moment in which the rows ``mask (B,)`` are as their reset left them."""
    where = mask[:, None, None, None]
    state = {name: np.where(mask, infos["state"][name], values).astype(np.float32) for name, values in moment.state.items()}
    latents = moment.latents
    if latents is not None:
        with np.errstate(over="ignore"):  # the recorder says so of latents that do not fit
            latents = np.where(where, infos.get("latent", observed), latents).astype(np.float16)
    frames = np.where(where, observed, moment.frames) if moment.frames.shape[1] else moment.frames
    labels = {name: np.where(mask[:, None, None], infos[name], values) for name, values in moment.labels.items()}
    return replace(moment, frames=frames, latents=latents, state=state, labels=labels)
