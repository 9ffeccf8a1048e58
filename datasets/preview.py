"""Pictures of a dataset for people: a contact sheet and a video, with captions and the actions as bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from worldsim.episode import Episode
from worldsim.spaces import to_features
from worldsim.types import EpisodeStore
from worldsim.video import write_video

_SCALE = 3  # times a frame is enlarged, unless that makes it wider than
_TILE = 192  # pixels
_LINE = 16  # pixels of a caption line
_BAR = 7  # pixels of the action bars
_STEP = 30  # pixels of a step's number
_GAP = 4
_PAPER, _INK, _FAINT, _MARK = (24, 26, 30), (235, 235, 235), (150, 155, 165), (255, 176, 32)
_SHOWN = 12  # frames of a video for which a mark is shown
_COLOURS = ((88, 166, 255), (86, 211, 100), (248, 113, 93), (227, 179, 65), (188, 140, 255), (118, 227, 234))


@dataclass(frozen=True)
class Note:
    """What is written beside one episode.

    Attributes:
        caption: In place of its scenario and seed.
        marks: A few words by step.
        remark: What follows the caption where there is room for it: on the sheet.
    """

    caption: str
    marks: Mapping[int, str] = field(default_factory=dict)
    remark: str = ""


def contact_sheet(
    store: EpisodeStore,
    path: Path | str,
    *,
    episodes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    notes: Sequence[Note] | None = None,
) -> Path:
    """Draw one row an episode and one column a step.

    Args:
        store: At least one episode.
        path: PNG file to write.
        episodes: Indices; default: up to 12, spread over the scenarios.
        steps: Steps; default: 8 from the first frame to the last of the longest episode.
        notes: One for each of ``episodes``; a mark is written under the first column at or after its step.

    Returns:
        The file.
    """
    picked = [store[i] for i in (pick_episodes(store, 12) if episodes is None else episodes)]
    longest = max(len(episode) for episode in picked)
    columns = [int(t) for t in np.unique(np.linspace(0, longest, 8).round())] if steps is None else list(steps)
    space = store.info.action_space
    noted: Sequence[Note | None] = notes or [None] * len(picked)
    strips = [_strip(episode, columns, space, note) for episode, note in zip(picked, noted, strict=True)]
    sheet = Image.fromarray(np.concatenate([_header(columns, store.info.frame_size[1]), *strips]))
    sheet.save(path)
    return Path(path)


def preview_video(
    store: EpisodeStore, path: Path | str, *, episodes: Sequence[int] | None = None, notes: Sequence[Note] | None = None
) -> Path:
    """Draw episodes side by side as a video; ended ones stay, darkened.

    Args:
        store: At least one episode.
        path: ``.mp4`` (H.264) or ``.gif`` file to write.
        episodes: Indices; default: up to 12, spread over the scenarios.
        notes: One for each of ``episodes``; a mark is written over the caption for half a second or so, and framed.

    Returns:
        The file; a ``.gif`` beside ``path`` where no H.264 encoder is to be had.
    """
    picked = [store[i] for i in (pick_episodes(store, 12) if episodes is None else episodes)]
    return write_video(_grids(picked, store.info.action_space, notes or []), path, store.info.fps)


def pick_episodes(store: EpisodeStore, count: int) -> list[int]:
    """Return up to ``count`` episode indices, evenly over the store's order."""
    return [int(i) for i in np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round())]


def _grids(episodes: Sequence[Episode], space: Space[object], notes: Sequence[Note]) -> Iterator[NDArray[np.uint8]]:
    noted: Sequence[Note | None] = notes or [None] * len(episodes)
    across = math.ceil(math.sqrt(len(episodes) * 4 / 3))
    down = math.ceil(len(episodes) / across)
    for t in range(max(len(episode) for episode in episodes) + 1):
        tiles = [_captioned(episode, t, space, note) for episode, note in zip(episodes, noted, strict=True)]
        tiles += [np.full_like(tiles[0], _PAPER)] * (across * down - len(tiles))
        yield np.concatenate([np.concatenate(tiles[row * across : (row + 1) * across], axis=1) for row in range(down)])


def _captioned(episode: Episode, t: int, space: Space[object], note: Note | None) -> NDArray[np.uint8]:
    """A tile below its caption and the step; for a while after a mark, the mark is the caption, and the tile is framed."""
    now = min(t, len(episode))
    words = f"{episode.scenario or 'episode'}  seed {episode.seed}" if note is None else note.caption
    marked = [text for step, text in (note.marks.items() if note else ()) if step <= t < step + _SHOWN]
    tile = _tile(episode, t, space)
    if marked:
        tile[: -_GAP - _BAR, :-_GAP][_border(tile[: -_GAP - _BAR, :-_GAP].shape[:2])] = _MARK
    width = tile.shape[1] - _GAP
    name = _caption("; ".join(marked) or words, width - _STEP, _MARK if marked else _INK)
    above = np.concatenate([name, _caption(str(now), _STEP)], axis=1)
    return np.concatenate([np.pad(above, ((0, 0), (0, _GAP), (0, 0)), constant_values=_PAPER[0]), tile])


def _border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    edge = np.ones(shape, dtype=np.bool_)
    edge[2:-2, 2:-2] = False
    return edge


def _strip(episode: Episode, columns: Sequence[int], space: Space[object], note: Note | None) -> NDArray[np.uint8]:
    row = np.concatenate([_tile(episode, t, space) for t in columns], axis=1)
    if note is None:
        told = ", ".join(episode.conditioning.tags) or episode.conditioning.text
        about = f"{episode.scenario or 'episode'}   seed {episode.seed}   return {episode.rewards.sum():.1f}   {len(episode)} steps"
        return np.concatenate([_caption(f"{about}   {told}", row.shape[1]), row])
    cell = row.shape[1] // len(columns)
    marks = [_caption(_marks_until(note, columns, i), cell, _MARK) for i in range(len(columns))]
    return np.concatenate([_caption(f"{note.caption}   {note.remark}", row.shape[1]), row, np.concatenate(marks, axis=1)])


def _marks_until(note: Note, columns: Sequence[int], i: int) -> str:
    """Words of the marks after the column before and up to column ``i``; the last column has all that follow."""
    begin = columns[i - 1] if i else -1
    end = columns[i] if i < len(columns) - 1 else math.inf
    return "; ".join(f"{step} {text}" for step, text in sorted(note.marks.items()) if begin < step <= end)


def _tile(episode: Episode, t: int, space: Space[object]) -> NDArray[np.uint8]:
    """Frame ``t`` with the action that follows it underneath; the last frame, darkened, where the episode is over."""
    now = min(t, len(episode))
    scale = _scale(episode.frames.shape[2])
    frame = episode.frames[now].repeat(scale, axis=0).repeat(scale, axis=1)
    if t > len(episode):
        frame = frame // 3
    parts = [frame, _bars(episode, now, space, frame.shape[1])]
    return np.pad(np.concatenate(parts), ((0, _GAP), (0, _GAP), (0, 0)), constant_values=_PAPER[0])


def _scale(width: int) -> int:
    return max(1, min(_SCALE, _TILE // width))


def _bars(episode: Episode, t: int, space: Space[object], width: int) -> NDArray[np.uint8]:
    image = Image.new("RGB", (width, _BAR), _PAPER)
    if t < len(episode):
        draw = ImageDraw.Draw(image)
        values = np.clip(np.nan_to_num(to_features(space, episode.actions[t])), -1, 1)
        rest = np.clip(to_features(space, np.zeros_like(episode.actions[t])), -1, 1) if isinstance(space, Box) else np.zeros_like(values)
        cell = width / len(values)
        for i, (value, zero) in enumerate(zip(values.tolist(), rest.tolist(), strict=True)):
            start, end = ((i + 0.5) * cell + x * (cell / 2 - 2) for x in (zero, value))
            draw.rectangle((min(start, end), 1, max(start, end), _BAR - 2), fill=_COLOURS[i % len(_COLOURS)])
            draw.line((start, 0, start, _BAR), fill=_FAINT)
    return np.asarray(image)


@lru_cache(maxsize=4096)
def _caption(words: str, width: int, ink: tuple[int, int, int] = _INK) -> NDArray[np.uint8]:
    image = Image.new("RGB", (width, _LINE), _PAPER)
    ImageDraw.Draw(image).text((2, 2), words, fill=ink, font=ImageFont.load_default(size=11))
    return np.asarray(image)


def _header(columns: Sequence[int], frame_width: int) -> NDArray[np.uint8]:
    return np.concatenate([_caption(f"step {t}", frame_width * _scale(frame_width) + _GAP) for t in columns], axis=1)
