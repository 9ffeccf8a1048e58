"""Seeds, masks and autoreset of B rows: what the batched environments share, whatever they hand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from worldsim.envs.rows import NOT_FINITE, Outcome, Rows
from worldsim.envs.snapshot import WorldSnapshot, as_snapshot
from worldsim.envs.start import as_conditioning
from worldsim.episode import Conditioning


@dataclass(frozen=True)
class Taken:
    """What one step of a batch was.

    Attributes:
        outcome: What the rows gave, before any of them was started anew in the same step. Rows that the step only started
            have reward 0 and no flag.
        ended: Rows whose last observation is in ``outcome`` alone, since they were started anew in the same step.
        started: Infos of the rows that the step started anew, by row.
        broken: ``(B,)`` bool, True where the world broke down.
    """

    outcome: Outcome
    ended: tuple[int, ...]
    started: Mapping[int, dict[str, Any]]
    broken: NDArray[np.bool_]


class Batch:
    """B rows that are reset by mask and start anew by themselves, as Gymnasium's ``SyncVectorEnv`` does it.

    Args:
        rows: The rows.
        mode: ``NextStep``: a step starts rows that were over before it, and does nothing else with them. ``SameStep``: a step
            starts rows that it ended. ``Disabled``: whoever steps resets rows that are over.

    Raises:
        ValueError: The mode is unknown.
    """

    def __init__(self, rows: Rows, mode: str | AutoresetMode) -> None:
        try:
            self.mode = AutoresetMode(mode)
        except ValueError as error:
            raise ValueError(f"autoreset_mode={mode!r} is unknown: use {', '.join(repr(one.value) for one in AutoresetMode)}") from error
        self.rows = rows

    def reset(self, seed: Any, options: Mapping[str, Any] | None) -> dict[int, dict[str, Any]]:
        """Start the rows that ``options["reset_mask"]`` names, all of them without it, and return their infos by row.

        Raises:
            ValueError: A seed or an option is wrong; no row has changed then.
        """
        rest = dict(options or {})
        rows = np.flatnonzero(self._mask(rest.pop("reset_mask", None))).tolist()
        own = self._row_options(rest)
        seeds = self._seeds(seed)
        return self._start(rows, [seeds[row] for row in rows], [own[row] for row in rows])

    def waiting(self) -> NDArray[np.bool_]:
        """Return ``(B,)`` where the next step will start a row rather than step it.

        Raises:
            ResetNeeded: A row is over and will not be started by a step.
        """
        over = self.rows.over
        if self.rows.state is None:
            raise ResetNeeded("no row has a running episode: call reset() first")
        if self.mode is not AutoresetMode.NEXT_STEP and over.any():
            raise ResetNeeded(
                f"rows {np.flatnonzero(over).tolist()} have no running episode, and autoreset is disabled: "
                "reset them by options={'reset_mask': terminated | truncated}"
            )
        return over.copy()

    def step(self, features: Tensor, waiting: NDArray[np.bool_]) -> Taken:
        """Step every row by actions as features ``(B, F)``, but start those that are ``waiting (B,)``, whatever their features."""
        if waiting.any():
            outcome = self.rows.step(features)
            started = self._start(np.flatnonzero(waiting).tolist())
            return Taken(self._without(outcome, waiting), (), started, ~outcome.finite & ~waiting)
        outcome = self.rows.step(features)
        ended = np.flatnonzero(self.rows.over).tolist() if self.mode is AutoresetMode.SAME_STEP else []
        return Taken(outcome, tuple(ended), self._start(ended) if ended else {}, ~outcome.finite)

    def info(self, taken: Taken, row: int) -> dict[str, Any]:
        """Return what the single environment's ``info`` would be after the step."""
        told: dict[str, Any] = {"state": self.rows.labelled(taken.outcome.read[row][1:])}
        return {**told, "truncation_reason": NOT_FINITE} if taken.broken[row] else told

    def tell(self, rows: Any, conditionings: Sequence[Conditioning | Mapping[str, Any]]) -> None:
        """Tell the world something else of rows from the next step on.

        Raises:
            ValueError: A row is not there or named twice, there are not as many conditionings, or the world does not know one.
        """
        found = self._indices(rows)
        if len(set(found)) != len(found) or len(conditionings) != len(found):
            raise ValueError(f"rows={found} and {len(conditionings)} conditionings: name each row once, and give one for each")
        self.rows.tell(found, [as_conditioning(one) for one in conditionings])

    def clone_state(self, indices: Any, *, include_rng: bool) -> WorldSnapshot:
        """Return a snapshot of the rows named; a row may be named several times.

        Raises:
            ValueError: There is no such row, or there was no reset yet.
        """
        return self.rows.clone(self._indices(indices), include_rng=include_rng)

    def restore_state(self, snapshot: WorldSnapshot | bytes, indices: Any) -> None:
        """Put a snapshot in the place of the rows named.

        Raises:
            ValueError: There is no such row or it is named twice, or the snapshot does not fit.
        """
        rows = self._indices(indices)
        if len(set(rows)) != len(rows):
            raise ValueError(f"indices={rows} name a row twice: name each row to be restored once")
        self.rows.restore(as_snapshot(snapshot, self.rows.model), rows)

    def _start(self, rows: list[int], seeds: Sequence[int | None] = (), options: Sequence[Any] = ()) -> dict[int, dict[str, Any]]:
        generators = []
        for row, seed in zip(rows, seeds or [None] * len(rows), strict=True):
            kept = self.rows.generators[row]
            generators.append(kept if kept is not None and seed is None else seeding.np_random(seed)[0])
        return dict(zip(rows, self.rows.reset(rows, generators, options or [None] * len(rows)), strict=True))

    def _without(self, outcome: Outcome, idle: NDArray[np.bool_]) -> Outcome:
        rewards, labels = outcome.rewards.masked_fill(torch.from_numpy(idle).to(self.rows.device), 0.0), self.rows.labels
        return replace(
            outcome,
            observations=self.rows.observations,
            labels=labels,
            rewards=rewards,
            read=torch.cat((rewards[:, None], labels), dim=1).tolist(),
            terminated=outcome.terminated & ~idle,
            truncated=outcome.truncated & ~idle,
        )

    def _mask(self, given: Any) -> NDArray[np.bool_]:
        count = len(self.rows)
        if given is None:
            return np.ones(count, np.bool_)
        if not isinstance(given, np.ndarray) or given.dtype != np.bool_ or given.shape != (count,) or not given.any():
            raise ValueError(f"reset_mask={given!r} must be a bool array of shape ({count},) with at least one True")
        if self.rows.state is None and not given.all():
            raise ResetNeeded("the first reset starts all rows: leave reset_mask out")
        return given

    def _row_options(self, rest: dict[str, Any]) -> list[dict[str, Any]]:
        given = rest.pop("rows", None)
        if given is None:
            return [rest] * len(self.rows)
        if not isinstance(given, Sequence) or len(given) != len(self.rows):
            raise ValueError(f"options['rows']={given!r} must be a list of {len(self.rows)} mappings, one a row")
        return [{**rest, **(row or {})} for row in given]

    def _seeds(self, seed: Any) -> list[int | None]:
        count = len(self.rows)
        if seed is None:
            return [None] * count
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(count)]
        if len(seed) != count:
            raise ValueError(f"there are {len(seed)} seeds for {count} rows: give one a row, or an int")
        return [None if one is None else int(one) for one in seed]

    def _indices(self, given: Any) -> list[int]:
        count = len(self.rows)
        if given is None:
            return list(range(count))
        found = np.atleast_1d(np.asarray(given))
        if found.dtype.kind not in "iu" or found.ndim != 1 or not len(found) or found.min() < 0 or found.max() >= count:
            raise ValueError(f"indices={given!r} must be whole numbers in 0..{count - 1}, at least one")
        return [int(row) for row in found]
