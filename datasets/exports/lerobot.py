"""Export to LeRobot's dataset format v3.0, written with PyArrow and PyAV. Needs the extra ``lerobot``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.datasets.exports.common import Export, about_episode, rows_of
from worldsim.datasets.exports.encode import VideoFile, pixel_format, video_error
from worldsim.datasets.exports.lerobot_stats import Statistics
from worldsim.datasets.layout import canonical_json
from worldsim.datasets.optional import need

CAMERA = "observation.images.main"
STATE_KEY = "observation.state"
_FILES = 1000  # files of a chunk folder
_DATA_BYTES, _VIDEO_BYTES = 100 << 20, 200 << 20
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_DEFAULTS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
_FLAGS = {"next.reward": "reward", "next.terminated": "terminated", "next.truncated": "truncated"}


def write(export: Export, target: Path) -> str:
    """Write ``meta/``, ``data/`` and ``videos/``: row t has frame t, ``action`` t, and ``next.reward`` t of the step they begin.

    Returns:
        How to open it, what became of the last frames, and what the pixels lost.

    Raises:
        DatasetError: PyArrow is not installed, or the encoder is not there.
    """
    need("pyarrow.parquet", "lerobot")
    info, tasks = export.reader.info, _Tasks()
    features = _features(export)
    statistics = Statistics(fps=info.fps)
    listed: list[dict[str, Any]] = []
    episodes: list[dict[str, Any]] = []
    first = np.zeros((0, 1, 1, 3), np.uint8)
    with _Videos(export, target) as videos, _Tables(target, features) as tables:
        for number, (episode, split) in enumerate(zip(export.read(), export.splits, strict=True)):
            rows = rows_of(episode, export.last_frame)
            task = tasks.number(episode.conditioning.text or episode.scenario or "drive")
            columns = _columns(rows, number, tables.rows, task, info.fps)
            place = {**tables.add(columns), **videos.add(rows["frames"])}
            if number == 0:
                first = rows["frames"][:64]
            statistics.add({name: values for name, values in columns.items() if name in features}, rows["frames"])
            episodes.append({"episode_index": number, "tasks": [tasks.names[task]], "length": len(rows["frames"]), **place})
            listed.append(about_episode(episode, split))
    error = video_error(target / _VIDEO.format(video_key=CAMERA, chunk_index=0, file_index=0), first)
    _write_meta(export, target, features, episodes, tasks, tables.rows)
    _write_json(target / "meta" / "stats.json", statistics.result(CAMERA))
    about = {**export.about(), "last_frame": export.last_frame, "pixel_error": {"mean": round(error[0], 3), "max": error[1]}}
    (target / "meta" / "worldsim.json").write_text(canonical_json({**about, "episodes": listed}), encoding="utf-8")
    kept = "dropped" if export.last_frame == "drop" else "kept, with the last action again"
    return (
        f"LeRobotDataset('worldsim/{info.name}', root=PATH); the last frame of each episode is {kept}; "
        f"pixels off by {error[0]:.2f} of 255 on average, {error[1]} at most, in the first frames"
    )


def _features(export: Export) -> dict[str, dict[str, Any]]:
    info = export.reader.info
    height, width = info.frame_size
    action = export.reader.attributes["action_size"]
    video = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "gbrp" if export.lossless else pixel_format(info.frame_size, lossless=False),
        "video.is_depth_map": False,
        "video.fps": _fps(info.fps),
        "video.channels": 3,
        "has_audio": False,
    }
    features: dict[str, dict[str, Any]] = {
        CAMERA: {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": video},
        "action": _feature(export.reader.attributes["action_dtype"], [f"action_{i}" for i in range(action)]),
        "next.reward": _feature("float32", None),
        **{f"next.{name}": _feature("bool", None) for name in ("done", "terminated", "truncated")},
        **{name: _feature(dtype, None) for name, dtype in _DEFAULTS.items()},
    }
    return {STATE_KEY: _feature("float32", list(info.state_names)), **features} if info.state_names else features


def _feature(dtype: str, names: list[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [len(names) if names else 1], "names": names}


def _fps(fps: float) -> int | float:
    """Return LeRobot's whole number of frames a second where it is one."""
    return int(fps) if float(fps).is_integer() else fps


def _columns(rows: Mapping[str, NDArray[Any]], number: int, first: int, task: int, fps: float) -> dict[str, NDArray[Any]]:
    count = len(rows["frames"])
    frame = np.arange(count, dtype=np.int64)
    done = rows["terminated"] | rows["truncated"]
    done[-1:] = True
    return {
        STATE_KEY: rows["state"],
        "action": rows["action"],
        **{name: rows[own] for name, own in _FLAGS.items()},
        "next.done": done,
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(count, number, np.int64),
        "index": first + frame,
        "task_index": np.full(count, task, np.int64),
    }


class _Tasks:
    """The sentences that say what is done, in the order they appear."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def number(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)


class _Tables:
    """Rows of all episodes in Parquet files, one row group an episode."""

    def __init__(self, target: Path, features: Mapping[str, Mapping[str, Any]]) -> None:
        self.target, self.features = target, features
        self.rows = self._file = 0
        self._writer: Any = None
        self._path = target

    def add(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        pyarrow, parquet = need("pyarrow", "lerobot"), need("pyarrow.parquet", "lerobot")
        table = pyarrow.table({name: _column(columns[name]) for name, f in self.features.items() if f["dtype"] != "video"})
        if self._writer is not None and self._path.stat().st_size > _DATA_BYTES:
            self._close()
            self._file += 1
        if self._writer is None:
            self._path = self.target / _DATA.format(**_number(self._file))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(self._path, table.schema, compression="snappy")
        self._writer.write_table(table)
        first, self.rows = self.rows, self.rows + len(table)
        place = _number(self._file)
        return {
            "data/chunk_index": place["chunk_index"],
            "data/file_index": place["file_index"],
            "dataset_from_index": first,
            "dataset_to_index": self.rows,
        }

    def __enter__(self) -> _Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _column(values: NDArray[Any]) -> Any:
    """Return a plain column, or for vectors a fixed-size list."""
    pyarrow = need("pyarrow", "lerobot")
    flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1 or values.shape[1] == 1:
        return flat
    return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


class _Videos:
    """Frames of all episodes, one after another in MP4 files."""

    def __init__(self, export: Export, target: Path) -> None:
        self.export, self.target = export, target
        self._file = 0
        self._video: VideoFile | None = None
        self._path = target

    def add(self, frames: NDArray[np.uint8]) -> dict[str, Any]:
        info = self.export.reader.info
        if self._video is not None and self._path.stat().st_size > _VIDEO_BYTES:
            self._close(None)
            self._file += 1
        if self._video is None:
            self._path = self.target / _VIDEO.format(video_key=CAMERA, **_number(self._file))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._video = VideoFile(self._path, info.frame_size, info.fps, lossless=self.export.lossless)
        first = self._video.frames
        self._video.add(frames)
        place = {f"videos/{CAMERA}/{name}": value for name, value in _number(self._file).items()}
        times = {"from_timestamp": first / info.fps, "to_timestamp": self._video.frames / info.fps}
        return {**place, **{f"videos/{CAMERA}/{name}": value for name, value in times.items()}}

    def __enter__(self) -> _Videos:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(kind)

    def _close(self, kind: type[BaseException] | None) -> None:
        if self._video is not None:
            self._video.__exit__(kind, None, None)
        self._video = None


def _number(file: int) -> dict[str, int]:
    return {"chunk_index": file // _FILES, "file_index": file % _FILES}


def _write_meta(
    export: Export, target: Path, features: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]], tasks: _Tasks, rows: int
) -> None:
    pyarrow, parquet = need("pyarrow", "lerobot"), need("pyarrow.parquet", "lerobot")
    info = {
        "codebase_version": "v3.0",
        "robot_type": "worldsim",
        "total_episodes": len(episodes),
        "total_frames": rows,
        "total_tasks": len(tasks.names),
        "chunks_size": _FILES,
        "data_files_size_in_mb": _DATA_BYTES >> 20,
        "video_files_size_in_mb": _VIDEO_BYTES >> 20,
        "fps": _fps(export.reader.info.fps),
        "splits": {name: f"{first}:{last}" for name, (first, last) in export.split_ranges().items()},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": dict(features),
    }
    _write_json(target / "meta" / "info.json", info)
    listed = [{**episode, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0} for episode in episodes]
    file = target / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    file.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(listed), file, compression="snappy")
    table = pyarrow.table({"task_index": pyarrow.array(range(len(tasks.names)), pyarrow.int64()), "task": tasks.names})
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(_TASK_INDEX)}), target / "meta" / "tasks.parquet")


_TASK_INDEX = {  # what pandas reads the column `task` back as the index by
    "index_columns": ["task"],
    "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}],
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
    "pandas_version": "2.0.0",
}


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4, allow_nan=False), encoding="utf-8")
