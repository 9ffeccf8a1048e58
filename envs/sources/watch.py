"""Notices a simulator that draws nothing: black, blank or frozen frames."""

from __future__ import annotations

from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from worldsim.types import Frames

_WAY_OUT = (
    "check the renderer: SDL_VIDEODRIVER (unset, or 'dummy' for pygame), DISPLAY, the render_mode, "
    "MUJOCO_GL ('egl' or 'osmesa' without a screen, set before the import)"
)


class SourceFrameError(ValueError):
    """A source gives frames that show nothing; the message names the environment, the seed, the step, and what to check."""


class FrameWatch(gym.Wrapper[Frames, Any, Frames, Any]):
    """Passes everything on, and raises ``SourceFrameError`` once frames have shown nothing for too long.

    A frame is blank where its standard deviation is below ``least``. Frames are frozen where they stay equal to the last bit
    while actions differ. Runs go on over resets, so that short episodes hide nothing.
    """

    def __init__(self, env: gym.Env[Frames, Any], *, frozen_after: int = 100, blank_after: int = 10, least: float = 1.0) -> None:
        """Watch ``env``, whose observations are frames.

        Args:
            env: The source.
            frozen_after: Equal frames in a row, under changing actions, that are too many. Things may stand still for a while.
            blank_after: Blank frames in a row that are too many. A fade to black is fine.
            least: Standard deviation over a frame's values, in 0..255, below which it is blank.

        Raises:
            ValueError: A number of frames is below 1.
        """
        if frozen_after < 1 or blank_after < 1:
            raise ValueError(f"frozen_after={frozen_after} and blank_after={blank_after} must be 1 or more")
        super().__init__(env)
        self._frozen_after, self._blank_after, self._least = frozen_after, blank_after, least
        self._last: Frames | None = None
        self._first_action: Any = None
        self._varied = False
        self._frozen = self._blank = self._step = 0
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Reset the source and look at its first frame."""
        frame, info = self.env.reset(seed=seed, options=options)
        self._seed, self._step = seed, 0
        self._look(frame)
        return frame, info

    def step(self, action: Any) -> tuple[Frames, Any, bool, bool, dict[str, Any]]:
        """Step the source and look at the frame.

        Raises:
            SourceFrameError: Too many blank or frozen frames came in a row.
        """
        result = self.env.step(action)
        self._step += 1
        if self._frozen == 0:
            self._first_action, self._varied = action, False
        elif not self._varied:
            self._varied = not _same(action, self._first_action)
        self._look(result[0])
        return result

    def _look(self, frame: Frames) -> None:
        self._blank = self._blank + 1 if float(np.std(frame)) < self._least else 0
        if self._blank >= self._blank_after:
            self._fail(f"the last {self._blank} frames are blank (one colour, {np.asarray(frame).mean():.0f} of 255)")
        self._frozen = self._frozen + 1 if self._last is not None and np.array_equal(frame, self._last) else 0
        self._last = np.array(frame)
        if self._frozen >= self._frozen_after and self._varied:
            self._fail(f"{self._frozen} frames in a row are equal although actions differ")

    def _fail(self, what: str) -> NoReturn:
        name = self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__
        raise SourceFrameError(f"{name}, seed {self._seed}, step {self._step}: {what}; {_WAY_OUT}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return all(_same(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b))
