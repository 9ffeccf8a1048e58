"""Import from a folder of videos with the actions of each beside it: ``a.mp4`` and ``a.json``, ``a.npz``, ``a.npy`` or ``a.csv``."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space

from worldsim.datasets.imports.common import Coming, Wanted, between, make_episode, resize, rows_of_actions, space_of
from worldsim.datasets.imports.decode import decode, video_fps
from worldsim.datasets.layout import DatasetError
from worldsim.episode import Episode
from worldsim.spaces import space_from_json

_VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_BESIDE = (".json", ".npz", ".npy", ".csv")
_STEPS = {"rewards": "reward", "terminated": "terminated", "truncated": "truncated"}


class VideoSource:
    """Videos and their actions.

    An array or JSON key ``actions``, or all other columns of a CSV, has the actions; ``rewards``, ``terminated`` and ``truncated``
    (columns ``reward``, ``terminated``, ``truncated``) and ``state`` may be there.

    Args:
        source: Folder; videos may lie in folders below it.
        wanted: The rate where it is not the videos', and what as many actions as frames mean.

    Raises:
        DatasetError: There are no videos, one has no actions beside it, or those cannot be read.
    """

    def __init__(self, source: str, wanted: Wanted) -> None:
        root = Path(source)
        self._wanted = wanted
        self._files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _VIDEOS and not p.name.startswith("."))
        if not self._files:
            raise DatasetError(f"{source} has no videos ({', '.join(_VIDEOS)}): give a folder with videos and their actions")
        self._columns = [read_columns(_beside(file)) for file in self._files]
        described = root / "dataset.json"
        self.about: Mapping[str, Any] = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
        self.name = str(self.about.get("name", root.resolve().name))
        self.fps = wanted.fps or self.about.get("fps") or video_fps(self._files[0])
        rows = [rows_of_actions(columns["actions"]) for columns in self._columns]
        told = self.about.get("action_space")
        self.action_space: Space[Any] = space_of(rows) if told is None else space_from_json(told)
        widths = {np.shape(c.get("state", np.zeros((0, 0))))[-1] for c in self._columns}
        if len(widths) > 1:
            raise DatasetError(f"{source}: state has {' and '.join(map(str, sorted(widths)))} numbers: give all videos the same")
        self.state_names = tuple(self.about.get("state_names") or [f"state_{i}" for i in range(widths.pop())])
        keys = ("steps", "seed", "scenario", "policy", "conditioning", "params")
        abouts = [{key: columns[key] for key in keys if key in columns} for columns in self._columns]
        self.coming = [Coming(len(r), about) for r, about in zip(rows, abouts, strict=True)]

    def episode(self, number: int, size: tuple[int, int] | None) -> Episode:
        """Read an episode."""
        columns, file = self._columns[number], self._files[number]
        frames = resize((frame for _, frame in decode(file)), size)
        actions = rows_of_actions(columns["actions"])
        kept = between(actions, len(frames), self._wanted.actions, str(file))
        given = {name: _fit(columns[name], len(actions), f"{file}: {name}")[kept] for name in _STEPS if name in columns}
        state = None
        if self.state_names:
            state = _fit(columns["state"], len(frames), f"{file}: state")
        return make_episode(frames, actions[kept], **given, state=state, about=self.coming[number].about, seed=number)


def _beside(video: Path) -> Path:
    files = [video.with_suffix(suffix) for suffix in _BESIDE if video.with_suffix(suffix).exists()]
    if not files:
        raise DatasetError(f"{video} has no actions beside it: add {video.stem}.json, .npz, .npy or .csv")
    return files[0]


def read_columns(file: Path) -> dict[str, Any]:
    """Read what is beside a video: ``actions``, and by name whatever else is there.

    Raises:
        DatasetError: It cannot be read, or has no actions.
    """
    try:
        columns = _READERS[file.suffix](file)
    except (ValueError, OSError, KeyError) as error:
        raise DatasetError(f"{file} cannot be read ({error})") from error
    if "actions" not in columns or not np.size(columns["actions"]):
        raise DatasetError(f"{file} has no actions: it has {', '.join(columns) or 'nothing'}")
    return columns


def _read_json(file: Path) -> dict[str, Any]:
    data = json.loads(file.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {"actions": data}


def _read_npz(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as data:
        return dict(data)


def _read_csv(file: Path) -> dict[str, Any]:
    with file.open(newline="", encoding="utf-8") as handle:
        names, *rows = [row for row in csv.reader(handle) if row]
    whole = all(
        cell.strip().lstrip("+-").isdigit() for row in rows for cell, name in zip(row, names, strict=True) if name not in _STEPS.values()
    )
    cells = {name: [_number(row[i]) for row in rows] for i, name in enumerate(names)}
    steps = {key: np.array(cells.pop(name)) for key, name in _STEPS.items() if name in cells}
    return {"actions": np.array(list(cells.values()), dtype=np.int64 if whole else np.float32).T, **steps}


def _number(cell: str) -> float:
    words = {"true": 1.0, "false": 0.0}
    return words[cell.strip().lower()] if cell.strip().lower() in words else float(cell)


_READERS = {
    ".json": _read_json,
    ".npz": _read_npz,
    ".npy": lambda file: {"actions": np.load(file, allow_pickle=False)},
    ".csv": _read_csv,
}


def _fit(values: Any, count: int, what: str) -> Any:
    array = np.asarray(values)
    if len(array) != count:
        raise DatasetError(f"{what} has {len(array)} entries, {count} were expected")
    return array


def open_source(source: str, wanted: Wanted) -> VideoSource:
    """Open a folder of videos; see ``VideoSource``."""
    return VideoSource(source, wanted)
