"""Gymnasium action spaces as rows of numbers, as features for a network, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary and Dict of these"


def _check(space: Space[Any]) -> None:
    if isinstance(space, spaces.Dict):
        for part in space.spaces.values():
            _check(part)
    elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ValueError(f"action space {space} is not supported: use {_SUPPORTED}, or wrap the environment")


def is_integer(space: Space[Any]) -> bool:
    """Whether rows of ``space`` are stored as int64 rather than float32."""
    if isinstance(space, spaces.Box):
        return not np.issubdtype(space.dtype, np.floating)
    return not isinstance(space, spaces.Dict)


def row_size(space: Space[Any]) -> int:
    """Return A, the numbers in one action row: the action's own numbers, or the flattened Dict's."""
    _check(space)
    if isinstance(space, spaces.Discrete):
        return 1
    if isinstance(space, spaces.Dict):
        return spaces.flatdim(space)
    assert space.shape is not None
    return int(np.prod(space.shape))


def to_row(space: Space[Any], action: Any) -> NDArray[Any]:
    """Lay one action out as ``(A,)`` float32 or int64."""
    if isinstance(space, spaces.Dict):
        return np.asarray(spaces.flatten(space, action), dtype=np.float32)
    return np.asarray(action, dtype=np.int64 if is_integer(space) else np.float32).reshape(-1)


def from_row(space: Space[Any], row: NDArray[Any]) -> Any:
    """Undo ``to_row``: give back an action that ``space`` contains."""
    if isinstance(space, spaces.Dict):
        return _inside(space, spaces.unflatten(space, row))
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(row[0])
    assert space.shape is not None
    return _inside(space, np.asarray(row, dtype=space.dtype).reshape(space.shape))


def _inside(space: Space[Any], action: Any) -> Any:
    """Undo what rounding to float32 moved over the edge of a Box."""
    if isinstance(space, spaces.Dict):
        return {key: _inside(part, action[key]) for key, part in space.spaces.items()}
    return np.asarray(np.clip(action, space.low, space.high)) if isinstance(space, spaces.Box) else action


def feature_size(space: Space[Any]) -> int:
    """Return the width of ``to_features``: Gymnasium's flattened dimension."""
    _check(space)
    return spaces.flatdim(space)


def to_features(space: Space[Any], rows: NDArray[Any]) -> NDArray[np.float32]:
    """Turn rows ``(..., A)`` into network inputs ``(..., F)``: Gymnasium's flattening, bounded Box parts scaled to [-1, 1]."""
    if isinstance(space, spaces.Dict):
        parts, start = [], 0
        for part in space.spaces.values():
            width = spaces.flatdim(part)
            piece = rows[..., start : start + width]
            parts.append(to_features(part, piece) if isinstance(part, spaces.Box | spaces.Dict) else piece)
            start += width
        return np.concatenate(parts, axis=-1).astype(np.float32)
    if isinstance(space, spaces.Box):
        return _scale(space, rows)
    if isinstance(space, spaces.MultiBinary):
        return rows.astype(np.float32)
    starts, sizes = _classes(space)
    hot = [np.eye(size, dtype=np.float32)[rows[..., i] - start] for i, (start, size) in enumerate(zip(starts, sizes, strict=True))]
    return np.concatenate(hot, axis=-1)


def feature_maker(space: Space[Any]) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Prepare ``to_features`` of one space, for whoever needs it at every step."""
    if not isinstance(space, spaces.Box):
        return partial(to_features, space)
    middle, half = _affine(space)
    return lambda rows: ((rows - middle) / half).astype(np.float32)


def _classes(space: Space[Any]) -> tuple[list[int], list[int]]:
    if isinstance(space, spaces.Discrete):
        return [int(space.start)], [int(space.n)]
    assert isinstance(space, spaces.MultiDiscrete)
    return [int(s) for s in space.start.reshape(-1)], [int(n) for n in space.nvec.reshape(-1)]


def _scale(space: spaces.Box, rows: NDArray[Any]) -> NDArray[np.float32]:
    middle, half = _affine(space)
    return ((rows - middle) / half).astype(np.float32)


def _affine(space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return middle and half width of each number; 0 and 1 where it is not bounded."""
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    middle = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0.0)
    half = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, 1.0)
    return middle, half


def space_to_json(space: Space[Any]) -> dict[str, Any]:
    """Describe ``space`` in JSON types; ``space_from_json`` undoes it.

    Raises:
        ValueError: The space is of a kind that has no rows.
    """
    _check(space)
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, space_to_json(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(n) for n in space.n]}
    assert isinstance(space, spaces.Box)
    number = int if is_integer(space) else float
    edges = {
        name: [number(x) if np.isfinite(x) else None for x in edge.reshape(-1)] for name, edge in (("low", space.low), ("high", space.high))
    }
    return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **edges}


def space_from_json(data: Mapping[str, Any]) -> Space[Any]:
    """Build the space that ``space_to_json`` described.

    Raises:
        ValueError: ``type`` is unknown.
    """
    kind = data.get("type")
    if kind == "Dict":
        return spaces.Dict([(key, space_from_json(part)) for key, part in data["spaces"]])  # in this order: rows depend on it
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.asarray(data["nvec"]), dtype=np.dtype(data["dtype"]).type, start=np.asarray(data["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        low = np.array([-np.inf if x is None else x for x in data["low"]], dtype=dtype).reshape(shape)
        high = np.array([np.inf if x is None else x for x in data["high"]], dtype=dtype).reshape(shape)
        return spaces.Box(low, high, dtype=dtype.type)
    raise ValueError(f"action space type {kind!r} is unknown: the known ones are {_SUPPORTED}")


def rest_action(space: Space[Any]) -> Any:
    """Return the action for no key held: zeros, or what is nearest to them in the space."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, spaces.Dict):
        return {name: rest_action(part) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.copy()
    return np.zeros(space.shape or (), space.dtype)
