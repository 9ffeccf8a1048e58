"""Per-row memory of policies: one value a batch row, made anew where an episode begins, from that episode's seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import numpy as np
from gymnasium import Space
from gymnasium.vector.utils import concatenate, create_empty_array

from worldsim.types import Actions, Observation

_T = TypeVar("_T")


class Rows(Generic[_T]):
    """One ``_T`` a row, built from a generator that knows the row's seed alone."""

    def __init__(self, build: Callable[[np.random.Generator], _T], *, salt: int) -> None:
        """Take what builds a row's value, and a ``salt`` that sets the streams of different policies apart."""
        self._build, self._salt = build, salt
        self._rows: dict[int, _T] = {}

    def update(self, observation: Observation) -> list[_T]:
        """Return the values of all rows in order, after beginning those whose episode begins."""
        for row, (first, seed) in enumerate(zip(observation.first.tolist(), observation.seeds.tolist(), strict=True)):
            if first or row not in self._rows:
                self._rows[row] = self._build(np.random.default_rng((self._salt, seed % 2**64)))
        return [self._rows[row] for row in range(len(observation.first))]


def stack(space: Space[Any], actions: list[Any]) -> Actions:
    """Lay single actions of ``space`` out as its batch space does."""
    empty: Any = create_empty_array(space, len(actions))
    return cast("Actions", concatenate(space, actions, empty))
