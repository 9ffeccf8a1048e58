"""What happens during an episode: triggers and effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from worldsim.scenario.checks import (
    Check,
    as_mapping,
    boolean,
    is_number,
    key,
    many,
    number,
    one_of,
    optional,
    record,
    single_key,
    text,
    whole,
)
from worldsim.scenario.parts import STEP_EXPRESSION, Start, Told, start
from worldsim.scenario.problems import Place, shorten

# ---------------------------------------------------------------- when


@dataclass(frozen=True)
class When:
    """A trigger: exactly one of ``step``, ``time``, ``rate`` and ``predicate`` is given.

    It is asked before every action, from step 0 on; a predicate sees the newest state, uncertainty and frame's step, and the
    action and reward of the step before (at step 0 none, so that it is false there if it reads them).

    Attributes:
        step: Fires at this step.
        time: Fires at the first step at or after this time [s].
        rate: Fires at random, so often per ``per`` on average, by the episode's seed.
        per: ``second`` or ``step``.
        predicate: Fires where this expression holds.
        times: How often at most; None: without limit, which only ``rate`` has where nothing is said.
        after: First step at which it may fire.
    """

    step: int | None = key(optional(whole()), None)
    time: float | None = key(optional(number(0)), None)
    rate: float | None = key(optional(number(above=0)), None)
    per: str = key(one_of("second", "step"), "second")
    predicate: str | None = key(optional(STEP_EXPRESSION), None)
    times: int | None = key(optional(whole(1)), None)
    after: int = key(whole(), 0)


_TRIGGERS = ("step", "time", "rate", "predicate")


def _when(value: Any, place: Place) -> Any:
    kind = single_key(value, place, _TRIGGERS, ignore=("per", "times", "after"))
    if kind is None:
        return None
    made: When = record(When)(value, place)
    if value[kind] is None:
        place.at(kind).fail("=None must be given")
    if kind == "rate" and made.per == "step" and is_number(made.rate) and made.rate is not None and made.rate > 1:
        place.at("rate").fail(f"={made.rate:g} must be at most 1 a step")
    if kind != "rate" and "per" in value:
        place.at("per").fail(" goes with 'rate' alone")
    return replace(made, times=1) if kind != "rate" and made.times is None else made


# ---------------------------------------------------------------- what


@dataclass(frozen=True)
class Switch:
    """Another policy drives from here on."""

    policy: str


@dataclass(frozen=True)
class Override:
    """For ``steps`` steps this action takes the policy's place; a null in a list leaves that number to the policy.

    Attributes:
        action: As the action space has it: a number, nested lists, or a mapping for ``Dict`` spaces.
        steps: How long.
    """

    action: Any = key(lambda value, place: _action(value, place))  # noqa: RUF009 - a field
    steps: int = key(whole(1), 1, name="for")


@dataclass(frozen=True)
class Condition:
    """From here on the world is told something else; the parts of ``told`` that are None stay as they are."""

    told: Told


@dataclass(frozen=True)
class Occlude:
    """A grey box on the frame.

    Attributes:
        box: Left, top, right and bottom edge as fractions 0..1 of the frame.
        shade: Grey, 0 black to 1 white.
    """

    box: tuple[float, float, float, float] = key(lambda value, place: _box(value, place))
    shade: float = key(number(0, 1), 0.0)


@dataclass(frozen=True)
class FrameEdit:
    """What the camera does to frames, in this order; the world itself goes on from the frames as they are.

    Attributes:
        drop: The frame before is shown again.
        brightness: Factor on all values; 1 leaves them.
        noise: Standard deviation of noise on every value, as a fraction of white.
        occlude: A box that hides a part.
    """

    drop: bool = key(boolean, False)
    brightness: float = key(number(0, 100), 1.0)
    noise: float = key(number(0, 10), 0.0)
    occlude: Occlude | None = key(optional(record(Occlude)), None)  # noqa: RUF009 - a field


@dataclass(frozen=True)
class EditFrames:
    """For ``steps`` steps (None: to the end) frames are edited before policies, users and datasets see them."""

    frame: FrameEdit = key(record(FrameEdit))  # noqa: RUF009 - a field
    steps: int | None = key(optional(whole(1)), 1, name="for")


@dataclass(frozen=True)
class Cut:
    """The rollout goes on from another start."""

    to: Start


@dataclass(frozen=True)
class Stop:
    """The episode is truncated here; the reason is stored."""

    reason: str


@dataclass(frozen=True)
class Fork:
    """The episode splits: one sibling a branch. Expansion replaces it by the effects of the sibling's own branch."""

    branches: tuple[tuple[Effect, ...], ...]


Effect: TypeAlias = Switch | Override | Condition | EditFrames | Cut | Stop | Fork


@dataclass(frozen=True)
class Event:
    """When it fires, and what it then does, in order."""

    when: When
    do: tuple[Effect, ...]


_EFFECTS = ("switch", "action", "condition", "frame", "cut", "fork", "stop")


def event(policies: Mapping[str, Any], *, fork: bool) -> Check:
    """Check an event of a scenario with these policies; ``fork`` says whether it may fork."""

    def check(value: Any, place: Place) -> Any:
        given = as_mapping(value, place)
        if given is None:
            return None
        place.only(given, ("when", "do"))
        for name in ("when", "do"):
            if name not in given:
                place.fail(f" has no {name!r}: add it")
        if not {"when", "do"} <= given.keys():
            return None
        effects = many(_effect(policies, fork=fork), "[{stop: enough}]", most=100, wrap=True)
        return Event(_when(given["when"], place.at("when")), effects(given["do"], place.at("do")))

    return check


def _effect(policies: Mapping[str, Any], *, fork: bool) -> Check:
    def check(value: Any, place: Place) -> Any:
        kind = single_key(value, place, _EFFECTS, ignore=("for",))
        if kind is None:
            return None
        if kind not in ("action", "frame"):
            place.only(value, (kind,))
        inner, below = value[kind], place.at(kind)
        match kind:
            case "switch":
                return Switch(one_of(*policies)(inner, below))
            case "action":
                return record(Override)(value, place)
            case "frame":
                return record(EditFrames)(value, place)
            case "condition":
                return Condition(record(Told)(inner, below))
            case "cut":
                return Cut(start(inner, below))
            case "stop":
                return Stop(text(200, least=1)(inner, below))
            case _:
                return _fork(inner, below, policies, allowed=fork)

    return check


def _fork(value: Any, place: Place, policies: Mapping[str, Any], *, allowed: bool) -> Any:
    if not allowed:
        place.fail(" stands within another fork or beside it: a scenario forks once, with as many branches as it needs")
        return None
    branch = many(_effect(policies, fork=False), "[{switch: brake}]", most=100, wrap=True)
    return Fork(many(branch, "[[], [{switch: brake}]]", least=2, most=1000)(value, place))


def _action(value: Any, place: Place) -> Any:
    if place.refers(value) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(name): _action(part, place.at(str(name))) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_action(part, place.at(str(i))) for i, part in enumerate(value)]
    if not is_number(value):
        place.fail(f"={shorten(value)} must be an action: numbers, lists of them, or a mapping for Dict spaces")
        return 0
    return value


def _box(value: Any, place: Place) -> Any:
    box = many(number(0, 1), "[0.2, 0.1, 0.6, 0.5]", least=4, most=4)(value, place)
    if len(box) == 4 and all(map(is_number, box)) and (box[0] >= box[2] or box[1] >= box[3]):
        place.fail(f"={shorten(value)} must be [left, top, right, bottom] with left < right and top < bottom")
    return box
