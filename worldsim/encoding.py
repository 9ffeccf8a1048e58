"""Frames to latents: those of an array, and those of a dataset, which are kept beside a run and go on after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from numpy.lib import format as npy
from numpy.typing import NDArray

from worldsim.tokenizer import Tokenizer, to_model
from worldsim.types import EpisodeStore

_LATENT = np.dtype("<f2")
_SAY_EVERY = 10.0  # seconds


@torch.no_grad()
def encode_frames(tokenizer: Tokenizer, frames: NDArray[np.uint8], device: torch.device, *, batch: int = 128) -> NDArray[np.float16]:
    """Encode frames ``(N, H, W, 3)`` to latents ``(N, C, h, w)`` float16."""
    chunks = [tokenizer.encode(to_model(torch.from_numpy(frames[i : i + batch]).to(device))) for i in range(0, len(frames), batch)]
    return torch.cat(chunks).to(torch.float16).cpu().numpy()


def encode_episodes(
    store: EpisodeStore, episodes: Sequence[int], starts: Sequence[int], tokenizer: Any, device: torch.device, cache: Path | None
) -> NDArray[np.float16]:
    """Encode the frames of whole episodes, laid end to end.

    Args:
        store: The dataset.
        episodes: Indices of the episodes, at least one.
        starts: First frame of each in the whole, and the number of all frames.
        tokenizer: A module with ``encode`` and ``latent_shape``.
        device: Where to encode.
        cache: Folder to keep latents in, by content: those that are there are read, what a killed run left is gone on with, and of two
            processes that want the same one waits for the other. None to keep none.

    Returns:
        ``(frames, C, h, w)``; read from the disk as needed if kept.
    """
    if cache is None:
        return np.concatenate([encode_frames(tokenizer, store[i].frames, device) for i in episodes])
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"latents-{_key(store, episodes, tokenizer)}.npy"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            partial = file.with_suffix(".partial")
            with partial.open("ab+") as out:
                done = _begin(out, starts, tuple(tokenizer.latent_shape))
                _encode_rest(out, store, episodes, starts, done, tokenizer, device)
            partial.replace(file)
    latents: NDArray[np.float16] = np.load(file, mmap_mode="r", allow_pickle=False)
    return latents


def _key(store: EpisodeStore, episodes: Sequence[int], tokenizer: Any) -> str:
    weights = hashlib.sha256()
    for value in tokenizer.state_dict().values():
        weights.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hashlib.sha256(json.dumps([store.info.fingerprint, list(episodes), weights.hexdigest()]).encode()).hexdigest()[:16]


def _begin(out: BinaryIO, starts: Sequence[int], shape: tuple[int, ...]) -> int:
    """Write the head of the whole array, or find what is there; return how many episodes are, and cut what is of half a one."""
    header: dict[str, Any] = {"descr": _LATENT.str, "fortran_order": False, "shape": (int(starts[-1]), *shape)}
    size = out.seek(0, 2)
    out.seek(0)
    try:
        npy.read_magic(out)
        npy.read_array_header_1_0(out)
    except ValueError:  # new, or killed at once
        out.truncate(0)
        npy.write_array_header_1_0(out, header)
        return 0
    begun, row = out.tell(), int(np.prod(shape)) * _LATENT.itemsize
    done = int(np.searchsorted(starts, (size - begun) // row, side="right")) - 1
    out.truncate(begun + int(starts[done]) * row)
    return done


def _encode_rest(
    out: BinaryIO, store: EpisodeStore, episodes: Sequence[int], starts: Sequence[int], done: int, tokenizer: Any, device: torch.device
) -> None:
    total, first, begun = int(starts[-1]), int(starts[done]), time.monotonic()
    said = begun
    for number in range(done, len(episodes)):
        out.write(encode_frames(tokenizer, store[episodes[number]].frames, device).astype(_LATENT).tobytes())
        out.flush()
        count, now = int(starts[number + 1]), time.monotonic()
        if now - said > _SAY_EVERY:
            said, left = now, (now - begun) / (count - first) * (total - count)
            print(f"encoded {count:,} of {total:,} frames, {left:.0f} s left", flush=True)
