"""Endings: whether a world knows when an episode is over, as by success, on stretches that end so and stretches that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.episode import Episode
from worldsim.evaluation.openloop import Segment, cut_segment
from worldsim.evaluation.scores import area_under_curve
from worldsim.simulator import Simulator
from worldsim.types import EpisodeStore

PRECISION = 0.9
"""Least precision that a threshold is chosen for: episodes that go on are far more often met than in the stretches measured here."""
LEAST = 0.5
"""Least F1 that a threshold is chosen for: below it, what looks precise is chance."""
TOLERANCE = 0.02
"""F1 that may be lost for a higher threshold, which ends episodes later and fewer by mistake."""
EDGES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Between these the foretold probabilities are compared with what was found."""
_NEAR = 4  # steps before the end that count as on time
_FEWEST = 5  # ends from which on a threshold is chosen


@dataclass(frozen=True)
class Endings:
    """How endings are measured.

    Attributes:
        horizon: Steps of a rollout; the end, where there is one, is its last step.
        windows: Most rollouts that end, and most that do not.
        episodes: Most episodes of a split that are searched for them.
    """

    horizon: int = 16
    windows: int = 64
    episodes: int = 400

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        for name in ("horizon", "windows", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"endings.{name}={getattr(self, name)} must be 1 or more; endings=null leaves the section out")


@dataclass(frozen=True)
class Windows:
    """Stretches of N episodes, the truth about each of their steps ``(N, T)``, and the share of all steps read that end an episode."""

    segments: Sequence[Segment]
    ends: NDArray[np.bool_]
    natural: float


def endings(
    simulator: Simulator, store: EpisodeStore, plan: Endings, *, split: str, context: int, seed: int = 0, batch: int = 16
) -> dict[str, Any]:
    """Roll the world over stretches with their recorded actions, and compare its end probability with what happened.

    A rollout's score is the probability that it ended at all, ``1 - prod(1 - p)`` over its steps.

    Returns:
        ``positives`` and ``negatives``, how many rollouts ended in truth and did not, ``horizon``, and, where some did: ``auc`` of the
        end probability over steps, and of the score over rollouts; ``threshold``, the world's own, above which environments end; ``rule``:
        precision, recall and F1 of that at some step; ``score``: the same of ``score > 0.5``; ``tuned``: the same of the score with the
        ``threshold`` of the best F1 on the train split, None where that ended too rarely; ``on_time``, how many of the rollouts found by
        the rule are ended no more than four steps early; ``calibration``.
    """
    found = find_windows(store, plan, split=split, context=context, seed=seed)
    truth = np.asarray(found.ends.any(axis=1))
    report: dict[str, Any] = {"horizon": plan.horizon, "positives": int(truth.sum()), "negatives": int((~truth).sum())}
    if not truth.any():
        return report
    told = end_probabilities(simulator, found.segments, batch=batch)  # (N, T)
    threshold = simulator.spec.end_threshold
    score, ruled = any_end(told), np.asarray((told > threshold).any(axis=1))  # each (N,)
    early = plan.horizon - 1 - (told > threshold).argmax(axis=1)
    return report | {
        "threshold": threshold,
        "auc": area_under_curve(told[found.ends], told[~found.ends]),
        "auc_rollouts": area_under_curve(score[truth], score[~truth]),
        "rule": f1(truth, ruled),
        "score": f1(truth, score > 0.5),
        "tuned": _tuned(simulator, store, plan, truth, score, context=context, seed=seed, batch=batch),
        "on_time": int((truth & ruled & (early <= _NEAR)).sum()),
        "calibration": calibration(found.ends, told) | {"natural": found.natural},
    }


def find_windows(store: EpisodeStore, plan: Endings, *, split: str, context: int, seed: int = 0) -> Windows:
    """Find stretches that end with termination, and others: the last ones of other episodes, and earlier ones of those that do."""
    generator = np.random.default_rng((seed, 2))
    kinds: dict[bool, list[Segment]] = {True: [], False: []}
    steps = over = 0
    for i in generator.permutation(store.split(split))[: plan.episodes].tolist():
        episode = store[i]
        steps, over = steps + len(episode), over + int(episode.terminated.any())
        for ends, start in _starts(episode, context, plan.horizon, generator):
            if len(kinds[ends]) < plan.windows:
                kinds[ends].append(cut_segment(episode, start, context, plan.horizon, seed=len(kinds[True]) + len(kinds[False])))
        if min(map(len, kinds.values())) >= plan.windows:
            break
    truth = np.zeros((len(kinds[True]) + len(kinds[False]), plan.horizon), np.bool_)
    truth[: len(kinds[True]), -1] = True
    return Windows(kinds[True] + kinds[False], truth, over / max(steps, 1))


def _starts(episode: Episode, context: int, horizon: int, generator: np.random.Generator) -> list[tuple[bool, int]]:
    """Return where stretches begin, and whether they end with termination."""
    last = len(episode) + 1 - context - horizon
    if last < 0:
        return []
    if not episode.terminated.any():
        return [(False, last)]
    earlier = last - horizon  # no step of it is also one of the stretch that ends
    return [(True, last)] + ([(False, int(generator.integers(earlier + 1)))] if earlier >= 0 else [])


def end_probabilities(simulator: Simulator, segments: Sequence[Segment], *, batch: int = 16) -> NDArray[np.float32]:
    """Return the probability that each step of N segments ended the episode, ``(N, T)``."""
    rows: list[NDArray[np.float32]] = []
    for first in range(0, len(segments), batch):
        part = segments[first : first + batch]
        state, ends = simulator.start([segment.context for segment in part], [segment.seed for segment in part]), []
        for t in range(len(part[0].actions)):
            state, step = simulator.step(state, np.stack([segment.actions[t] for segment in part]), decode=False)
            ends.append(step.end)
        rows.append(np.stack(ends, axis=1))
    return np.concatenate(rows)


def any_end(told: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probability that a rollout ended at one of its steps ``(N, T)``: ``(N,)``."""
    chance: NDArray[np.float64] = 1 - np.prod(1 - told.astype(np.float64), axis=1)
    return chance


def f1(truth: NDArray[np.bool_], told: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return ``precision``, ``recall`` and their harmonic mean ``f1`` of ``(N,)`` verdicts; None where nothing was told or true."""
    right, said, true = int((truth & told).sum()), int(told.sum()), int(truth.sum())
    return {
        "precision": right / said if said else None,
        "recall": right / true if true else None,
        "f1": 2 * right / (said + true) if said + true else None,
    }


def choose_threshold(simulator: Simulator, store: EpisodeStore, *plans: Endings, context: int, seed: int = 0, batch: int = 16) -> float:
    """Return the end probability of a step above which it is best to end an episode, by stretches of the train split, of all ``plans``.

    It is ``highest_threshold`` of the highest probability in each rollout; 0.5 where too few episodes end to choose by.
    """
    found = [find_windows(store, plan, split="train", context=context, seed=seed) for plan in plans]
    truth = np.concatenate([windows.ends.any(axis=1) for windows in found])
    if min(truth.sum(), (~truth).sum()) < _FEWEST:
        return 0.5
    told = [end_probabilities(simulator, windows.segments, batch=batch).max(axis=1) for windows in found if windows.segments]
    return highest_threshold(truth, np.concatenate(told))


def highest_threshold(truth: NDArray[np.bool_], chance: NDArray[np.floating[Any]]) -> float:
    """Return the highest threshold of ``(N,)`` chances whose F1 is the best, but for ``TOLERANCE``, among those of ``PRECISION``.

    Returns 0.5 where none of these is better than that, or than ``LEAST``.
    """
    steps = np.unique(chance)
    middles = (steps[1:] + steps[:-1]) / 2
    told = {float(middle): f1(truth, chance > middle) for middle in middles if 0 < middle < 1}
    good = {middle: each["f1"] or 0.0 for middle, each in told.items() if (each["precision"] or 0.0) >= PRECISION}
    if not good or max(good.values()) <= max(LEAST, f1(truth, chance > 0.5)["f1"] or 0.0):
        return 0.5
    return max(middle for middle, each in good.items() if each >= max(good.values()) - TOLERANCE)


def best_threshold(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Return the threshold of the best F1, midway between two scores."""
    steps = np.unique(score)
    middles = np.concatenate(([steps[0] / 2], (steps[1:] + steps[:-1]) / 2))
    return float(middles[np.argmax([f1(truth, score > middle)["f1"] or 0.0 for middle in middles])])


def calibration(ends: NDArray[np.bool_], told: NDArray[np.float32]) -> dict[str, Any]:
    """Compare foretold probabilities with what was found, both ``(N, T)``.

    Returns:
        ``brier``, the mean square of their difference (Brier 1950), ``brier_base``, that of always telling the share found,
        ``foretold`` and ``found``, mean probability and share of steps, and ``bins``, the same of steps told between two of ``EDGES``,
        with their count.
    """
    truth, chance = ends.ravel().astype(np.float64), told.ravel().astype(np.float64)
    place = np.clip(np.digitize(chance, EDGES[1:-1]), 0, len(EDGES) - 2)
    there = [np.flatnonzero(place == k) for k in range(len(EDGES) - 1)]
    return {
        "brier": float(np.square(chance - truth).mean()),
        "brier_base": float(truth.var()),
        "foretold": float(chance.mean()),
        "found": float(truth.mean()),
        "bins": [{"foretold": float(chance[i].mean()), "found": float(truth[i].mean()), "count": len(i)} for i in there if len(i)],
    }


def _tuned(
    simulator: Simulator,
    store: EpisodeStore,
    plan: Endings,
    truth: NDArray[np.bool_],
    score: NDArray[np.float64],
    *,
    context: int,
    seed: int,
    batch: int,
) -> dict[str, Any] | None:
    learned = find_windows(store, plan, split="train", context=context, seed=seed)
    true = np.asarray(learned.ends.any(axis=1))
    if min(true.sum(), (~true).sum()) < _FEWEST:
        return None
    threshold = best_threshold(true, any_end(end_probabilities(simulator, learned.segments, batch=batch)))
    return {"threshold": threshold, **f1(truth, score > threshold)}
