"""Plots of a dataset's statistics as PNG: small histograms, and ranges by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_CELL = (300, 170)  # pixels of one histogram
_ACROSS = 3
_TOP, _PAD, _ROW = 36, 14, 24
_PAPER, _INK, _FAINT, _BAR, _MARK = "white", "#1c1e21", "#9aa0a8", "#3d7edb", "#c8501e"
_NAMES, _PLOT = 220, 520  # pixels of the names and of the ranges beside them


def draw_histograms(path: Path, columns: Sequence[Mapping[str, Any]], *, title: str) -> Path:
    """Draw one histogram a column.

    Args:
        path: PNG to write.
        columns: As ``worldsim.datasets.stats.statistics`` gives them, none empty.
        title: Stands above.

    Returns:
        The file.
    """
    across = min(_ACROSS, len(columns))
    down = -(-len(columns) // across)
    image = Image.new("RGB", (max(across * _CELL[0], 340), _TOP + down * _CELL[1]), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((_PAD, 10), _one_line(title), fill=_INK, font=_font(14))
    for i, column in enumerate(columns):
        _histogram(pen, (i % across * _CELL[0], _TOP + i // across * _CELL[1]), column)
    image.save(path, optimize=True)
    return path


def draw_ranges(path: Path, rows: Mapping[str, Mapping[str, float]], *, title: str) -> Path:
    """Draw one line a name: from min to max, a box from q25 to q75, and a mark at the median.

    Args:
        path: PNG to write.
        rows: min, q25, median, q75 and max by name, at least one.
        title: Stands above.

    Returns:
        The file.
    """
    low, high = min(row["min"] for row in rows.values()), max(row["max"] for row in rows.values())
    image = Image.new("RGB", (_NAMES + _PLOT + 2 * _PAD, _TOP + _ROW * (len(rows) + 1) + _PAD), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((_PAD, 10), _one_line(title), fill=_INK, font=_font(14))

    def across(value: float) -> float:
        return _NAMES + _PAD + (value - low) / ((high - low) or 1) * _PLOT

    for i, (name, row) in enumerate(rows.items()):
        y = _TOP + i * _ROW + _ROW // 2
        pen.text((_NAMES, y), _one_line(name)[:34], fill=_INK, font=_font(12), anchor="rm")
        pen.line((across(row["min"]), y, across(row["max"]), y), fill=_FAINT, width=2)
        pen.rectangle((across(row["q25"]), y - 6, across(row["q75"]), y + 6), fill=_BAR)
        pen.line((across(row["median"]), y - 8, across(row["median"]), y + 8), fill=_MARK, width=2)
    bottom = _TOP + len(rows) * _ROW
    pen.line((across(low), bottom, across(high), bottom), fill=_FAINT)
    pen.text((across(low), bottom + 4), f"{low:.4g}", fill=_INK, font=_font(11))
    if high > low:
        pen.text((across(high), bottom + 4), f"{high:.4g}", fill=_INK, font=_font(11), anchor="ra")
    image.save(path, optimize=True)
    return path


def _histogram(pen: ImageDraw.ImageDraw, corner: tuple[int, int], column: Mapping[str, Any]) -> None:
    counts, edges = column["histogram"]["counts"], column["histogram"]["edges"]
    left, top = corner[0] + _PAD, corner[1] + 22
    right, bottom = corner[0] + _CELL[0] - _PAD, corner[1] + _CELL[1] - 26
    pen.text((left, corner[1] + 4), _one_line(column["name"])[:40], fill=_INK, font=_font(12))
    pen.text((right, corner[1] + 4), f"most {max(counts):,}", fill=_FAINT, font=_font(11), anchor="ra")
    width, tallest = (right - left) / len(counts), max(max(counts), 1)
    for i, count in enumerate(counts):
        if count:
            height = max(1, (bottom - top) * count / tallest)
            pen.rectangle((left + i * width, bottom - height, max(left + i * width, left + (i + 1) * width - 1), bottom), fill=_BAR)
    pen.line((left, bottom, right, bottom), fill=_FAINT)
    mean = left + (column["mean"] - edges[0]) / ((edges[-1] - edges[0]) or 1) * (right - left)
    pen.line((mean, top, mean, bottom), fill=_MARK)
    pen.text((left, bottom + 4), f"{edges[0]:.4g}", fill=_INK, font=_font(11))
    pen.text((right, bottom + 4), f"{edges[-1]:.4g}", fill=_INK, font=_font(11), anchor="ra")


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
