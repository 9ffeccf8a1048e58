"""Labels beside pixels: how well the world tells what each pixel shows, of real frames and of those it imagines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from worldsim.encoding import encode_frames
from worldsim.evaluation.openloop import Rollouts, Segment, real
from worldsim.model import WorldModel

STEPS = (1, 4, 16, 64)


def confusion(truth: NDArray[np.uint8], read: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Return how many pixels of each class are read as which, ``(count, count)``, the true class first; both arrays of one shape."""
    pairs = truth.astype(np.int64).ravel() * count + read.ravel()
    return np.bincount(pairs, minlength=count * count).reshape(count, count).astype(np.int64)


def iou_by_class(matrix: ArrayLike) -> list[float | None]:
    """Return intersection over union in 0..1 of each class of a confusion matrix ``(K, K)``; None for those that are not there in truth.

    It is that of PASCAL VOC (Everingham et al. 2010, section 4.4): pixels right, over those right, missed and made up.
    """
    pixels = np.asarray(matrix, dtype=np.int64)
    right, truth, read = np.diagonal(pixels), pixels.sum(1), pixels.sum(0)
    union = truth + read - right
    return [float(right[k] / union[k]) if truth[k] else None for k in range(len(pixels))]


def mean_iou(matrix: ArrayLike) -> float:
    """Return the mean over the classes that are there."""
    return float(np.mean([value for value in iou_by_class(matrix) if value is not None]))


def labels(world: WorldModel, segments: Sequence[Segment], made: Rollouts) -> dict[str, Any]:
    """Return mean IoU and that of each class at chosen steps, against the segmentation that the source drew.

    Args:
        world: A world with a labeller.
        segments: What really happened, with its segmentation.
        made: The world's rollouts of it.

    Returns:
        ``classes``, ``steps``, and for each of ``tokenizer`` (read from the real frames), ``world`` (from the imagined ones) and
        ``copy_last`` (the true segmentation of the last context frame): ``mean`` a step, and ``each`` class a step, None where the class
        is not there.
    """
    assert world.labeller is not None
    names = world.labeller.classes
    truth = np.stack([segment.segmentation for segment in segments if segment.segmentation is not None])  # (N, 1 + T, H, W)
    steps = [step for step in STEPS if step < truth.shape[1]]
    read: dict[str, list[NDArray[np.uint8]]] = {
        "tokenizer": [read_frames(world, real(segments)[:, step - 1]) for step in steps],
        "world": [made.segmentation[:, step - 1] for step in steps],
        "copy_last": [truth[:, 0]] * len(steps),
    }
    report: dict[str, Any] = {"classes": list(names), "steps": steps}
    for name, pictures in read.items():
        found = [confusion(truth[:, step], picture, len(names)) for step, picture in zip(steps, pictures, strict=True)]
        report[name] = {
            "mean": [round(mean_iou(matrix), 4) for matrix in found],
            "each": [[None if value is None else round(value, 4) for value in iou_by_class(matrix)] for matrix in found],
        }
    return report


@torch.no_grad()
def read_frames(world: WorldModel, frames: NDArray[np.uint8], *, batch: int = 128) -> NDArray[np.uint8]:
    """Read what frames ``(N, H, W, 3)`` show through tokenizer and labeller, ``(N, H, W)``."""
    assert world.labeller is not None
    latents = torch.from_numpy(encode_frames(world.tokenizer, frames, world.device, batch=batch)).to(world.device, world.dtype)
    return torch.cat([world.labeller.classify(part) for part in torch.split(latents, batch)]).cpu().numpy()
