"""What the camera does to frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.scenario.director_random import stream
from worldsim.scenario.events import FrameEdit, Occlude
from worldsim.types import Frames


def edit_frame(frame: Frames, before: Frames | None, edit: FrameEdit, *, seed: int, step: int, name: str) -> Frames:
    """Return an edited copy of a frame.

    Args:
        frame: ``(H, W, 3)`` uint8.
        before: The frame that was shown a step before, edits and all; None at step 0.
        edit: What is done: dropped, brightened, noised and occluded, in this order.
        seed: Seed of the episode.
        step: Step that the frame belongs to.
        name: What the noise is drawn for.
    """
    made = np.array(before if edit.drop and before is not None else frame)
    if edit.brightness != 1 or edit.noise:
        light = made.astype(np.float32) * np.float32(edit.brightness)
        if edit.noise:
            noise = stream(seed, step, name).standard_normal(made.shape, dtype=np.float32)
            light = np.clip(light, 0, 255) + np.float32(255 * edit.noise) * noise  # a sensor that is full is full
        made = np.rint(np.clip(light, 0, 255)).astype(np.uint8)
    if edit.occlude is not None:
        _occlude(made, edit.occlude)
    return made


def _occlude(frame: NDArray[np.uint8], box: Occlude) -> None:
    height, width = frame.shape[:2]
    left, top, right, bottom = box.box
    rows = slice(min(round(top * height), height - 1), max(round(bottom * height), round(top * height) + 1))
    columns = slice(min(round(left * width), width - 1), max(round(right * width), round(left * width) + 1))
    frame[rows, columns] = round(255 * box.shade)
