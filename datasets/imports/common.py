"""What all importers share: the source as they describe it, and frames of one size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray
from PIL import Image

from worldsim.datasets.layout import DatasetError
from worldsim.episode import Conditioning, Episode


@dataclass(frozen=True)
class Wanted:
    """What the user says of a source beside where it is.

    Attributes:
        image: Which of several pictures to take; None for the first.
        fps: Frames a second; None where the source says.
        actions: ``before``: row i of as many actions as frames was taken at frame i; ``after``: it led to frame i.
    """

    image: str | None = None
    fps: float | None = None
    actions: str = "before"


@dataclass(frozen=True)
class Coming:
    """One episode that a source has.

    Attributes:
        steps: T at most.
        about: What is told of it in JSON types, as ``worldsim.datasets.exports.common.about_episode`` writes it; may be empty.
    """

    steps: int
    about: Mapping[str, Any]


class Source(Protocol):
    """A dataset in another format.

    Attributes:
        name: Its name.
        fps: Frames a second, or None where it does not say.
        action_space: Space of its actions.
        state_names: Names of the labelled state, may be empty.
        about: What a worldsim export says of its dataset, or nothing.
        coming: The episodes.
    """

    name: str
    fps: float | None
    action_space: Space[Any]
    state_names: tuple[str, ...]
    about: Mapping[str, Any]
    coming: Sequence[Coming]

    def episode(self, number: int, size: tuple[int, int] | None) -> Episode:
        """Read an episode, its frames resized to ``size`` (height, width) where that is given."""
        ...


def resize(frames: Iterable[NDArray[np.uint8]], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Average frames ``(H, W, 3)`` over areas, one after another, to ``(T, *size, 3)``; the whole picture is kept, stretched."""
    if size is None:
        return np.stack(list(frames))
    height, width = size
    box = Image.Resampling.BOX
    return np.stack([f if f.shape[:2] == size else np.asarray(Image.fromarray(f).resize((width, height), box)) for f in frames])


def rgb(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn pictures ``(T, H, W)``, ``(T, H, W, 1 or 3 or 4)`` or ``(T, 1 or 3, H, W)``, uint8, into ``(T, H, W, 3)``."""
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3, 4):
        images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images.repeat(3, axis=-1) if images.shape[-1] == 1 else images[..., :3])


def is_picture(space: Space[Any]) -> bool:
    """Whether elements of a space are pictures."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    shape = space.shape
    return len(shape) == 2 or (len(shape) == 3 and (shape[-1] in (1, 3, 4) or shape[0] in (1, 3)))


def space_of(rows: Sequence[NDArray[Any]]) -> Space[Any]:
    """Return the space that action rows ``(T, A)`` of all episodes span: a Box of their range, or classes from 0 to the largest.

    Raises:
        DatasetError: There are no actions, or an integer one is negative.
    """
    joined = np.concatenate(rows) if rows else np.zeros((0, 1))
    if not joined.size:
        raise DatasetError("there are no actions to import: every episode needs at least one step")
    low, high = joined.min(axis=0), joined.max(axis=0)
    if np.issubdtype(joined.dtype, np.floating):
        if not np.isfinite(joined).all():
            raise DatasetError("an action is not finite: remove that episode")
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    if low.min() < 0:
        raise DatasetError(f"the least action is {low.min()}: classes count from 0; write them as floats where they are no classes")
    counts = high.astype(np.int64) + 1
    return spaces.Discrete(int(counts[0])) if len(counts) == 1 else spaces.MultiDiscrete(counts)


def rows_of_actions(values: Any) -> NDArray[Any]:
    """Lay actions ``(T,)`` or ``(T, ...)`` out as rows ``(T, A)``, float32 or int64."""
    array = np.asarray(values)
    kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64
    return np.ascontiguousarray(array.reshape(len(array), -1).astype(kind))


def between(actions: NDArray[Any], frames: int, how: str, where: str) -> slice:
    """Return which of the given actions lie between ``frames`` frames: T of them, so that action t takes frame t to frame t + 1.

    Args:
        actions: One fewer than frames, or as many.
        frames: T + 1.
        how: What as many actions as frames mean: ``before`` drops the last, which leads nowhere, ``after`` the first.
        where: The episode, for the message.

    Raises:
        DatasetError: There is another number of them.
    """
    if len(actions) == frames - 1:
        return slice(0, frames - 1)
    if len(actions) == frames:
        return slice(0, frames - 1) if how == "before" else slice(1, frames)
    raise DatasetError(
        f"{where} has {frames} frames and {len(actions)} actions: give one action between two frames ({frames - 1}), "
        f"or one a frame ({frames}) and say by actions=before or actions=after what it does"
    )


def make_episode(
    frames: NDArray[np.uint8],
    actions: NDArray[Any],
    *,
    rewards: Any = None,
    terminated: Any = None,
    truncated: Any = None,
    state: NDArray[Any] | None = None,
    about: Mapping[str, Any],
    seed: int,
) -> Episode:
    """Put an episode together; what is not known is 0, and an end that nothing explains, or before the told one, is a truncation.

    Args:
        frames: ``(T + 1, H, W, 3)``.
        actions: ``(T, A)``.
        rewards: ``(T,)`` or None.
        terminated: ``(T,)`` or None.
        truncated: ``(T,)`` or None.
        state: ``(T + 1, S)`` or None.
        about: What an export told of it.
        seed: Where ``about`` has none.
    """
    steps = len(actions)
    ends = np.zeros(steps, np.bool_) if terminated is None else np.asarray(terminated, dtype=np.bool_)
    cut = np.zeros(steps, np.bool_) if truncated is None else np.array(truncated, dtype=np.bool_)
    if steps and not ends[-1] and (truncated is None or about.get("steps", steps) != steps):
        cut[-1] = True
    return Episode(
        frames=frames,
        actions=actions,
        rewards=np.zeros(steps, np.float32) if rewards is None else np.asarray(rewards, dtype=np.float32),
        terminated=ends,
        truncated=cut,
        state=np.zeros((steps + 1, 0), np.float32) if state is None else np.asarray(state, dtype=np.float32),
        seed=int(about.get("seed", seed)),
        scenario=str(about.get("scenario", "")),
        policy=str(about.get("policy", "")),
        conditioning=Conditioning.from_json(about.get("conditioning", {})),
        params=dict(about.get("params", {})),
    )
