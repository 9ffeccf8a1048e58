"""Names, shapes and codecs of dataset layout v1: what is where on disk.

A dataset is a folder that is also a Zarr v3 group::

    zarr.json                 attributes: format, version, spaces, rates, source
    plan.json                 the concrete episodes, sorted; fixes each episode's part and slot
    parts/p00000/<array>      arrays with one slot an episode; an episode fills whole shards of its own
    commits/p00000/000123.json  written last; a slot without its record does not exist
    index/, MANIFEST.json, README.md   derived from the above, rebuildable
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from worldsim.datasets.errors import DatasetError as DatasetError
from worldsim.datasets.objects import StoreError, StorePath
from worldsim.datasets.storage import Root, write_bytes

FORMAT = "worldsim-episodes"
VERSION = "1.1"
"""Newest version that this release knows; 1.1 adds latents and segmentation. A dataset names the oldest one that has all that it holds."""
PART_SLOTS = 256
CHUNK_FRAMES = 8
FRAMES = "observation/images/main"
LATENTS = "observation/latent"
SEGMENTATION = "label/segmentation"
STATE = "observation/state"
ACTION = "action"
REWARD = "reward"
TERMINATED = "terminated"
TRUNCATED = "truncated"
ARRAYS = (FRAMES, LATENTS, SEGMENTATION, STATE, ACTION, REWARD, TERMINATED, TRUNCATED)
EVERY_FRAME = (FRAMES, LATENTS, SEGMENTATION, STATE)
"""Arrays with T + 1 entries an episode; the others have T."""
_NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")
P = TypeVar("P", Path, StorePath, Root)


@dataclass(frozen=True)
class LatentSpec:
    """The latents that a dataset holds.

    Attributes:
        kept: ``beside`` frames, or ``instead`` of them.
        shape: ``(C, h, w)`` of one frame's.
    """

    kept: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class DatasetSpec:
    """What is the same for all episodes of a dataset.

    Attributes:
        name: Name of the dataset.
        frame_size: Height and width of a frame in pixels.
        fps: Frames a second of simulated time.
        action_space: The Gymnasium action space, as ``worldsim.spaces.space_to_json`` describes it.
        action_size: Numbers A in one action row.
        action_dtype: ``float32`` or ``int64``.
        state_names: Names of the S state columns.
        source: The simulator or world, ``{"id": ..., "kwargs": {...}}``.
        licence: SPDX identifier or a sentence.
        root_seed: Seed that all episode seeds come from.
        generator: Versions of what wrote the data.
        latents: The latents that episodes hold; None where there are none.
        labels: The pictures of what frames show that episodes hold: names of the classes 0, 1, ... by name of the picture, which is
            ``segmentation``; None where there are none.
    """

    name: str
    frame_size: tuple[int, int]
    fps: float
    action_space: Mapping[str, Any]
    action_size: int
    action_dtype: str
    state_names: tuple[str, ...]
    source: Mapping[str, Any]
    licence: str
    root_seed: int
    generator: Mapping[str, Any]
    latents: LatentSpec | None = None
    labels: Mapping[str, Sequence[str]] | None = None

    @property
    def version(self) -> str:
        """The oldest version of the format that has all that the dataset holds."""
        return "1.0" if self.latents is None and not self.labels else "1.1"


@dataclass(frozen=True)
class ArraySpec:
    """One array of a part: ``shape`` without the slot axis, chunk and shard lengths along time."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: int
    shard: int | None


def arrays_of(spec: DatasetSpec, horizon: int) -> list[ArraySpec]:
    """Return the arrays of a part whose longest episode has ``horizon`` steps."""
    height, width = spec.frame_size
    padded = -(-(horizon + 1) // CHUNK_FRAMES) * CHUNK_FRAMES
    arrays = [
        ArraySpec(ACTION, spec.action_dtype, (horizon, spec.action_size), horizon, None),
        ArraySpec(REWARD, "float32", (horizon,), horizon, None),
        ArraySpec(TERMINATED, "bool", (horizon,), horizon, None),
        ArraySpec(TRUNCATED, "bool", (horizon,), horizon, None),
    ]
    if spec.latents is None or spec.latents.kept == "beside":
        arrays.insert(0, ArraySpec(FRAMES, "uint8", (horizon + 1, height, width, 3), CHUNK_FRAMES, padded))
    if spec.latents is not None:
        arrays.append(ArraySpec(LATENTS, "float16", (horizon + 1, *spec.latents.shape), CHUNK_FRAMES, padded))
    if spec.labels:
        arrays.append(ArraySpec(SEGMENTATION, "uint8", (horizon + 1, height, width), CHUNK_FRAMES, padded))
    if spec.state_names:
        arrays.append(ArraySpec(STATE, "float32", (horizon + 1, len(spec.state_names)), padded, None))
    return arrays


def part_name(part: int) -> str:
    """Return ``p00012`` for 12."""
    return f"p{part:05d}"


def commit_path(root: P, part: int, slot: int) -> P:
    """Where the commit record of a slot lies."""
    return root / "commits" / part_name(part) / f"{slot:06d}.json"


def array_path(root: P, part: int, name: str) -> P:
    """Folder of an array.

    Raises:
        DatasetError: The name is none of an array below the part.
    """
    if not _NAME.fullmatch(name):
        raise DatasetError(f"{name!r} is no name of an array: names are letters, digits and _, with / between; {root} is damaged")
    return root / "parts" / part_name(part) / name


def shard_path(root: P, part: int, name: str, slot: int, dims: int) -> P:
    """File that holds all of one episode in an array of ``dims`` axes, the slot axis included."""
    return array_path(root, part, name) / ".".join(["c", str(slot), *["0"] * (dims - 1)])


def canonical_json(value: Any) -> str:
    """Write JSON in the one way that equal values have: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Return the hex sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_array(array: NDArray[Any]) -> str:
    """Return the hex sha256 of an array's little-endian, C-ordered bytes."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(plain.view(np.uint8).data if plain.size else b"").hexdigest()


def read_json(path: Root) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: It is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: is the folder a complete worldsim dataset?") from error
    except StoreError:
        raise
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path} cannot be read as JSON ({error}): restore it from a copy of the dataset") from error


def write_atomic(path: Root, text: str) -> None:
    """Write a text file that after any crash is either the old one, the new one, or absent."""
    write_bytes(path, text.encode())


def sweep(root: Root) -> list[Path]:
    """Remove what a killed writer left half written; only for one who knows that nobody writes now. An object is never half there."""
    if isinstance(root, StorePath):
        return []
    left = [path for pattern in ("*.tmp", "*.partial") for path in root.rglob(pattern) if path.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return left
