"""What becomes of a policy's action on its way to the world: overrides and disturbances, for every action space."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.scenario.director_random import sample, stream
from worldsim.scenario.parts import BiasPerturb, DelayPerturb, DropoutPerturb, NoisePerturb, Perturb, StickyPerturb
from worldsim.spaces import rest_action

Stage: TypeAlias = Callable[[Any, int], Any]
"""Takes the action at a step, steps in order from 0, and returns what it makes of it."""


def make_stages(space: Space[Any], perturbs: Sequence[Perturb], seed: int) -> list[Stage]:
    """Return what disturbs the actions of one episode, in order.

    Raises:
        ValueError: A disturbance does not fit the space.
    """
    return [_stage(space, part, seed, f"perturb/{i}") for i, part in enumerate(perturbs)]


def check_perturbs(space: Space[Any], perturbs: Sequence[Perturb]) -> None:
    """Refuse disturbances that do not fit an action space.

    Raises:
        ValueError: Gaussian noise without a Box, or a bias of another number of numbers.
    """
    for part in perturbs:
        if isinstance(part, NoisePerturb) and part.gaussian > 0 and not has_box(space):
            raise ValueError(
                f"perturb: gaussian={part.gaussian:g} needs a Box in the action space, which is {space}: use epsilon or sticky"
            )
        if isinstance(part, BiasPerturb) and len(part.amount) not in (1, count := _numbers(space)):
            raise ValueError(f"perturb: bias has {len(part.amount)} amounts, an action of {space} has {count} numbers: give 1 or {count}")


def check_override(space: Space[Any], given: Any) -> None:
    """Refuse an override that does not fit an action space, or is outside of it.

    Raises:
        ValueError: Names action and space.
    """
    problem = f"action={given!r} does not fit {space}: give its numbers, null for those that the policy chooses"
    try:
        raw = _merged(space, rest_action(space), given)
        inside = _alike(space, raw, clip_action(space, raw))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(problem) from error
    if not inside:
        raise ValueError(f"action={given!r} is outside {space}: stay within its range")


def overridden(space: Space[Any], action: Any, given: Any) -> Any:
    """Return ``action`` with the numbers of ``given`` in place of its own; None leaves a number."""
    return clip_action(space, _merged(space, action, given))


def jitter(space: Space[Any], action: Any, strength: float, generator: np.random.Generator) -> Any:
    """Add noise of ``strength`` half ranges (own units where unbounded) to the Box numbers of an action, within the space."""
    if isinstance(space, spaces.Dict):
        return {name: jitter(part, action[name], strength, generator) for name, part in space.spaces.items()}
    if not isinstance(space, spaces.Box):
        return action
    bounded = space.bounded_below & space.bounded_above
    half = np.where(bounded, np.where(bounded, space.high, 1.0) / 2 - np.where(bounded, space.low, -1.0) / 2, 1.0)
    moved = np.asarray(action, dtype=np.float64) + strength * half * generator.standard_normal(space.shape)
    return np.clip(moved, space.low, space.high).astype(space.dtype)


def has_box(space: Space[Any]) -> bool:
    """Whether a space has Box numbers."""
    if isinstance(space, spaces.Dict):
        return any(has_box(part) for part in space.spaces.values())
    return isinstance(space, spaces.Box)


def clip_action(space: Space[Any], action: Any) -> Any:
    """Return the action of ``space`` that is nearest to numbers laid out as one; whole numbers are rounded."""
    if isinstance(space, spaces.Dict):
        return {name: clip_action(part, action[name]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Box):
        values = np.asarray(action, dtype=np.float64)
        values = values if np.issubdtype(space.dtype, np.floating) else np.rint(values)
        return np.clip(values.reshape(space.shape), space.low, space.high).astype(space.dtype)
    low, high = _edges(space)
    whole = np.clip(np.rint(np.asarray(action, dtype=np.float64)), low, high).astype(np.int64)
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(whole.reshape(()))
    assert space.shape is not None
    return whole.reshape(space.shape).astype(space.dtype)


def _edges(space: Space[Any]) -> tuple[Any, Any]:
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _numbers(space: Space[Any]) -> int:
    if isinstance(space, spaces.Dict):
        return sum(_numbers(part) for part in space.spaces.values())
    return int(np.prod(space.shape or ()))


def _merged(space: Space[Any], action: Any, given: Any) -> Any:
    """Return ``action`` with numbers of ``given``, not yet within the space."""
    if isinstance(space, spaces.Dict):
        if given is None:
            return action
        if unknown := [name for name in given if name not in space.spaces]:
            raise KeyError(f"{unknown[0]!r} is no part of {space}")
        return {name: _merged(part, action[name], given.get(name)) for name, part in space.spaces.items()}
    values = np.array(given, dtype=np.float64)  # None becomes NaN
    own = np.asarray(action, dtype=np.float64)
    if values.ndim == 0 and np.isnan(values):
        return own
    values = values.reshape(own.shape)
    return np.where(np.isnan(values), own, values)


def _alike(space: Space[Any], raw: Any, clipped: Any) -> bool:
    if isinstance(space, spaces.Dict):
        return all(_alike(part, raw[name], clipped[name]) for name, part in space.spaces.items())
    return bool(np.allclose(raw, clipped, rtol=1e-6, atol=1e-6))


def _moved(space: Space[Any], action: Any, amounts: NDArray[np.float64]) -> Any:
    """Add ``amounts``, one for each number of the action in order."""
    if isinstance(space, spaces.Dict):
        made, start = {}, 0
        for name, part in space.spaces.items():
            made[name] = _moved(part, action[name], amounts[start : start + _numbers(part)])
            start += _numbers(part)
        return made
    own = np.asarray(action, dtype=np.float64)
    return clip_action(space, own + amounts.reshape(own.shape))


# ---------------------------------------------------------------- disturbances


def _stage(space: Space[Any], part: Perturb, seed: int, name: str) -> Stage:
    match part:
        case NoisePerturb():
            act: Stage = _noise(space, part, seed, name)
        case DelayPerturb(steps=steps):
            act = _Within(part, _Delay(steps))
        case StickyPerturb(p=p):
            act = _Sticky(p, part, seed, name)
        case DropoutPerturb():
            act = _Dropout(space, part, seed, name)
        case BiasPerturb(amount=amount):
            amounts = np.resize(np.asarray(amount, dtype=np.float64), _numbers(space))
            act = _Within(part, lambda action, _: _moved(space, action, amounts))
    return act


class _Within:
    """Disturbs from ``start`` on and before ``stop``."""

    def __init__(self, part: Perturb, act: Stage) -> None:
        self._start, self._stop, self._act = part.start, part.stop, act

    def __call__(self, action: Any, step: int) -> Any:
        inside = step >= self._start and (self._stop is None or step < self._stop)
        return self._act(action, step) if inside else action


def _noise(space: Space[Any], part: NoisePerturb, seed: int, name: str) -> Stage:
    def act(action: Any, step: int) -> Any:
        generator = stream(seed, step, name)
        if generator.random() < part.epsilon:
            return sample(space, generator)
        return jitter(space, action, part.gaussian, generator) if part.gaussian > 0 else action

    return _Within(part, act)


class _Delay:
    """Does what came ``steps`` earlier; until then the first that came."""

    def __init__(self, steps: int) -> None:
        self._given: deque[Any] = deque(maxlen=steps + 1)

    def __call__(self, action: Any, step: int) -> Any:
        self._given.append(action)
        return self._given[0]


class _Sticky:
    """Repeats what it did last."""

    def __init__(self, p: float, part: Perturb, seed: int, name: str) -> None:
        self._p, self._seed, self._name, self._last = p, seed, name, None
        self._within = _Within(part, self._repeat)

    def __call__(self, action: Any, step: int) -> Any:
        self._last = self._within(action, step)
        return self._last

    def _repeat(self, action: Any, step: int) -> Any:
        return self._last if step > 0 and stream(self._seed, step, self._name).random() < self._p else action


class _Dropout:
    """Loses actions for some steps."""

    def __init__(self, space: Space[Any], part: DropoutPerturb, seed: int, name: str) -> None:
        self._rest, self._part, self._seed, self._name = rest_action(space), part, seed, name
        self._left, self._last = 0, None
        self._within = _Within(part, self._lose)

    def __call__(self, action: Any, step: int) -> Any:
        self._last = self._within(action, step)
        return self._last

    def _lose(self, action: Any, step: int) -> Any:
        if self._left == 0 and stream(self._seed, step, self._name).random() < self._part.p:
            self._left = self._part.steps
        if self._left == 0:
            return action
        self._left -= 1
        return self._rest if self._part.fill == "zero" or step == 0 else self._last
