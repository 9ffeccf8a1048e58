"""Export to Minari, by Minari's own writer. Needs the extra ``minari``."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from worldsim.datasets.exports.common import Export, about_episode
from worldsim.datasets.layout import canonical_json
from worldsim.datasets.optional import need
from worldsim.episode import Episode
from worldsim.spaces import from_row


def write(export: Export, target: Path) -> str:
    """Write a Minari dataset ``worldsim/NAME-v0`` below ``target``, in HDF5 and without JPEG: exact, T + 1 observations.

    Observations are the frames, or with labelled state ``{"image": ..., "state": ...}``.

    Returns:
        How to open it.

    Raises:
        DatasetError: Minari or h5py is not installed.
    """
    need("h5py", "minari")
    minari = need("minari", "minari")
    info = export.reader.info
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", info.name).strip("-") or "dataset"
    listed: list[dict[str, Any]] = []
    with _root(target), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of author, code and requirements that a dataset from elsewhere may not have
        made = minari.create_dataset_from_buffers(
            dataset_id=f"worldsim/{name}-v0",
            buffer=_buffers(export, listed),
            observation_space=observation_space(info.frame_size, len(info.state_names)),
            action_space=info.action_space,
            algorithm_name="worldsim",
            description=canonical_json(export.about()["alignment"]),
            data_format="hdf5",
            jpeg_encoding=False,
        )
        made.storage.update_metadata({"worldsim": canonical_json(export.about())})
        made.storage.update_episode_metadata([{"worldsim": canonical_json(one)} for one in listed])
    return f"MINARI_DATASETS_PATH=PATH, then minari.load_dataset('worldsim/{name}-v0'); exact"


def observation_space(size: tuple[int, int], labels: int) -> Space[Any]:
    """Return the space of one observation: an image, or a Dict of image and state."""
    image = spaces.Box(0, 255, (*size, 3), np.uint8)
    return spaces.Dict({"image": image, "state": spaces.Box(-np.inf, np.inf, (labels,), np.float32)}) if labels else image


def stack(space: Space[Any], items: Sequence[Any]) -> Any:
    """Stack elements of a space: an array, or for a Dict a dict of arrays."""
    if isinstance(space, spaces.Dict):
        return {key: stack(part, [item[key] for item in items]) for key, part in space.spaces.items()}
    return np.asarray(items)


def _buffers(export: Export, listed: list[dict[str, Any]]) -> Iterator[Any]:
    buffer = need("minari.data_collector.episode_buffer", "minari").EpisodeBuffer
    space = export.reader.info.action_space
    for number, (episode, split) in enumerate(zip(export.read(), export.splits, strict=True)):
        listed.append(about_episode(episode, split))
        yield buffer(
            id=number,
            seed=episode.seed,
            observations=_observations(episode),
            actions=stack(space, [from_row(space, row) for row in episode.actions]),
            rewards=episode.rewards,
            terminations=episode.terminated,
            truncations=episode.truncated,
        )


def _observations(episode: Episode) -> Any:
    return {"image": episode.frames, "state": episode.state} if episode.state.shape[1] else episode.frames


@contextmanager
def _root(path: Path) -> Iterator[None]:
    """Have Minari write below ``path``."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
