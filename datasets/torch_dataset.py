"""Datasets as PyTorch wants them: whole episodes, and clips of a fixed length, read by any number of worker processes.

Letters: F frames of a clip, K = (F - 1) * stride steps of a clip, T steps of an episode, A, S, H, W as in ``worldsim.types``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from worldsim.datasets.expect import labels_of, latents_of
from worldsim.datasets.layout import (
    ACTION,
    CHUNK_FRAMES,
    EVERY_FRAME,
    FRAMES,
    LATENTS,
    REWARD,
    SEGMENTATION,
    STATE,
    TERMINATED,
    TRUNCATED,
    DatasetError,
)
from worldsim.datasets.objects import StorePath
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.storage import Root, each

STREAMS: Mapping[str, str] = {
    "frames": FRAMES,
    "actions": ACTION,
    "rewards": REWARD,
    "terminated": TERMINATED,
    "truncated": TRUNCATED,
    "state": STATE,
    "latents": LATENTS,
    "segmentation": SEGMENTATION,
}
"""Names of the streams, and of their arrays on disk."""


class EpisodeDataset(Dataset[dict[str, Tensor]]):
    """One item is one episode: a dict of its streams.

    ``frames`` ``(T + 1, 3, H, W)`` uint8 in 0..255; ``actions`` ``(T, A)`` float32 or int64; ``rewards`` ``(T,)`` float32;
    ``terminated``, ``truncated`` ``(T,)`` bool; ``state`` ``(T + 1, S)`` float32; ``latents``
    ``(T + 1, C, h, w)`` float16; ``segmentation`` ``(T + 1, H, W)`` uint8; and ``episode``, its index in the reader, int64.
    ``actions[t]`` takes ``frames[t]`` to ``frames[t + 1]``.

    Args:
        path: Folder of a worldsim dataset, or its place in a store as ``s3://bucket/name``.
        split: ``train``, ``heldout``, or None for all episodes.
        streams: Which streams to read, of ``STREAMS``; default: all there are.

    Raises:
        ValueError: The folder is no dataset, or a split or stream does not exist.
    """

    def __init__(self, path: Root | str, *, split: str | None = "train", streams: Sequence[str] | None = None) -> None:
        self.reader = EpisodeReader(path)
        self.streams = _streams(self.reader, streams)
        self.episodes = _episodes(self.reader, split)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read an episode.

        Raises:
            ValueError: Bytes are damaged or missing; the message names episode and file.
        """
        episode = self.episodes[index]
        read = each(self.reader.path, lambda name: _tensor(name, self.reader.rows(episode, STREAMS[name])), self.streams)
        return {**dict(zip(self.streams, read, strict=True)), "episode": torch.tensor(episode)}


class ClipDataset(Dataset[dict[str, Tensor]]):
    """One item is one clip of ``frames`` frames, ``stride`` steps apart; there are as many items as places where one fits.

    ``frames`` ``(F, 3, H, W)`` uint8 in 0..255; ``latents`` ``(F, C, h, w)`` float16; ``segmentation`` ``(F, H, W)`` uint8;
    ``state`` ``(F, S)`` float32;
    ``actions`` ``(K, A)`` float32 or int64, ``rewards``
    ``(K,)`` float32, ``terminated`` and ``truncated`` ``(K,)`` bool, all the K = (F - 1) * stride steps between the first frame and
    the last; ``episode`` and ``start``, the place in the reader, int64. ``actions[k * stride : (k + 1) * stride]`` take
    ``frames[k]`` to ``frames[k + 1]``.

    Args:
        path: Folder of a worldsim dataset, or its place in a store as ``s3://bucket/name``.
        frames: F, at least 1.
        stride: Steps from one frame to the next, at least 1.
        align: ``any``: a clip begins at any frame; ``chunk``: only where a stored chunk does, which reads least.
        split: ``train``, ``heldout``, or None for all episodes.
        streams: Which streams to read, of ``STREAMS``; default: all there are.
        across_cuts: Whether a clip may hold a frame that does not follow from the one before, where a scenario cut its episode. Knowing
            the cuts takes reading the records of all episodes of a dataset whose scenarios have some.

    Raises:
        ValueError: The folder is no dataset, no episode is long enough, or a number, split or stream is wrong.
    """

    def __init__(
        self,
        path: Root | str,
        *,
        frames: int = 16,
        stride: int = 1,
        align: str = "any",
        split: str | None = "train",
        streams: Sequence[str] | None = None,
        across_cuts: bool = False,
    ) -> None:
        if frames < 1 or stride < 1:
            raise DatasetError(f"frames={frames} and stride={stride} must be 1 or more")
        if align not in ("any", "chunk"):
            raise DatasetError(f"align={align!r} must be 'any' or 'chunk'")
        self.reader = EpisodeReader(path)
        self.streams = _streams(self.reader, streams)
        self.steps, self.stride = (frames - 1) * stride, stride
        self._every = CHUNK_FRAMES if align == "chunk" else 1
        self.episodes, first, lengths = _stretches(self.reader, _episodes(self.reader, split), across_cuts=across_cuts)
        self._first = -(-first // self._every) * self._every
        room = first + lengths - self.steps - self._first  # steps that the first clip of a stretch can move on
        self._ends = np.cumsum(np.where(room >= 0, room // self._every + 1, 0))
        if not len(self):
            longest = int(lengths.max(initial=0)) + 1
            raise DatasetError(f"clips of {frames} frames, {stride} apart, take {self.steps + 1} frames: the longest episode has {longest}")

    def __len__(self) -> int:
        """Number of places where a clip fits."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def place(self, index: int) -> tuple[int, int]:
        """Return the episode of clip ``index`` in the reader, and its first frame there.

        Raises:
            IndexError: There is no such clip.
        """
        number = range(len(self))[index]
        which = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[which - 1]) if which else 0
        return int(self.episodes[which]), int(self._first[which]) + (number - before) * self._every

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read a clip.

        Raises:
            ValueError: Bytes are damaged or missing; the message names episode and file.
        """
        episode, start = self.place(index)
        read = each(self.reader.path, lambda name: self._stream(name, episode, start), self.streams)
        return {**dict(zip(self.streams, read, strict=True)), "episode": torch.tensor(episode), "start": torch.tensor(start)}

    def _stream(self, name: str, episode: int, start: int) -> Tensor:
        if STREAMS[name] not in EVERY_FRAME:
            return _tensor(name, self.reader.rows(episode, STREAMS[name], start, start + self.steps))
        rows = self.reader.rows(episode, STREAMS[name], start, start + self.steps + 1)
        return _tensor(name, rows[:: self.stride])


def clip_loader(
    dataset: Dataset[dict[str, Tensor]],
    *,
    batch: int,
    seed: int = 0,
    shuffle: bool = True,
    workers: int = 0,
    start_method: str | None = None,
) -> DataLoader[dict[str, Tensor]]:
    """Return a loader of batches ``(B, ...)``; the order of all its epochs follows from ``seed`` alone, not from ``workers``.

    Args:
        dataset: A ``ClipDataset``, or episodes of one length.
        batch: B; a last smaller batch is left out.
        seed: Of the order.
        shuffle: Draw items in random order, each once an epoch.
        workers: Processes that read; 0 reads in this one.
        start_method: ``fork``, ``spawn`` or ``forkserver``; default: the platform's, and ``spawn`` for a dataset in an object store, which
            forked processes cannot read.
    """
    if start_method is None and isinstance(getattr(getattr(dataset, "reader", None), "path", None), StorePath):
        start_method = "spawn"
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=RandomSampler(dataset, generator=generator) if shuffle else None,  # type: ignore[arg-type]
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
    )


def _streams(reader: EpisodeReader, streams: Sequence[str] | None) -> tuple[str, ...]:
    latents = latents_of(reader.attributes)
    absent = {
        "frames": latents is not None and latents.kept == "instead",
        "state": not reader.info.state_names,
        "latents": latents is None,
        "segmentation": labels_of(reader.attributes) is None,
    }
    there = tuple(name for name in STREAMS if not absent.get(name, False))
    wrong = [name for name in streams or () if name not in there]
    if wrong:
        raise DatasetError(f"stream {wrong[0]!r} is not in {reader.path}: it has {', '.join(there)}")
    return there if streams is None else tuple(streams)


def _episodes(reader: EpisodeReader, split: str | None) -> list[int]:
    return list(range(len(reader))) if split is None else reader.split(split)


def _stretches(
    reader: EpisodeReader, episodes: list[int], *, across_cuts: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return episode, first frame and steps of all stretches between cuts, in order."""
    own, lengths = np.array(episodes, dtype=np.int64), reader.lengths()
    cuts = {} if across_cuts else reader.cuts()
    if not cuts:
        return own, np.zeros_like(own), lengths[own]
    found = [
        (episode, first, after - first - 1)
        for episode in episodes
        for first, after in pairwise((0, *cuts.get(episode, ()), int(lengths[episode]) + 1))
    ]
    table = np.array(found, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _tensor(name: str, values: NDArray[Any]) -> Tensor:
    if name == "frames":
        values = values.transpose(0, 3, 1, 2)  # (F, 3, H, W)
    return torch.from_numpy(np.ascontiguousarray(values))
