"""Actions taken apart: what an inverse-dynamics model tells of any action space, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.spaces import row_size

BINS = 3
"""Into so many equal stretches the range of a number is cut, from its 1st to its 99th percentile."""


@dataclass(frozen=True)
class Part:
    """One number or one choice in an action row.

    Attributes:
        name: For people, as ``action[2]``.
        column: Where it begins in a row.
        classes: How many there are to tell apart: ``BINS`` of a number, the options of a choice.
        hot: Whether a choice takes a column for each option rather than one column in all.
        lowest: First option of a choice.
        edges: Where the stretches of a number meet, ``BINS - 1`` of them; empty for a choice.
        centre: Mean of a number over the real actions.
        spread: Its standard deviation.
    """

    name: str
    column: int
    classes: int
    hot: bool = False
    lowest: int = 0
    edges: tuple[float, ...] = ()
    centre: float = 0.0
    spread: float = 1.0

    @property
    def is_number(self) -> bool:
        """Whether it is a number."""
        return bool(self.edges)

    def label(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Return the class of each row ``(..., A)``."""
        if self.hot:
            return np.asarray(rows[..., self.column : self.column + self.classes].argmax(-1), np.int64)
        values = rows[..., self.column]
        return np.digitize(values, self.edges).astype(np.int64) if self.is_number else np.asarray(values - self.lowest, np.int64)

    def number(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return the number of each row ``(..., A)``, at zero mean and unit variance over the real actions."""
        return ((rows[..., self.column] - self.centre) / self.spread).astype(np.float32)


def parts_of(space: Space[Any], rows: NDArray[Any]) -> tuple[Part, ...]:
    """Return what varies in rows ``(N, A)`` of an action space.

    Raises:
        ValueError: Nothing does.
    """
    found = []
    for kind, part in _parts(space, "action", 0, flat=False):
        if kind == "number":
            values = rows[:, part.column].astype(np.float64)
            low, high = np.quantile(values, (0.01, 0.99))
            edges = np.linspace(low, high, BINS + 1)[1:-1]
            part = replace(part, edges=tuple(edges.tolist()), centre=float(values.mean()), spread=max(float(values.std()), 1e-6))
        if len(np.unique(part.label(rows))) > 1:
            found.append(part)
    if not found:
        raise ValueError("no part of the recorded actions varies, so there is nothing to tell from frames: set fidelity=null")
    return tuple(found)


def _parts(space: Space[Any], name: str, column: int, *, flat: bool) -> Iterator[tuple[str, Part]]:
    """Yield every part of ``space``, whose columns begin at ``column``, and whether it is a ``number`` or a ``choice``."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _parts(inner, f"{name}[{key}]", column, flat=True)
            column += spaces.flatdim(inner)
    elif isinstance(space, spaces.Box):
        for i, own in enumerate(_names(name, row_size(space))):
            yield "number", Part(own, column + i, BINS)
    elif isinstance(space, spaces.MultiBinary):
        for i, own in enumerate(_names(name, row_size(space))):
            yield "choice", Part(own, column + i, 2)
    else:
        for own, lowest, size in _choices(space, name):
            yield "choice", Part(own, column, size, hot=flat, lowest=lowest)
            column += size if flat else 1


def _choices(space: Space[Any], name: str) -> list[tuple[str, int, int]]:
    if isinstance(space, spaces.Discrete):
        return [(name, int(space.start), int(space.n))]
    assert isinstance(space, spaces.MultiDiscrete)
    starts, sizes = space.start.reshape(-1).tolist(), space.nvec.reshape(-1).tolist()
    return list(zip(_names(name, len(sizes)), starts, sizes, strict=True))


def _names(name: str, count: int) -> Sequence[str]:
    return [f"{name}[{i}]" for i in range(count)] if count > 1 else [name]
