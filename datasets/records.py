"""The commit records of a dataset, and a quick way in where ``finalize`` has left an index that is still true."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from worldsim.datasets.layout import DatasetError, commit_path, read_json
from worldsim.datasets.seal import check_seal
from worldsim.datasets.storage import Root, each, sizes

_COLUMNS = ("episode_part", "episode_slot", "length", "split")


@dataclass(frozen=True)
class Index:
    """What the index says of the ``ok`` episodes: part, slot, steps, and whether each is held out; and the content's fingerprint."""

    part: NDArray[np.int32]
    slot: NDArray[np.int32]
    length: NDArray[np.int64]
    heldout: NDArray[np.bool_]
    fingerprint: str


class Records(Sequence[dict[str, Any]]):
    """The ``ok`` records in the plan's order, each read when it is asked for.

    Args:
        root: The dataset.
        index: Where the records are.
    """

    def __init__(self, root: Root, index: Index) -> None:
        self.root = root
        self.table = index
        self._read: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.table.length)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Read one record, or several.

        Raises:
            DatasetError: The record is damaged, or is not the one that was indexed.
            IndexError: There is no such episode.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number = range(len(self))[index]
        if number not in self._read:
            self._read[number] = self._load(number)
        return self._read[number]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read all records in order."""
        return (self[i] for i in range(len(self)))

    def _load(self, number: int) -> dict[str, Any]:
        place = int(self.table.part[number]), int(self.table.slot[number]), int(self.table.length[number])
        file = commit_path(self.root, *place[:2])
        record: dict[str, Any] = read_json(file)
        check_seal(record, file)
        if (record.get("part"), record.get("slot"), record.get("length")) != place or record.get("status") != "ok":
            raise DatasetError(f"{file} is not the record that was indexed: restore it from a copy of the dataset, or finalize again")
        return record


def read_index(root: Root) -> Index | None:
    """Read ``index/`` where it is whole and about just the commit records that are there; None otherwise.

    The manifest tells the hash of the index and the names and sizes of the records.
    """
    try:
        manifest = json.loads((root / "MANIFEST.json").read_bytes())
        files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        stored = _same_index(root, files) if _same_records(root, files) else None
        if stored is None:
            return None
        group = zarr.open_group(MemoryStore(stored), mode="r", zarr_format=3)
        part, slot, length, split = (np.asarray(group[name][...]) for name in _COLUMNS)  # type: ignore[index]
        return Index(part, slot, length.astype(np.int64), split.astype(np.bool_), str(manifest["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _same_records(root: Root, files: Mapping[str, Mapping[str, Any]]) -> bool:
    listed = {name: entry["size"] for name, entry in files.items() if name.startswith("commits/") and name.endswith(".json")}
    return listed == {f"commits/{name}": size for name, size in sizes(root / "commits").items() if name.endswith(".json")}


def _same_index(root: Root, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Read the index's files by their names in it; None where one is not there, or not as the manifest says."""
    wanted = ("index/zarr.json", *(f"index/{column}/" for column in _COLUMNS))
    own = {name: entry["sha256"] for name, entry in files.items() if name.startswith(wanted)}
    if not all(f"index/{column}/zarr.json" in own for column in _COLUMNS):
        return None
    read = each(root, lambda name: (root / name).read_bytes(), own)
    if any(hashlib.sha256(data).hexdigest() != sha for data, sha in zip(read, own.values(), strict=True)):
        return None
    return {name.removeprefix("index/"): Buffer.from_bytes(data) for name, data in zip(own, read, strict=True)}
