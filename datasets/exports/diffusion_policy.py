"""Export to the Zarr format 2 that diffusion_policy's and UMI's ``ReplayBuffer`` opens: ``data/<key>`` and ``meta/episode_ends``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc

from worldsim.datasets.exports.common import Export, about_episode, rows_of

_CHUNK_BYTES = 2_000_000
_KEYS = {"frames": "img", "state": "state", "action": "action", "reward": "reward", "terminated": "terminated", "truncated": "truncated"}


def write(export: Export, target: Path) -> str:
    """Write all episodes end to end: keys ``img``, ``action``, ``state``, ``reward``, ``terminated``, ``truncated``, one row a frame.

    Returns:
        How to open it, and what became of the last frames.
    """
    ends = np.cumsum(export.rows(), dtype=np.int64)
    root = zarr.open_group(target, mode="w", zarr_format=2)
    data = root.create_group("data")
    arrays: dict[str, Any] = {}
    start, listed = 0, []
    for episode, split in zip(export.read(), export.splits, strict=True):
        rows = {_KEYS[name]: values for name, values in rows_of(episode, export.last_frame).items() if values[0].size}
        for name, values in rows.items():
            if name not in arrays:
                arrays[name] = _create(data, name, (int(ends[-1]), *values.shape[1:]), values.dtype)
            arrays[name][start : start + len(values)] = values
        start += len(rows["img"])
        listed.append(about_episode(episode, split))
    stored = root.create_group("meta").create_array("episode_ends", shape=ends.shape, chunks=ends.shape, dtype="<i8", compressors=None)
    stored[...] = ends
    root.attrs["worldsim"] = {**export.about(), "last_frame": export.last_frame, "episodes": listed}
    kept = "dropped" if export.last_frame == "drop" else "kept, with the last action again"
    return f"ReplayBuffer.create_from_path(PATH, mode='r'); exact; the last frame of each episode is {kept}"


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    chunk = max(1, min(shape[0], _CHUNK_BYTES // row))
    compressor = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    return group.create_array(name, shape=shape, chunks=(chunk, *shape[1:]), dtype=dtype, compressors=compressor)
