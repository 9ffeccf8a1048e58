"""A window that shows frames to a person."""

from __future__ import annotations

import os
from typing import Any

from worldsim.types import Frames

SIDE = 512
"""Least height of the picture in pixels, as far as a whole factor allows."""


def open_display() -> None:
    """Make sure that a person can see a window.

    Raises:
        ValueError: There is no display, and ``SDL_VIDEODRIVER`` names none.
    """
    import pygame

    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
    except pygame.error as error:
        raise ValueError(f"no window can be opened here ({error}): run this where there is a display") from error
    if driver in ("offscreen", "dummy") and driver != os.environ.get("SDL_VIDEODRIVER"):
        raise ValueError("no window can be opened here: there is no display; run this on a desktop, or set DISPLAY")


class Window:
    """Shows frames, enlarged by a whole factor, no faster than ``fps``; it opens with the first frame.

    Args:
        title: What stands above it.
        fps: Frames a second.
    """

    def __init__(self, title: str, fps: float) -> None:
        self.title, self.fps = title, fps
        self._screen: Any = None
        self._clock: Any = None

    def show(self, frame: Frames) -> None:
        """Show a frame ``(H, W, 3)``.

        Raises:
            ValueError: No window can be opened here.
        """
        import pygame

        height, width = frame.shape[:2]
        factor = max(1, SIDE // height)
        if self._screen is None:
            try:
                pygame.display.init()
                self._screen = pygame.display.set_mode((width * factor, height * factor))
            except pygame.error as error:
                raise ValueError(f"no window can be opened here ({error}): use render_mode='rgb_array'") from error
            pygame.display.set_caption(self.title)
            self._clock = pygame.time.Clock()
        surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self._screen.blit(pygame.transform.scale(surface, self._screen.get_size()), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.fps)

    def close(self) -> None:
        """Close the window, if it is open."""
        if self._screen is not None:
            import pygame

            pygame.display.quit()
            self._screen = None
