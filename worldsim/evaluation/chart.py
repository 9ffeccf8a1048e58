"""Plain charts as PNGs: lines over steps, and points beside a diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLOURS = ("#1f5fbf", "#c8501e", "#5a5a5a", "#2e8b57", "#8a4fb0")
_LEFT, _TOP, _RIGHT, _BOTTOM = 56, 36, 16, 52  # margins in pixels; names of curves stand below


@dataclass(frozen=True)
class _Axes:
    """A white sheet and the ranges that its inside stands for."""

    pen: ImageDraw.ImageDraw
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont
    size: tuple[int, int]
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0] or 1), (y - self.y[0]) / (self.y[1] - self.y[0] or 1)
        return _LEFT + across * (self.size[0] - _LEFT - _RIGHT), _TOP + (1 - up) * (self.size[1] - _TOP - _BOTTOM)

    def scales(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        for value in ys:
            x, y = self.place(self.x[0], value)
            self.pen.line((x, y, self.size[0] - _RIGHT, y), fill="#e0e0e0")
            self.pen.text((x - 8, y), f"{value:.4g}", fill="black", font=self.font, anchor="rm")
        for value in xs:
            x, y = self.place(value, self.y[0])
            self.pen.text((x, y + 8), f"{value:.4g}", fill="black", font=self.font, anchor="mt")

    def names(self, names: Sequence[str]) -> None:
        """Write names side by side below the scale, each in its colour."""
        x = float(_LEFT)
        for i, name in enumerate(names):
            self.pen.text((x, self.size[1] - 8), name, fill=_COLOURS[i % len(_COLOURS)], font=self.font, anchor="ls")
            x += self.pen.textlength(name, font=self.font) + 20


def _sheet(title: str, size: tuple[int, int], x: tuple[float, float], y: tuple[float, float]) -> tuple[Image.Image, _Axes]:
    image = Image.new("RGB", size, "white")
    axes = _Axes(ImageDraw.Draw(image), ImageFont.load_default(13), size, x, y)
    axes.pen.text((_LEFT, 10), title, fill="black", font=axes.font)
    return image, axes


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)


def line_chart(
    path: Path,
    curves: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    at: Sequence[int] | None = None,
    size: tuple[int, int] = (720, 400),
) -> None:
    """Draw curves over steps; a curve without values is left out.

    Args:
        path: PNG to write.
        curves: Values by name, all of one length.
        title: Stands above.
        at: Step of each value; 1, 2, 3, ... by default.
        size: Width and height in pixels.
    """
    lines = {name: [float(x) for x in values if x is not None] for name, values in curves.items() if values and values[0] is not None}
    values = np.concatenate(list(lines.values()))
    low, high, count = float(np.floor(values.min())), float(np.ceil(values.max())), max(map(len, lines.values()))
    high = high if high > low else low + 1
    steps = list(range(1, count + 1)) if at is None else list(at)
    image, axes = _sheet(title, size, (steps[0], steps[-1]), (low, high))
    axes.scales(
        [steps[i] for i in sorted({0, count // 4 - 1, count // 2 - 1, 3 * count // 4 - 1, count - 1} - {-1})],
        np.linspace(low, high, 5).tolist(),
    )
    for i, line in enumerate(lines.values()):
        axes.pen.line([axes.place(*point) for point in zip(steps, line, strict=False)], fill=_COLOURS[i % len(_COLOURS)], width=2)
    axes.names(list(lines))
    _save(image, path)


def point_chart(
    path: Path,
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    joined: bool = False,
    size: tuple[int, int] = (440, 440),
) -> None:
    """Draw points on two equal axes, with the diagonal on which both agree.

    Args:
        path: PNG to write.
        points: Points ``(across, up)`` by name.
        title: Stands above.
        joined: Whether lines go from point to point.
        size: Width and height in pixels.
    """
    values = np.concatenate([np.asarray(each, np.float64).ravel() for each in points.values()])
    ticks = _round_ticks(float(values.min()), float(values.max()))
    image, axes = _sheet(title, size, (ticks[0], ticks[-1]), (ticks[0], ticks[-1]))
    axes.scales(ticks, ticks)
    axes.pen.line((axes.place(ticks[0], ticks[0]), axes.place(ticks[-1], ticks[-1])), fill="#b0b0b0")
    for i, each in enumerate(points.values()):
        places, colour = [axes.place(*point) for point in each], _COLOURS[i % len(_COLOURS)]
        if joined:
            axes.pen.line(places, fill=colour, width=2)
        for x, y in places:
            axes.pen.ellipse((x - 3, y - 3, x + 3, y + 3), outline=colour)
    axes.names(list(points))
    _save(image, path)


def _round_ticks(low: float, high: float) -> list[float]:
    """Return about five round values that span the range."""
    rough = max(high - low, 1e-6) / 4
    step = next(m for scale in [10.0 ** np.floor(np.log10(rough))] for m in (scale, 2 * scale, 5 * scale, 10 * scale) if m >= rough)
    return [float(step * k) for k in range(int(np.floor(low / step)), int(np.ceil(high / step)) + 1)] or [low, low + 1]
