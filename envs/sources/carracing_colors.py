"""Colours of a CarRacing episode, as tags, numbers and words."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HUES = {
    15: "red",
    45: "orange",
    70: "yellow",
    165: "green",
    195: "cyan",
    255: "blue",
    290: "purple",
    345: "pink",
    361: "red",
}  # up to, degrees
_CHANNELS = ("red", "green", "blue")


def color_name(color: NDArray[np.float64]) -> str:
    """Name ``color``, three channels in 0..255, coarsely: one of a dozen words."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) / 255 for c in color))
    if value < 0.2:
        return "black"
    if saturation < 0.25:
        return "grey" if value < 0.7 else "white"
    name = next(name for limit, name in _HUES.items() if hue * 360 < limit)
    return "brown" if name == "orange" and value < 0.65 else name


def describe(road: NDArray[np.float64], ground: NDArray[np.float64], patch: NDArray[np.float64]) -> Mapping[str, Any]:
    """Return ``{"tags", "numbers", "text"}`` for the colours of the road, the ground and the patches on it, each 0..255."""
    road_name, grass_name = color_name(road), color_name(ground)
    bright = float(ground @ (0.299, 0.587, 0.114)) > 105
    parts = {"road": road, "grass": ground, "patch": patch}
    numbers = {f"{part}_{name}": float(c) / 255 for part, color in parts.items() for name, c in zip(_CHANNELS, color, strict=True)}
    return {
        "tags": (f"road:{road_name}", f"grass:{grass_name}", "bright" if bright else "dark"),
        "numbers": numbers,
        "text": f"{road_name} road on {grass_name} grass",
    }
