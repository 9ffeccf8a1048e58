"""The 25 numbers of an Oasis action: Minecraft's buttons and the camera, as a Gymnasium space."""

from __future__ import annotations

import difflib

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ACTIONS = (
    "inventory",
    "ESC",
    *(f"hotbar.{slot}" for slot in range(1, 10)),
    "forward",
    "back",
    "left",
    "right",
    "cameraX",
    "cameraY",
    "jump",
    "sneak",
    "sprint",
    "swapHands",
    "attack",
    "use",
    "pickItem",
    "drop",
)
"""Names of the 25 columns. Buttons in {0, 1}, but ``cameraX`` (pitch) and ``cameraY`` (yaw), which are in [-1, 1]; 1 is 20 degrees."""

CAMERA = slice(ACTIONS.index("cameraX"), ACTIONS.index("cameraY") + 1)
BUTTONS = tuple(name for name in ACTIONS if not name.startswith("camera"))


def action_space() -> spaces.Box:
    """Return ``Box (25,)`` float32 in the order of ``ACTIONS``: buttons in [0, 1], camera in [-1, 1].

    The model was trained on buttons of exactly 0 and 1. One flat Box holds them and the camera together, so that every RL library
    takes it; a sampled action presses buttons half.
    """
    low = np.zeros(len(ACTIONS), np.float32)
    low[CAMERA] = -1.0
    return spaces.Box(low, np.ones(len(ACTIONS), np.float32))


def action_row(*buttons: str, camera: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float32]:
    """Return the action ``(25,)`` that holds ``buttons`` down and turns the camera.

    Args:
        buttons: Names among ``ACTIONS``, such as ``"forward"`` and ``"jump"``.
        camera: Pitch and yaw, each in [-1, 1]; 1 is 20 degrees.

    Raises:
        ValueError: A button is unknown, or the camera is out of its range.
    """
    row = np.zeros(len(ACTIONS), np.float32)
    for name in buttons:
        if name not in BUTTONS:
            close = difflib.get_close_matches(name, BUTTONS, n=1)
            raise ValueError(f"button {name!r} is unknown: " + (f"did you mean {close[0]!r}?" if close else f"use one of {list(BUTTONS)}"))
        row[ACTIONS.index(name)] = 1.0
    row[CAMERA] = camera
    return check_row(row)


def check_row(action: object) -> NDArray[np.float32]:
    """Return ``action`` as a row ``(25,)`` float32.

    Raises:
        ValueError: It has another shape, or a number that is not finite or out of its range; names the column.
    """
    row = np.asarray(action, dtype=np.float32)
    if row.shape != (len(ACTIONS),):
        raise ValueError(f"an Oasis action has shape ({len(ACTIONS)},), got {row.shape}: see worldsim.oasis.ACTIONS for its columns")
    space = action_space()
    bad = ~((row >= space.low) & (row <= space.high))  # NaN is in no range
    if bad.any():
        column = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"action column {column} ({ACTIONS[column]}) is {row[column]}, outside [{space.low[column]:g}, {space.high[column]:g}]: clip it"
        )
    return row
