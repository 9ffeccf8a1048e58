"""What each pixel of a CarRacing frame shows: drawn from the scene itself, never guessed from colours."""

from __future__ import annotations

import numpy as np
import pygame
from numpy.typing import NDArray
from pygame import gfxdraw

from worldsim.envs.sources.carracing_render import GRASS_PATCHES, HEIGHT, PANEL, PLAYFIELD, WIDTH, FastCarRacing

CLASSES = ("ground", "patch", "road", "kerb", "car", "panel", "outside")
"""Names of the class numbers 0, 1, ...: bare ground, darker patches on it, road, its striped edge in bends, the car with its wheels,
the instrument panel under the view, and what is beyond the playfield."""
_GROUND, _PATCH, _ROAD, _KERB, _CAR, _PANEL, _OUTSIDE = range(len(CLASSES))
_SAMPLES = 4  # along each side of a pixel


class ClassPainter:
    """Draws the scene of a ``FastCarRacing`` in class numbers.

    The simulator looks straight down on a plane, so there is no depth to tell.

    Args:
        core: The simulator.
        size: Height and width of the frames that it belongs to.
    """

    def __init__(self, core: FastCarRacing, size: int) -> None:
        self.core = core
        self._surface = pygame.Surface((WIDTH, HEIGHT), depth=8)
        self._surface.set_palette([(number,) * 3 for number in range(256)])
        own = (np.arange(size * _SAMPLES) + 0.5) / (size * _SAMPLES)
        self._rows, self._columns = (own * HEIGHT).astype(int), (own * WIDTH).astype(int)
        pixel = np.arange(size * _SAMPLES) // _SAMPLES
        self._first = (pixel[:, None] * size + pixel) * len(CLASSES)  # (size * 4, size * 4): the first count of each sample's pixel
        self.size = size

    def draw(self) -> NDArray[np.uint8]:
        """Return the class that covers most of each pixel of the newest frame, ``(size, size)``; the lower number in a tie."""
        zoom, offset, angle = self.core.camera()
        self._draw_ground(zoom, offset, angle)
        road = {id(tile.color) for tile in self.core.road}  # the road's polygons hold their tile's own colour, kerbs do not
        for index, corners in self.core.visible(zoom, offset, angle):
            number = index - GRASS_PATCHES
            what = _PATCH if number < 0 else _ROAD if id(self.core.road_poly[number][1]) in road else _KERB
            gfxdraw.filled_polygon(self._surface, corners, (what,) * 3)
        self._draw_car(zoom, offset, angle)
        drawn = np.asarray(pygame.surfarray.pixels2d(self._surface)).T[::-1]  # (H, W): the scene is drawn upside down
        samples = drawn[self._rows[:, None], self._columns]  # (size * 4, size * 4)
        samples[self._rows >= HEIGHT - PANEL] = _PANEL
        counts = np.bincount((self._first + samples).ravel(), minlength=self.size**2 * len(CLASSES))
        most: NDArray[np.uint8] = counts.reshape(self.size, self.size, -1).argmax(-1).astype(np.uint8)
        return most

    def _draw_ground(self, zoom: float, offset: tuple[float, float], angle: float) -> None:
        self._surface.fill((_OUTSIDE,) * 3)
        edge = PLAYFIELD
        self._fill(_GROUND, [(edge, edge), (edge, -edge), (-edge, -edge), (-edge, edge)], zoom, offset, angle)

    def _draw_car(self, zoom: float, offset: tuple[float, float], angle: float) -> None:
        for body in self.core.car.drawlist if self.core.car is not None else ():
            for fixture in body.fixtures:
                corners = [tuple(fixture.body.transform * corner) for corner in fixture.shape.vertices]
                self._fill(_CAR, corners, zoom, offset, angle)

    def _fill(self, what: int, corners: list[tuple[float, float]], zoom: float, offset: tuple[float, float], angle: float) -> None:
        """Fill a polygon whose corners are places in the world."""
        turned = [pygame.math.Vector2(corner).rotate_rad(angle) * zoom + offset for corner in corners]
        pygame.draw.polygon(self._surface, (what,) * 3, turned)
