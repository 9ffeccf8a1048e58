"""Read a dataset: only committed episodes, and only bytes that are what was committed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer.cpu import Buffer
from zarr.storage import MemoryStore

from worldsim.datasets.expect import labels_of
from worldsim.datasets.layout import (
    ACTION,
    ARRAYS,
    EVERY_FRAME,
    FORMAT,
    FRAMES,
    LATENTS,
    REWARD,
    SEGMENTATION,
    STATE,
    TERMINATED,
    TRUNCATED,
    VERSION,
    DatasetError,
    array_path,
    canonical_json,
    read_json,
    sha256_array,
)
from worldsim.datasets.objects import StoreError
from worldsim.datasets.records import Records, read_index
from worldsim.datasets.seal import check_seal
from worldsim.datasets.shards import SlotLayout, slot_layout
from worldsim.datasets.storage import Root, each, place, sizes
from worldsim.episode import Conditioning, Episode, cut_frames
from worldsim.spaces import space_from_json
from worldsim.types import StoreInfo

Decode: TypeAlias = Callable[[NDArray[Any]], NDArray[np.uint8]]
HELDOUT = 0.05
SPLITS = ("train", "heldout")
COMMIT = re.compile(r"p[^/]*/[^/]*\.json")
"""Names of commit records, from ``commits/`` on."""


class EpisodeReader:
    """The committed ``ok`` episodes of a dataset, in the plan's order; an ``EpisodeStore``.

    Safe to pickle and to use in several processes. A finalized dataset opens by its index, however many episodes it has; where the
    index is not about just the records that are there, all records are read.

    Args:
        path: Folder of the dataset, or its place in a store as ``s3://bucket/name``.
        check: Whether whole-episode reads are compared with the hashes in the commit record.
        decode: What frames are made by where a dataset holds latents instead: True for the world that the dataset names, loaded when it
            is first needed; or a function from latents ``(N, C, h, w)`` to frames ``(N, H, W, 3)`` uint8, as
            ``worldsim.decoding.FrameDecoder.open("PATH")`` where that world lies elsewhere. False leaves such frames out: it needs no
            world, and episodes have frames ``(T + 1, 0, 0, 3)``.

    Raises:
        ValueError: The folder is no dataset, or one of a newer major format version.
    """

    def __init__(self, path: Root | str, *, check: bool = True, decode: bool | Decode = True) -> None:
        self.path = place(path)
        self.check = check
        self.decode = decode
        self.attributes = read_attributes(self.path)
        index = read_index(self.path)
        self.records: Sequence[dict[str, Any]] = (
            [record for record in read_commits(self.path) if record["status"] == "ok"] if index is None else Records(self.path, index)
        )
        self._arrays: dict[tuple[int, str], SlotArray] = {}

    @property
    def info(self) -> StoreInfo:
        """What the dataset says of itself."""
        return self._told

    @cached_property
    def _told(self) -> StoreInfo:
        records = self.records
        return _info(self.attributes, records.table.fingerprint if isinstance(records, Records) else fingerprint(records))

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.records)

    def __getitem__(self, index: int) -> Episode:
        """Read episode ``index``.

        Raises:
            ValueError: The stored bytes are not what was committed (names episode and file).
            IndexError: There is no such episode.
        """
        record = self.records[index]
        steps = int(record["length"])
        for name in record["sha256"]:
            array_path(self.path, int(record["part"]), name)  # arrays of a newer version are left alone, but no name leads elsewhere
        names = [name for name in ARRAYS if name in record["sha256"]]
        found = each(self.path, lambda name: self._read(record, name, 0, steps + (name in EVERY_FRAME)), names)
        read = dict(zip(names, found, strict=True))
        if FRAMES not in read:
            none = np.zeros((steps + 1, 0, 0, 3), dtype=np.uint8)
            read[FRAMES] = self._decoder(read[LATENTS]) if self.decode and LATENTS in read else none
        return Episode(
            frames=read[FRAMES],
            actions=read[ACTION],
            rewards=read[REWARD],
            terminated=read[TERMINATED],
            truncated=read[TRUNCATED],
            state=read[STATE] if STATE in read else np.zeros((steps + 1, 0), dtype=np.float32),
            seed=int(record["seed"]),
            scenario=record["scenario"],
            policy=record["policy"],
            conditioning=Conditioning.from_json(record["conditioning"]),
            params=record["params"],
            latents=read.get(LATENTS),
            labels={"segmentation": read[SEGMENTATION]} if SEGMENTATION in read else {},
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave open arrays behind."""
        return {**{name: value for name, value in self.__dict__.items() if name != "_decoder"}, "_arrays": {}}

    @cached_property
    def _decoder(self) -> Decode:
        if not isinstance(self.decode, bool):
            return self.decode
        from worldsim.decoding import FrameDecoder

        source = self.attributes["source"]
        try:
            return FrameDecoder.open(str(source["kwargs"]["world"]), sha256=(source.get("checkpoint") or {}).get("sha256"))
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{self.path} holds latents instead of frames, and names no world that decodes them") from error
        except ValueError as error:
            raise DatasetError(
                f"{self.path} holds latents instead of frames, and they cannot be decoded: {error}; "
                "where the world lies elsewhere, open the dataset by decode=FrameDecoder.open('PATH')"
            ) from error

    def lengths(self) -> NDArray[np.int64]:
        """Return the steps T of every episode, ``(len(self),)``."""
        if isinstance(self.records, Records):
            return self.records.table.length
        return np.array([record["length"] for record in self.records], dtype=np.int64)

    def cuts(self) -> dict[int, list[int]]:
        """Return the episodes that a scenario cut, and ``Episode.cuts`` of each.

        All commit records are read where a scenario of the plan has cuts in it, none otherwise.
        """
        if (plan := self.path / "plan.json").exists() and b'"cut' not in plan.read_bytes():
            return {}
        told = each(self.path, lambda i: cut_frames(self.records[i]["params"]), range(len(self)))
        return {i: frames for i, frames in enumerate(told) if frames}

    def split(self, name: str) -> list[int]:
        """Return the episode indices of split ``train`` or ``heldout``.

        Raises:
            ValueError: There is no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r} does not exist: the splits are {' and '.join(SPLITS)}")
        held = self.records.table.heldout if isinstance(self.records, Records) else heldout(self.records)
        return [i for i in range(len(self)) if held[i] == (name == "heldout")]

    def frames(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Read frames ``start`` to ``stop`` (exclusive; default: to the end) of episode ``index``, without the rest.

        Returns:
            ``(stop - start, H, W, 3)``.

        Raises:
            ValueError: The range is not inside the episode, or bytes are damaged or missing.
        """
        return self.rows(index, FRAMES, start, stop)

    def rows(self, index: int, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read entries ``start`` to ``stop`` (exclusive; default: to the end) of one array of episode ``index``.

        Args:
            index: The episode.
            name: Name on disk, as ``worldsim.datasets.layout.ACTION``; see there.
            start: First frame, for frames and state; first step, for the rest.
            stop: End, exclusive.

        Returns:
            ``(stop - start, ...)``.

        Raises:
            ValueError: There is no such array, the range is not inside the episode, or bytes are damaged or missing.
        """
        record = self.records[index]
        decoded = name == FRAMES and FRAMES not in record["sha256"] and LATENTS in record["sha256"]
        if decoded and not self.decode:
            raise DatasetError(f"{self.path} holds latents instead of frames: open it without decode=False, and its world makes them")
        if name not in record["sha256"] and not decoded:
            raise DatasetError(f"episode {record['episode']} has no array {name!r}: it has {', '.join(record['sha256'])}")
        count = int(record["length"]) + (name in EVERY_FRAME)
        stop = count if stop is None else stop
        if not 0 <= start <= stop <= count:
            what = name.rpartition("/")[2] if name != FRAMES else "frames"
            raise DatasetError(f"{what} {start}:{stop} are not inside episode {record['episode']}: it has {what} 0:{count}")
        return self._decoder(self._read(record, LATENTS, start, stop)) if decoded else self._read(record, name, start, stop)

    def _read(self, record: Mapping[str, Any], name: str, start: int, stop: int) -> NDArray[Any]:
        part = int(record["part"])
        if (part, name) not in self._arrays:
            self._arrays[part, name] = open_array(self.path, part, name)
        whole = start == 0 and stop == int(record["length"]) + (name in EVERY_FRAME)
        return read_slot(self.path, self._arrays[part, name], record, name, start, stop, check=self.check and whole)


@dataclass(frozen=True)
class SlotArray:
    """An array of a part, open for reading.

    Attributes:
        array: The Zarr array; of a store without its data.
        layout: How its slots lie in files, where that is as layout v1 says.
        folder: Where its files are.
        about: Its ``zarr.json``.
    """

    array: Any
    layout: SlotLayout | None
    folder: Root
    about: bytes


def open_array(root: Root, part: int, name: str) -> SlotArray:
    """Open an array of a part for reading.

    Raises:
        DatasetError: Its metadata is missing or damaged.
    """
    file, way_out = array_path(root, part, name) / "zarr.json", "restore it from a copy of the dataset"
    try:
        about = file.read_bytes()
        array = zarr.open_array(file.parent, mode="r", zarr_format=3) if isinstance(file, Path) else _zarr_array({"zarr.json": about})
        layout = slot_layout(array.metadata.to_dict())
        one_file = layout is not None or _is_one_file(array, shard_name(0, array.ndim))
    except StoreError:
        raise
    except Exception as error:
        raise DatasetError(f"{file} is missing or damaged: {way_out}") from error
    if not one_file:
        raise DatasetError(f"{file} is damaged, its episodes are not one file each: {way_out}")
    return SlotArray(array, layout, file.parent, about)


def _zarr_array(files: Mapping[str, bytes]) -> Any:
    """Open an array whose files are in memory."""
    return zarr.open_array(MemoryStore({name: Buffer.from_bytes(data) for name, data in files.items()}), mode="r", zarr_format=3)


def _is_one_file(array: Any, name: str) -> bool:
    """Whether a slot lies in the one file ``name``: where Zarr finds no file it reads zeros, so it must not look for others."""
    own = array.shards or array.chunks
    key = array.metadata.chunk_key_encoding.encode_chunk_key((0,) * array.ndim)
    return bool(key == name and own[0] == 1 and own[1] >= array.shape[1] and own[2:] == array.shape[2:])


def read_slot(root: Root, array: SlotArray, record: Mapping[str, Any], name: str, start: int, stop: int, *, check: bool) -> NDArray[Any]:
    """Read steps ``start`` to ``stop`` of one episode's slot.

    Raises:
        DatasetError: The shard is missing or damaged, or with ``check`` it is not what was committed.
    """
    slot = int(record["slot"])
    file = array.folder / shard_name(slot, array.array.ndim)
    way_out = "restore it from a copy, or record the episode again by removing its commit record"
    try:
        if array.layout is not None and stop > start:
            values = array.layout.read(file, start, stop)
        else:
            files = {file.name: file.read_bytes()} if stop > start else {}
            values = np.asarray(_zarr_array({"zarr.json": array.about, **files})[slot, start:stop])
    except FileNotFoundError as error:
        raise DatasetError(f"episode {record['episode']}: {file} is missing; {way_out}") from error
    except StoreError:
        raise
    except Exception as error:
        raise DatasetError(f"episode {record['episode']}: {file} is damaged ({error}); {way_out}") from error
    if len(values) != stop - start or (check and sha256_array(values) != record["sha256"][name]):
        raise DatasetError(f"episode {record['episode']}: {file} is not what was committed; {way_out}")
    return values


def shard_name(slot: int, dims: int) -> str:
    """Return the name of the file that holds all of one episode in an array of ``dims`` axes; see ``shard_path``."""
    return f"c.{slot}{'.0' * (dims - 1)}"


def read_attributes(root: Root) -> dict[str, Any]:
    """Read what a dataset says of itself.

    Raises:
        DatasetError: The folder is no dataset of a version that can be read.
    """
    if not root.is_dir():
        raise DatasetError(f"dataset {root} does not exist: record one with 'worldsim collect out={root}'")
    attributes = read_json(root / "zarr.json").get("attributes", {}).get("worldsim")
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise DatasetError(f"{root} is no worldsim dataset: its zarr.json lacks the attribute worldsim.format = {FORMAT!r}")
    major = VERSION.split(".")[0]
    if str(attributes.get("version")).split(".")[0] != major:
        raise DatasetError(f"{root} has format version {attributes.get('version')}, this release reads {major}.x: update worldsim")
    return attributes


def read_commits(root: Root) -> list[dict[str, Any]]:
    """Read all commit records, sorted by episode.

    Raises:
        DatasetError: A record is no valid JSON, or not what was written.
    """
    files = [root / "commits" / name for name in sizes(root / "commits") if COMMIT.fullmatch(name)]
    records: list[dict[str, Any]] = each(root, read_json, files)
    for record, file in zip(records, files, strict=True):
        check_seal(record, file)
    return sorted(records, key=lambda record: int(record["episode"]))


def fingerprint(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the sha256 over the content of the given records: equal for equal data, whatever its place or age."""
    content = [[record["episode"], sorted(record["sha256"].items())] for record in records]
    return hashlib.sha256(canonical_json(sorted(content, key=lambda item: item[0])).encode()).hexdigest()


def heldout(records: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """Return which episodes are held out, ``(len(records),)``.

    About one seed in twenty, at least one where there are two; equal seeds fall on the same side, and adding episodes moves none
    across except in the smallest datasets.
    """
    seeds = [int(record["seed"]) for record in records]
    keys = seeds if len(set(seeds)) > 1 else [int(record["episode"]) for record in records]
    values = np.array([int(hashlib.sha256(str(key).encode()).hexdigest()[:12], 16) / 16**12 for key in keys])
    held = np.asarray(values < HELDOUT, dtype=np.bool_)
    if len(records) > 1 and not held.any():
        held = values == values.min()
    if len(records) > 1 and held.all():
        held = values != values.max()
    return held


def _info(attributes: Mapping[str, Any], content: str) -> StoreInfo:
    height, width = attributes["frame_size"]
    return StoreInfo(
        name=attributes["name"],
        frame_size=(int(height), int(width)),
        fps=float(attributes["fps"]),
        action_space=space_from_json(attributes["action_space"]),
        state_names=tuple(attributes["state_names"]),
        source=attributes["source"],
        fingerprint=content,
        licence=attributes["licence"],
        labels=labels_of(attributes) or {},
    )
