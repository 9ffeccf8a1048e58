"""Actions at the door of an environment: checked, then laid out as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from worldsim.spaces import is_integer, row_size, to_row


def action_row(space: Space[Any], action: Any) -> NDArray[Any]:
    """Check one action and lay it out as ``(A,)``, see ``worldsim.spaces.to_row``.

    Lists and other float types do for a Box.

    Raises:
        ValueError: The action is not in ``space``.
    """
    fitted, inside = action, False
    try:
        fitted = _cast(space, action)
        inside = bool(space.contains(fitted))
    except (TypeError, ValueError, KeyError):
        pass  # so it is not inside
    if not inside:
        raise ValueError(f"action {action!r} is outside {space}: {_way_out(space)}")
    return to_row(space, fitted)


def row_maker(space: Space[Any]) -> Callable[[Any], NDArray[Any]]:
    """Prepare ``action_row`` of one space, for whoever needs it at every step."""
    if not isinstance(space, spaces.Box) or space.dtype != np.float32:
        return partial(action_row, space)
    shape, lows, highs = space.shape, space.low.reshape(-1).tolist(), space.high.reshape(-1).tolist()

    def make(action: Any) -> NDArray[Any]:
        if isinstance(action, np.ndarray) and action.dtype == np.float32 and action.shape == shape:
            row: NDArray[Any] = action.reshape(-1)
            if all(low <= number <= high for low, number, high in zip(lows, row.tolist(), highs, strict=True)):
                return row
        return action_row(space, action)

    return make


def action_rows(space: Space[Any], actions: Any, skip: NDArray[np.bool_]) -> NDArray[Any]:
    """Check a batch of actions and lay it out as ``(B, A)``.

    Args:
        space: The space of one action.
        actions: B of them, as ``batch_space(space, B)`` lays them out.
        skip: ``(B,)`` bool, True where an action counts for nothing: it is not looked at, and its row is of no use.

    Raises:
        ValueError: There are not B actions, or one is not in ``space``.
    """
    quick = _box_rows(space, actions, skip)
    if quick is not None:
        return quick
    given = _single(space, actions, len(skip))
    rows = np.zeros((len(skip), row_size(space)), np.int64 if is_integer(space) else np.float32)
    for row in np.flatnonzero(~skip).tolist():
        try:
            rows[row] = action_row(space, given[row])
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error
    return rows


def _box_rows(space: Space[Any], actions: Any, skip: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Lay a batch out at once, where all is well and the space is a Box of real numbers."""
    if not isinstance(space, spaces.Box) or not isinstance(actions, np.ndarray) or not space.dtype.kind == actions.dtype.kind == "f":
        return None
    if actions.shape != (len(skip), *space.shape):
        return None
    fitted = actions.astype(space.dtype, copy=False)
    inside = ((fitted >= space.low) & (fitted <= space.high)).reshape(len(skip), -1).all(1)
    return fitted.reshape(len(skip), -1).astype(np.float32) if (inside | skip).all() else None


def _single(space: Space[Any], actions: Any, count: int) -> Sequence[Any]:
    try:
        given = list(iterate(batch_space(space, count), actions))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"actions {actions!r} are no batch of {count} of {space}: give what action_space.sample() gives") from error
    if len(given) != count:
        raise ValueError(f"there are {len(given)} actions for {count} rows: give what action_space lays out, as action_space.sample()")
    return given


def _cast(space: Space[Any], action: Any) -> Any:
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return np.asarray(action, dtype=space.dtype)
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return np.asarray(action)
    if isinstance(space, spaces.Dict) and isinstance(action, Mapping):
        return {**action, **{key: _cast(part, action[key]) for key, part in space.spaces.items()}}
    return action


def _way_out(space: Space[Any]) -> str:
    if isinstance(space, spaces.Box):
        return f"give {space.shape} finite numbers, and clip them to the space's low and high"
    if isinstance(space, spaces.Discrete):
        return f"give a whole number in {space.start}..{space.start + space.n - 1}"
    return f"give what the space contains, as {space.sample()!r}"
