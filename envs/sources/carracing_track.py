"""The centre line of a CarRacing track: where the car stands on it, and what lies ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEARCH = 12  # points to either side of the last nearest one in which the next is sought
_LOST = 14.0  # units from the line, a road's whole width, beyond which it is sought on the whole track


def wrap(angle: float) -> float:
    """Bring ``angle`` [rad] into [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


@dataclass(frozen=True)
class Place:
    """Where a car stands on the track.

    Attributes:
        offset: Distance to the centre line [units], left of it positive.
        heading_error: Car heading less track heading [rad], in [-pi, pi); a car turned to the left has a positive one.
        bearings: Bearing of each looked-for point in the car's frame [rad], left positive.
    """

    offset: float
    heading_error: float
    bearings: tuple[float, ...]


class CentreLine:
    """A closed line of points with headings; remembers the last nearest point, so that crossing arms are not mixed up."""

    def __init__(self, track: Sequence[tuple[float, float, float, float]]) -> None:
        """Take the simulator's ``track``: rows of (angle, heading, x, y)."""
        data = np.asarray(track, dtype=np.float64)
        self._points, self._headings = data[:, 2:4], data[:, 1]
        self._spacing = float(np.median(np.hypot(*np.diff(self._points, axis=0).T)))
        self._window = np.arange(-_SEARCH, _SEARCH + 1)
        self._nearest = 0

    def place(self, x: float, y: float, heading: float, ahead: tuple[float, ...]) -> Place:
        """Locate a car at ``x``, ``y`` [units] with ``heading`` [rad], and the points ``ahead`` [units along the line]."""
        index = self._nearest = self._find(np.array((x, y)))
        angle = float(self._headings[index])
        dx, dy = x - float(self._points[index, 0]), y - float(self._points[index, 1])
        along = -math.sin(angle) * dx + math.cos(angle) * dy
        offset = -math.cos(angle) * dx - math.sin(angle) * dy
        bearings = tuple(self._bearing(index + (along + distance) / self._spacing, x, y, heading) for distance in ahead)
        return Place(offset, wrap(heading - angle), bearings)

    def _find(self, position: NDArray[np.float64]) -> int:
        count = len(self._points)
        window = (self._nearest + self._window) % count
        squares = ((self._points[window] - position) ** 2).sum(axis=1)
        best = int(squares.argmin())
        if squares[best] < _LOST**2:
            return int(window[best])
        return int(((self._points - position) ** 2).sum(axis=1).argmin())

    def _bearing(self, index: float, x: float, y: float, heading: float) -> float:
        count, low = len(self._points), math.floor(index)
        share = index - low
        (ax, ay), (bx, by) = self._points[low % count], self._points[(low + 1) % count]
        dx, dy = ax + share * (bx - ax) - x, ay + share * (by - ay) - y
        return wrap(math.atan2(dy, dx) - math.pi / 2 - heading)
