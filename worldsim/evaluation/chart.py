"""A plain line chart as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLOURS = ("#1f5fbf", "#c8501e", "#5a5a5a", "#2e8b57", "#8a4fb0")
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 36, 16, 32  # margins in pixels


def line_chart(path: Path, curves: Mapping[str, Sequence[float | None]], *, title: str, size: tuple[int, int] = (720, 400)) -> None:
    """Draw curves over steps 1, 2, 3, ...; a curve without values is left out.

    Args:
        path: PNG to write.
        curves: Values by name, all of one length.
        title: Stands above.
        size: Width and height in pixels.
    """
    lines = {name: [float(x) for x in values if x is not None] for name, values in curves.items() if values and values[0] is not None}
    image = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    pen.text((_LEFT, 10), title, fill="black", font=font)
    values = np.concatenate(list(lines.values()))
    low, high, count = float(np.floor(values.min())), float(np.ceil(values.max() + 1e-6)), max(map(len, lines.values()))

    def place(step: int, value: float) -> tuple[float, float]:
        across = (step - 1) / max(count - 1, 1)
        return _LEFT + across * (size[0] - _LEFT - _RIGHT), _TOP + (high - value) / (high - low) * (size[1] - _TOP - _BOTTOM)

    for tick in np.linspace(low, high, 5):
        x, y = place(1, float(tick))
        pen.line((x, y, size[0] - _RIGHT, y), fill="#e0e0e0")
        pen.text((x - 8, y), f"{tick:.4g}", fill="black", font=font, anchor="rm")
    for step in sorted({1, count // 4, count // 2, 3 * count // 4, count} - {0}):
        x, y = place(step, low)
        pen.text((x, y + 8), str(step), fill="black", font=font, anchor="mt")
    for i, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        pen.line([place(step, value) for step, value in enumerate(line, start=1)], fill=colour, width=2)
        pen.text((size[0] - _RIGHT - 4, _TOP + 4 + 17 * i), name, fill=colour, font=font, anchor="rt")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
