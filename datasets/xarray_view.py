"""A dataset as a lazy ``xarray.Dataset``: values are read when they are asked for. Needs the extra ``xarray``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.datasets.layout import ACTION, FRAMES, LATENTS, REWARD, SEGMENTATION, STATE, TERMINATED, TRUNCATED, DatasetError
from worldsim.datasets.optional import need
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.storage import Root

_ARRAYS = {
    "frames": (FRAMES, ("frame", "height", "width", "channel")),
    "latents": (LATENTS, ("frame", "latent_channel", "latent_height", "latent_width")),
    "segmentation": (SEGMENTATION, ("frame", "height", "width")),
    "state": (STATE, ("frame", "label")),
    "action": (ACTION, ("step", "number")),
    "reward": (REWARD, ("step",)),
    "terminated": (TERMINATED, ("step",)),
    "truncated": (TRUNCATED, ("step",)),
}


def open_xarray(path: Root | str) -> Any:
    """Open all committed episodes laid end to end, lazily.

    Frames lie along ``frame``, steps along ``step``; the coordinates ``frame_episode``, ``frame_time``, ``step_episode`` and
    ``step_time`` say whose they are, and step ``(episode, t)`` takes frame ``(episode, t)`` to frame ``(episode, t + 1)``. Every read
    goes through ``EpisodeReader``: damage raises, it is never read as data.

    Args:
        path: Folder of a worldsim dataset.

    Returns:
        An ``xarray.Dataset``: ``frames`` ``(frame, height, width, channel)`` uint8, ``state`` ``(frame, label)`` where there is one,
        ``latents`` ``(frame, latent_channel, latent_height, latent_width)`` and ``segmentation`` ``(frame, height, width)`` uint8
        likewise, ``action`` ``(step, number)``,
        ``reward``, ``terminated`` and ``truncated`` ``(step,)``; attributes ``fps``, ``name`` and
        ``fingerprint``.

    Raises:
        ValueError: The folder is no dataset, or xarray is not installed.
    """
    xarray = need("xarray", "xarray")
    reader = EpisodeReader(path)
    if not len(reader):
        raise DatasetError(f"{path} has no committed episodes to open")
    steps = reader.lengths()
    variables: dict[str, Any] = {}
    for name, (stored, axes) in _ARRAYS.items():
        if stored not in reader.records[0]["sha256"]:
            continue
        backend = _lazy(reader, stored, steps + (axes[0] == "frame"))
        variables[name] = xarray.Variable(axes, backend)
    coordinates: dict[str, Any] = {}
    for axis, lengths in (("frame", steps + 1), ("step", steps)):
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        coordinates[f"{axis}_episode"] = (axis, np.repeat(np.arange(len(lengths)), lengths))
        coordinates[f"{axis}_time"] = (axis, np.arange(lengths.sum()) - starts)
    if reader.info.state_names:
        coordinates["label"] = list(reader.info.state_names)
    attributes = {"fps": reader.info.fps, "name": reader.info.name, "fingerprint": reader.info.fingerprint}
    return xarray.Dataset(variables, coordinates, attributes)


def _lazy(reader: EpisodeReader, stored: str, lengths: NDArray[np.int64]) -> Any:
    """Return xarray's lazily indexed view of one stream, ``(sum(lengths), ...)``."""
    indexing = need("xarray.core.indexing", "xarray")
    backend_array: Any = need("xarray.backends", "xarray").BackendArray
    sample = reader.rows(0, stored, 0, 0)

    class Stream(backend_array):  # type: ignore[misc]
        """One stream over all episodes."""

        def __init__(self) -> None:
            self.shape = (int(lengths.sum()), *sample.shape[1:])
            self.dtype = sample.dtype

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._get)

        def _get(self, key: tuple[Any, ...]) -> NDArray[Any]:
            first = key[0]
            wanted = np.atleast_1d(np.arange(self.shape[0])[first])
            values = _gather(reader, stored, lengths, wanted)
            return values[(0 if isinstance(first, int | np.integer) else slice(None), *key[1:])]

    return indexing.LazilyIndexedArray(Stream())


def _gather(reader: EpisodeReader, stored: str, lengths: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[Any]:
    """Read the entries ``wanted`` of a stream, episode by episode."""
    starts = np.cumsum(lengths) - lengths
    owners = np.searchsorted(starts, wanted, side="right") - 1
    out = np.empty((len(wanted), *reader.rows(0, stored, 0, 0).shape[1:]), reader.rows(0, stored, 0, 0).dtype)
    for owner in np.unique(owners):
        mine = owners == owner
        local = wanted[mine] - starts[owner]
        low = int(local.min())
        out[mine] = reader.rows(int(owner), stored, low, int(local.max()) + 1)[local - low]
    return out
