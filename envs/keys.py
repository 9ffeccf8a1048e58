"""Keyboard keys to actions, as ``gymnasium.utils.play`` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from worldsim.envs.actions import action_row
from worldsim.spaces import from_row
from worldsim.spec import WorldSpec

MOST_HELD = 3
"""Keys that count when held together."""

_OPEN = (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)


def keys_to_action(spec: WorldSpec, keys: Mapping[str, Any] | None = None) -> dict[tuple[int, ...], Any]:
    """Return actions by the sorted key codes held down.

    A key is named by its character or by pygame's name (``left``, ``space``); ``w+a`` is both held together. In a space of
    several numbers, keys held together are added and clipped to the space, up to three at a time.

    Args:
        spec: The world.
        keys: Names to actions; None for the world's own.

    Raises:
        ValueError: The world names no keys, or a key or its action is wrong.
    """
    keys = spec.keys if keys is None else keys
    if not keys:
        raise ValueError(
            f"world {spec.name!r} names no keyboard keys: "
            "give them, as play(env, keys_to_action={'w': action}) or 'worldsim play keys={w: [0, 1, 0]}'"
        )
    space = spec.action_space
    single = {name: _action(space, value, name) for name, value in keys.items() if "+" not in name or len(name) == 1}
    held = {_codes([name]): action for name, action in single.items()}
    if isinstance(space, _OPEN):
        for count in range(2, MOST_HELD + 1):
            held |= {_codes(names): _added(space, [single[name] for name in names]) for names in combinations(single, count)}
    together = {name: value for name, value in keys.items() if name not in single}
    return held | {_codes(name.split("+")): _action(space, value, name) for name, value in together.items()}


def _added(space: Space[Any], values: list[Any]) -> Any:
    total = np.sum([np.asarray(value, dtype=np.float64) for value in values], axis=0)
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    else:
        low, high = np.zeros(space.shape or ()), np.ones(space.shape or ())
    return np.clip(total, low, high).astype(space.dtype)


def _action(space: Space[Any], value: Any, name: str) -> Any:
    try:
        return from_row(space, action_row(space, value))
    except ValueError as error:
        raise ValueError(f"key {name!r}: {error}") from error


def _codes(names: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted(_code(name) for name in names))


def _code(name: str) -> int:
    if len(name) == 1:
        return ord(name.lower())
    import pygame

    code = getattr(pygame, f"K_{name.upper()}", None)
    if code is None:
        raise ValueError(f"key {name!r} is unknown: name a character, or left, right, up, down, space, return, tab")
    return int(code)
