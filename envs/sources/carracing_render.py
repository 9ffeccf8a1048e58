"""CarRacing that draws only when asked: the same pixels as Gymnasium's renderer at a fraction of its time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pygame
from numpy.typing import NDArray
from pygame import gfxdraw

from worldsim.types import Frames

with warnings.catch_warnings():  # SWIG's types, as Box2D is built with, have no module on Python 3.11
    warnings.filterwarnings("ignore", message="builtin type .* has no __module__ attribute", category=DeprecationWarning)
    from gymnasium.envs.box2d import car_racing as stock

WIDTH, HEIGHT = stock.WINDOW_W, stock.WINDOW_H
PLAYFIELD: float = stock.PLAYFIELD
PANEL = HEIGHT // 8  # rows under the instrument panel: what is drawn there is painted over
_MARGIN = 3  # pixels that a polygon's smoothed outline may reach beyond its corners
_REACH = math.hypot(WIDTH / 2, HEIGHT * 3 / 4)  # pixels from the car to the farthest corner of the window


def _grass_patches() -> NDArray[np.float64]:
    side = stock.GRASS_DIM
    corners = np.array([(side, 0.0), (0.0, 0.0), (0.0, side), (side, side)])
    origins = np.array([(side * x, side * y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)])
    patches: NDArray[np.float64] = origins[:, None] + corners  # (patches, 4, 2)
    return patches


_GRASS = _grass_patches()
GRASS_PATCHES = len(_GRASS)
"""Polygons of ``visible`` with lower numbers are grass patches; the others are those of ``road_poly`` from there on."""


class Canvas:
    """A surface of the simulator's window size, and its pixels ``(H, W, 4)`` in the same memory."""

    def __init__(self, width: int, height: int) -> None:
        """Make a black canvas of ``width`` x ``height`` pixels."""
        self.pixels: NDArray[np.uint8] = np.zeros((height, width, 4), dtype=np.uint8)
        self.surface = pygame.image.frombuffer(self.pixels.data, (width, height), "RGBX")


class FastCarRacing(stock.CarRacing):
    """Gymnasium's CarRacing whose steps draw nothing; ``draw`` gives the frame that the stock step would have returned."""

    surf: Any
    road: Any

    def __init__(self, *, domain_randomize: bool) -> None:
        """Build the simulator; ``domain_randomize`` gives every reset its own colours."""
        super().__init__(domain_randomize=domain_randomize)
        self._canvas, self._front = Canvas(WIDTH, HEIGHT), Canvas(WIDTH, HEIGHT)
        self._scaled: dict[int, tuple[Canvas, Canvas]] = {}
        self._shown_reward = 0.0
        self._polygons, self._centres = _GRASS, _GRASS.mean(axis=1)
        pygame.font.init()
        self._font = pygame.font.Font(pygame.font.get_default_font(), 42)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Build a new track and put the car on its start."""
        super().reset(seed=seed, options=options)
        self._polygons = np.concatenate([_GRASS, np.array([corners for corners, _ in self.road_poly])])
        self._centres = self._polygons.mean(axis=1)
        return None, {}

    def _render(self, mode: str) -> None:
        """Draw nothing, keep what only this moment knows: the stock frame shows the reward before the step's cost."""
        self._shown_reward = self.reward

    def draw(self, size: int) -> Frames:
        """Return the newest frame, ``(size, size, 3)`` uint8 in memory of its own."""
        assert self.car is not None, "reset comes before draw"
        zoom, offset, angle = self.camera()
        self.surf = self._canvas.surface
        self._render_road(zoom, offset, angle)
        self.car.draw(self.surf, zoom, offset, angle, False)  # type: ignore[no-untyped-call]
        self.surf = self._front.surface
        self._render_indicators(WIDTH, HEIGHT)  # type: ignore[no-untyped-call]
        text = self._font.render(f"{self._shown_reward:04.0f}", True, (255, 255, 255), (0, 0, 0))
        self.surf.blit(text, text.get_rect(center=(60, HEIGHT - HEIGHT * 2.5 / 40.0)))
        return self._shrink(size)

    def camera(self) -> tuple[float, tuple[float, float], float]:
        """Return how the world lies in the window, seen upside down: pixels a unit, then the shift [pixels] after the turn [rad]."""
        assert self.car is not None, "reset comes before draw"
        angle = -self.car.hull.angle
        zoom = 0.1 * stock.SCALE * max(1 - self.t, 0) + stock.ZOOM * stock.SCALE * min(self.t, 1)
        x, y = self.car.hull.position
        scroll = pygame.math.Vector2((-x * zoom, -y * zoom)).rotate_rad(angle)
        return zoom, (WIDTH / 2 + scroll[0], HEIGHT / 4 + scroll[1]), angle

    def _shrink(self, size: int) -> Frames:
        """Scale to ``size`` x ``size`` as one smoothscale of the turned window would: columns, turn, then rows."""
        if size not in self._scaled:
            self._scaled[size] = Canvas(size, HEIGHT), Canvas(size, size)
        narrow, square = self._scaled[size]
        view, panel = (0, PANEL, WIDTH, HEIGHT - PANEL), (0, HEIGHT - PANEL, WIDTH, PANEL)
        for source, area in ((self._canvas, view), (self._front, panel)):
            part = source.surface.subsurface(area)
            pygame.transform.smoothscale(part, (size, area[3]), narrow.surface.subsurface((0, area[1], size, area[3])))
            if source is self._canvas:  # both stand upright from here: the view above, the panel below
                narrow.pixels[: HEIGHT - PANEL] = narrow.pixels[: PANEL - 1 : -1].copy()
        pygame.transform.smoothscale(narrow.surface, (size, size), square.surface)
        return square.pixels[..., :3].copy()

    def _render_road(self, zoom: float, translation: tuple[float, float], angle: float) -> None:
        """Draw ground, grass and road in the stock order, leaving out polygons that touch no visible pixel."""
        surface = self._canvas.surface
        self._draw_ground(zoom, translation, angle)
        grass = [int(c) for c in self.grass_color]
        for index, corners in self.visible(zoom, translation, angle):
            color = grass if index < len(_GRASS) else [int(c) for c in self.road_poly[index - len(_GRASS)][1]]
            gfxdraw.aapolygon(surface, corners, color)
            gfxdraw.filled_polygon(surface, corners, color)

    def visible(self, zoom: float, translation: tuple[float, float], angle: float) -> Iterator[tuple[int, list[list[int]]]]:
        """Yield the polygons in sight in the stock order: grass patches, then those of the road; number and corners [pixels]."""
        assert self.car is not None, "reset comes before draw"
        cos, sin = pygame.math.Vector2(1, 0).rotate_rad(angle)
        near = np.flatnonzero(np.abs(self._centres - np.asarray(self.car.hull.position)).max(axis=1) < _REACH / zoom + stock.GRASS_DIM)
        x, y = self._polygons[near, :, 0], self._polygons[near, :, 1]
        places = np.stack(((cos * x - sin * y) * zoom + translation[0], (sin * x + cos * y) * zoom + translation[1]), axis=-1)
        low, high = places.min(axis=1), places.max(axis=1)
        seen = (high > (-_MARGIN, PANEL - _MARGIN)).all(axis=1) & (low < (WIDTH + _MARGIN, HEIGHT + _MARGIN)).all(axis=1)
        yield from zip(near[seen].tolist(), places[seen].astype(np.int64).tolist(), strict=True)

    def _draw_ground(self, zoom: float, translation: tuple[float, float], angle: float) -> None:
        """Fill the canvas with the ground, or draw the playfield's square where its edge may be in sight."""
        assert self.car is not None, "reset comes before draw"
        color = [int(c) for c in self.bg_color]
        if max(abs(self.car.hull.position[0]), abs(self.car.hull.position[1])) + _REACH / zoom < stock.PLAYFIELD:
            self._canvas.surface.fill(color)
            return
        self._canvas.surface.fill((0, 0, 0))
        edge = stock.PLAYFIELD
        field = [(edge, edge), (edge, -edge), (-edge, -edge), (-edge, edge)]
        self.surf = self._canvas.surface
        self._draw_colored_polygon(self.surf, field, color, zoom, translation, angle, clip=False)  # type: ignore[no-untyped-call]
