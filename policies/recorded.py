"""Recorded actions, played back from the beginning of every episode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import Space
from numpy.typing import ArrayLike, NDArray

from worldsim.policies.rows import Rows, stack
from worldsim.spaces import from_row, is_integer, row_size, to_row
from worldsim.types import Actions, Observation

After = Literal["repeat_last", "loop", "error"]


class RecordedPolicy:
    """Plays a table of actions, the same in every row."""

    def __init__(
        self,
        action_space: Space[Any],
        *,
        actions: Sequence[Any] | ArrayLike | None = None,
        path: str | Path | None = None,
        after: After = "repeat_last",
    ) -> None:
        """Take the actions from ``actions`` or from the file ``path``.

        Args:
            action_space: Space of one action.
            actions: Table ``(T, A)``, one row an action, as ``worldsim.spaces.to_rows`` lays them out; ``(T,)`` where A is 1.
            path: ``.npy`` file with that table.
            after: What follows the last action: it is repeated, the table begins again, or an error is raised.

        Raises:
            ValueError: Neither or both of ``actions`` and ``path`` are given, the file cannot be read, the table has another
                shape, an action is outside ``action_space``, or ``after`` is unknown.
        """
        if (actions is None) == (path is None):
            raise ValueError("RecordedPolicy needs either actions=[[...], ...] or path='actions.npy'")
        if after not in get_args(After):
            raise ValueError(f"after={after!r} is unknown: use one of {', '.join(get_args(After))}")
        source = "actions" if path is None else str(path)
        table = np.asarray(actions) if path is None else _load(Path(path))
        self._space, self._after = action_space, after
        self._actions = _checked(action_space, table, source)
        self._rows = Rows(lambda _: _Position(), salt=0)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, ...)`` as the action space's batch space lays them out.

        Raises:
            ValueError: ``after`` is ``error`` and an episode is longer than the table.
        """
        steps = [position.next() for position in self._rows.update(observation)]
        return stack(self._space, [self._actions[self._index(step)] for step in steps])

    def _index(self, step: int) -> int:
        count = len(self._actions)
        if step < count:
            return step
        if self._after == "error":
            raise ValueError(
                f"step {step} of an episode has no recorded action, {count} are there: set a shorter horizon or after='repeat_last'"
            )
        return step % count if self._after == "loop" else count - 1


class _Position:
    """Counts one row's steps."""

    def __init__(self) -> None:
        self._step = -1

    def next(self) -> int:
        self._step += 1
        return self._step


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"recorded actions {path} cannot be read: {error}; write them by numpy.save as a table (T, A)") from error


def _checked(space: Space[Any], table: NDArray[Any], source: str) -> list[Any]:
    width = row_size(space)
    rows = table[:, None] if table.ndim == 1 and width == 1 else table
    if rows.ndim != 2 or rows.shape[1] != width or len(rows) == 0 or rows.dtype.kind not in "iufb":
        raise ValueError(f"{source}: recorded actions are {rows.dtype} {table.shape}, but {space} needs numbers (T, {width}), T >= 1")
    actions = [from_row(space, row) for row in rows.astype(np.int64 if is_integer(space) else np.float32)]
    for index, (row, action) in enumerate(zip(rows, actions, strict=True)):
        if not space.contains(action) or not np.allclose(to_row(space, action), row, rtol=1e-6, atol=1e-6):
            raise ValueError(f"{source}: recorded action {index} is {row}, outside {space}: clip the recording to the space")
    return actions
