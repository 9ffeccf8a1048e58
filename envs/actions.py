"""Actions at the door of an environment: checked, then laid out as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.spaces import to_row


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
