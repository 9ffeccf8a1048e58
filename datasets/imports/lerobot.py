"""Import from LeRobot's dataset format v3.0, read with PyArrow and PyAV. Needs the extra ``lerobot``."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray
from PIL import Image

from worldsim.datasets.imports.common import Coming, Wanted, make_episode, resize, rows_of_actions, space_of
from worldsim.datasets.imports.decode import decode
from worldsim.datasets.layout import DatasetError, read_json
from worldsim.datasets.optional import need
from worldsim.episode import Episode
from worldsim.spaces import space_from_json

_STATE = "observation.state"
_FLAGS = {"rewards": "next.reward", "terminated": "next.terminated", "truncated": "next.truncated"}


class LeRobotSource:
    """A local LeRobot v3 dataset with at least one camera.

    Row t has frame t and the action taken there, so n rows make n - 1 steps: the last action leads to no frame and is left out.

    Args:
        source: Its folder, with ``meta/info.json``.
        wanted: Which camera, and the rate.

    Raises:
        DatasetError: PyArrow is not installed, the folder is no LeRobot v3 dataset, or it has no such camera.
    """

    def __init__(self, source: str, wanted: Wanted) -> None:
        need("pyarrow.parquet", "lerobot")
        self._root = Path(source)
        self._info = read_json(self._root / "meta" / "info.json")
        version = str(self._info.get("codebase_version"))
        if not version.startswith("v3."):
            raise DatasetError(f"{source} has LeRobot format {version}: v3.x is read; convert it with LeRobot's own converter first")
        self._features: Mapping[str, Mapping[str, Any]] = self._info["features"]
        self._camera = _camera(self._features, wanted.image, source)
        described = self._root / "meta" / "worldsim.json"
        self.about: Mapping[str, Any] = read_json(described) if described.exists() else {}
        self.name = str(self.about.get("name", self._root.resolve().name))
        self.fps = wanted.fps or float(self._info["fps"])
        self._episodes = _episodes(self._root)
        self._open: tuple[Path, Any] | None = None
        self._video: tuple[Path, Iterator[tuple[float, NDArray[np.uint8]]], float] | None = None
        told = self.about.get("action_space")
        self.action_space: Space[Any] = self._span() if told is None else space_from_json(told)
        self.state_names = _names(self._features[_STATE]) if _STATE in self._features else ()
        self._tasks = _tasks(self._root)
        abouts = self.about.get("episodes", [{}] * len(self._episodes))
        self.coming = [Coming(e["length"] - 1, about) for e, about in zip(self._episodes, abouts, strict=True)]

    def episode(self, number: int, size: tuple[int, int] | None) -> Episode:
        """Read an episode."""
        rows = self._rows(number)
        frames = resize(self._frames(number, rows), size)
        steps = len(frames) - 1
        given = {name: rows[key][:steps] for name, key in _FLAGS.items() if key in rows}
        about = self.coming[number].about or {"conditioning": {"text": self._tasks.get(int(rows["task_index"][0]), "")}}
        state = rows[_STATE].reshape(steps + 1, -1) if self.state_names else None
        return make_episode(frames, rows_of_actions(rows["action"])[:steps], **given, state=state, about=about, seed=number)

    def _span(self) -> Space[Any]:
        return space_of([rows_of_actions(self._rows(number)["action"]) for number in range(len(self._episodes))])

    def _rows(self, number: int) -> dict[str, NDArray[Any]]:
        """Read the columns of an episode, in frame order."""
        episode = self._episodes[number]
        path = self._root / self._info["data_path"].format(**_place(episode, "data"))
        if self._open is None or self._open[0] != path:
            self._open = (path, _read_table(path))
        table = self._open[1]
        mine = np.flatnonzero(table["episode_index"].to_numpy() == episode["episode_index"])
        if len(mine) != episode["length"]:
            raise DatasetError(f"{path} has {len(mine)} rows of episode {number}, its metadata says {episode['length']}")
        rows = {name: _values(table[name].combine_chunks().take(mine)) for name in table.column_names if name in self._features}
        if (rows["frame_index"] != np.arange(len(mine))).any():
            raise DatasetError(f"{path}: the frames of episode {number} are not in order")
        return rows

    def _frames(self, number: int, rows: Mapping[str, NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """Yield an episode's frames ``(H, W, 3)``, each at the time that its row tells."""
        if self._features[self._camera]["dtype"] == "image":
            yield from (np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in rows[self._camera])
            return
        episode = self._episodes[number]
        place = {"video_key": self._camera, **_place(episode, f"videos/{self._camera}")}
        path = self._root / self._info["video_path"].format(**place)
        start, rate = float(episode[f"videos/{self._camera}/from_timestamp"]), float(self._info["fps"])
        for time in start + rows["timestamp"].astype(np.float64):
            yield self._frame_at(path, float(time), 0.5 / rate, number)

    def _frame_at(self, path: Path, time: float, tolerance: float, number: int) -> NDArray[np.uint8]:
        """Return the frame of a video at a time; videos are read forwards, once where episodes are asked for in order."""
        if self._video is None or self._video[0] != path or self._video[2] >= time:
            self._video = (path, decode(path), -1.0)
        for now, frame in self._video[1]:
            if now >= time - tolerance:
                if now > time + tolerance:
                    break
                self._video = (path, self._video[1], now)
                return frame
        raise DatasetError(f"{path} has no frame at {time:.3f} s, which episode {number} needs: its metadata and video do not fit")


def _camera(features: Mapping[str, Mapping[str, Any]], wanted: str | None, source: str) -> str:
    cameras = [name for name, feature in features.items() if feature["dtype"] in ("video", "image")]
    fitting = [name for name in cameras if wanted is None or name == wanted or name.rpartition(".")[2] == wanted]
    if not fitting:
        raise DatasetError(f"{source}: camera {wanted!r} is not there, it has {', '.join(cameras) or 'none'}: choose one by image=")
    return fitting[0]


def _episodes(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    listed = [row for file in files for row in _read_table(file).to_pylist()]
    if not listed:
        raise DatasetError(f"{root} has no episodes: meta/episodes is empty")
    return sorted(listed, key=lambda row: int(row["episode_index"]))


def _tasks(root: Path) -> dict[int, str]:
    file = root / "meta" / "tasks.parquet"
    rows = _read_table(file).to_pylist() if file.exists() else []
    return {int(row["task_index"]): str(row.get("task") or row.get("__index_level_0__") or "") for row in rows}


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    count, names = int(np.prod(feature["shape"])), feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return tuple(map(str, names)) if isinstance(names, list) and len(names) == count else tuple(f"state_{i}" for i in range(count))


def _place(episode: Mapping[str, Any], what: str) -> dict[str, int]:
    return {name: int(episode[f"{what}/{name}"]) for name in ("chunk_index", "file_index")}


def _read_table(path: Path) -> Any:
    try:
        return need("pyarrow.parquet", "lerobot").read_table(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as Parquet ({error})") from error


def _values(column: Any) -> NDArray[Any]:
    """Return a column as ``(T,)``, or ``(T, N)`` for vectors."""
    values = column.to_numpy(zero_copy_only=False)
    return np.stack(values) if values.dtype == object and len(values) and not isinstance(values[0], dict) else values


def open_source(source: str, wanted: Wanted) -> LeRobotSource:
    """Open a LeRobot dataset; see ``LeRobotSource``."""
    return LeRobotSource(source, wanted)
