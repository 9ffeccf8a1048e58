"""Scores of predictions: correlation, mean error, ranking of events."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def correlation(truth: NDArray[Any], made: NDArray[Any]) -> float | None:
    """Return Pearson's correlation over all values, None where one side does not vary."""
    a, b = np.asarray(truth, np.float64).ravel(), np.asarray(made, np.float64).ravel()
    if len(a) < 2 or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return None
    return float(np.corrcoef(a, b)[0, 1])


def slope(told: NDArray[Any], truth: NDArray[Any]) -> float | None:
    """Return the slope of the line that is nearest to the truth over what was told, 1 where it is calibrated; None where nothing varies."""
    x, y = (np.asarray(values, np.float64).ravel() - np.mean(values) for values in (told, truth))
    return float(x @ y / (x @ x)) if len(x) > 1 and np.ptp(x) > 0 else None


def mean_error(truth: NDArray[Any], made: NDArray[Any]) -> float:
    """Return the mean absolute error."""
    return float(np.abs(np.asarray(truth, np.float64) - np.asarray(made, np.float64)).mean())


def compare(truth: NDArray[Any], made: NDArray[Any]) -> dict[str, float | None]:
    """Return ``error`` (mean absolute), ``typical_error`` (median absolute) and ``correlation``."""
    apart = np.abs(np.asarray(truth, np.float64) - np.asarray(made, np.float64))
    return {"error": mean_error(truth, made), "typical_error": float(np.median(apart)), "correlation": correlation(truth, made)}


def area_under_curve(events: NDArray[Any], others: NDArray[Any]) -> float | None:
    """Return how often a value of ``events`` lies above one of ``others``, ties counted half; None where one is empty."""
    if not events.size or not others.size:
        return None
    ordered = np.sort(others.ravel())
    below, upto = np.searchsorted(ordered, events.ravel(), side="left"), np.searchsorted(ordered, events.ravel(), side="right")
    return float((below + upto).mean() / (2 * len(ordered)))


def mean_and_error(values: NDArray[Any]) -> tuple[float, float]:
    """Return the mean of ``(N,)`` values and its standard error, 0 for a single value."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return float(np.mean(values)), spread / float(np.sqrt(len(values)))
