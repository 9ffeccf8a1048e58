"""Import from Minari, by Minari's own reader. Needs the extra ``minari``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.datasets.imports.common import Coming, Wanted, is_picture, make_episode, resize, rgb
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.optional import need
from worldsim.episode import Episode
from worldsim.spaces import row_size, to_row


class MinariSource:
    """A Minari dataset whose observations are pictures, or hold one.

    Args:
        source: Folder of one dataset (with ``data/``), or the id of one below ``MINARI_DATASETS_PATH``.
        wanted: Which picture, and the rate.

    Raises:
        DatasetError: Minari is not installed, there is no such dataset, or it has no pictures.
    """

    def __init__(self, source: str, wanted: Wanted) -> None:
        need("h5py", "minari")
        minari = need("minari", "minari")
        folder = next((p for p in (Path(source) / "data", Path(source)) if (p / "metadata.json").exists()), None)
        try:
            self._data: Any = minari.load_dataset(source) if folder is None else minari.MinariDataset(folder)
        except (FileNotFoundError, ValueError) as error:
            raise DatasetError(f"{source} is no Minari dataset, by folder or by id: {error}") from error
        metadata = self._data.storage.metadata
        self.about: Mapping[str, Any] = json.loads(metadata.get("worldsim", "{}"))
        self.name = str(self.about.get("name") or str(metadata.get("dataset_id", Path(source).name)).rpartition("/")[2])
        self.fps = wanted.fps or self.about.get("fps")
        self.action_space: Space[Any] = self._data.action_space
        row_size(self.action_space)  # refuses spaces that have no rows
        self._key = picture_key(self._data.observation_space, wanted.image, source)
        self._state_key, self.state_names = self._labels(self._data.observation_space)
        self._numbers = [int(i) for i in self._data.episode_indices]
        told = list(self._data.storage.get_episode_metadata(self._numbers))
        self._seeds = [int(one["seed"]) if one.get("seed") is not None else i for i, one in enumerate(told)]
        self.coming = [Coming(int(one["total_steps"]), json.loads(one.get("worldsim", "{}"))) for one in told]

    def episode(self, number: int, size: tuple[int, int] | None) -> Episode:
        """Read an episode: Minari has T + 1 observations around T actions, as worldsim has."""
        data = next(iter(self._data.iterate_episodes([self._numbers[number]])))
        steps = len(data.rewards)
        items = _unstack(self.action_space, data.actions, steps)
        observed = data.observations
        return make_episode(
            resize(rgb(np.asarray(observed if self._key is None else observed[self._key])), size),
            np.stack([to_row(self.action_space, item) for item in items]),
            rewards=data.rewards,
            terminated=data.terminations,
            truncated=data.truncations,
            state=None if self._state_key is None else np.asarray(observed[self._state_key]).reshape(steps + 1, -1),
            about=self.coming[number].about,
            seed=self._seeds[number],
        )

    def _labels(self, space: Space[Any]) -> tuple[str | None, tuple[str, ...]]:
        """Return the key of labelled state beside the picture, and the names of its numbers."""
        if not isinstance(space, spaces.Dict):
            return None, ()
        for key, part in space.spaces.items():
            if isinstance(part, spaces.Box) and len(part.shape) == 1 and np.issubdtype(part.dtype, np.floating):
                names = self.about.get("state_names") or [f"{key}_{i}" for i in range(part.shape[0])]
                return key, tuple(names)
        return None, ()


def picture_key(space: Space[Any], wanted: str | None, source: str) -> str | None:
    """Return the key of the picture in a Dict space, or None where the observation itself is one.

    Raises:
        DatasetError: There is no picture, or not the wanted one.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    pictures = [key for key, part in parts.items() if is_picture(part)]
    if is_picture(space) and wanted is None:
        return None
    if not pictures or (wanted is not None and wanted not in pictures):
        there = f"its pictures are {', '.join(pictures)}" if pictures else f"its observations are {type(space).__name__} without a picture"
        raise DatasetError(f"{source}: {there}; choose one by image=, or record one with frames as uint8 observations")
    return wanted or pictures[0]


def _unstack(space: Space[Any], values: Any, steps: int) -> list[Any]:
    """Undo ``worldsim.datasets.exports.minari.stack``."""
    if isinstance(space, spaces.Dict):
        columns = {key: _unstack(part, values[key], steps) for key, part in space.spaces.items()}
        return [{key: column[t] for key, column in columns.items()} for t in range(steps)]
    array: NDArray[Any] = np.asarray(values)
    return list(array)


def open_source(source: str, wanted: Wanted) -> MinariSource:
    """Open a Minari dataset; see ``MinariSource``."""
    return MinariSource(source, wanted)
