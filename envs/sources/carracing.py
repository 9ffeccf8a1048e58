"""CarRacing as a source to record: drawn fast, started at speed anywhere on the lap, with labelled state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.envs.sources.carracing_colors import describe
from worldsim.envs.sources.carracing_grip import check_grip, draw_grip, set_grip, tell, track_curvature
from worldsim.envs.sources.carracing_labels import CLASSES, ClassPainter
from worldsim.envs.sources.carracing_render import FastCarRacing
from worldsim.envs.sources.carracing_track import CentreLine
from worldsim.types import Frames

_PHYSICS_FPS = 50
_ZOOMING = 50  # physics steps in which the stock camera still moves in
_AHEAD = (8.0, 22.0)  # units along the track to the near and the far point
_LAP_SHARE = 0.85  # share of tiles at which warming up stops, so that no episode starts at its end


class CarRacingSource(gym.Env[Frames, NDArray[np.float32]]):
    """Gymnasium's CarRacing with labels, made for recording.

    One step is ``action_repeat`` physics steps of 1/50 s, rewards summed, cut short by termination; only the last is drawn.
    Reset drives a drawn number of physics steps along the centre line, unseen: episodes start anywhere on the lap, at speed,
    and the camera's zoom of the first second is over. Track, colours and frames are the stock simulator's of the same seed.
    Termination is the stock one: lap finished, or playfield left. There is no time limit.

    Actions: ``Box(3)`` float32: steering in [-1, 1] (right positive), gas and brake in [0, 1].
    Observations: frames ``(size, size, 3)`` uint8.
    ``info["state"]`` holds ``state_names`` in ``state_units``; angles and offsets are positive to the left.
    ``info["segmentation"]``, with ``labels``, is ``(size, size)`` uint8: numbers of the classes that ``metadata["labels"]`` names. The
    view is from straight above, so there is no depth.
    ``info["conditioning"]`` of a reset holds ``tags``, ``numbers`` in 0..1, and ``text`` about the colours; with ``grip`` and
    ``curvature`` also the numbers of these names, the tags ``slippery`` (grip below 0.75) and ``winding`` (curvature above 0.0145), and
    the same words before the text: ``"winding, slippery blue road on green grass"``.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}
    state_units: ClassVar[dict[str, str]] = {
        "speed": "units/s",
        "yaw_rate": "rad/s",
        "offset": "units",
        "heading_error": "rad",
        "on_road": "0 or 1",
        "wheel_slip": "units/s",
        "path_angle_near": "rad",
        "path_angle_far": "rad",
    }
    state_names: ClassVar[tuple[str, ...]] = tuple(state_units)

    def __init__(
        self,
        size: int = 64,
        *,
        action_repeat: int = 2,
        domain_randomize: bool = True,
        warmup: tuple[int, int] = (50, 800),
        labels: bool = False,
        grip: float | Sequence[float] | None = None,
        curvature: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Build the source.

        Args:
            size: Height and width of frames in pixels, 16 to 512.
            action_repeat: Physics steps of 1/50 s that one action is held for.
            domain_randomize: Whether every reset has new colours.
            warmup: Fewest and most physics steps that are driven unseen at reset. At least 50 are always driven.
            labels: Whether ``info["segmentation"]`` tells what each pixel shows.
            grip: Factor of the force that tyres bear before they slide, on road and grass, 0.3 to 2: one for all episodes, or
                (lowest, highest), of which every reset draws one. Between 0.5 and 1.2 a careful driver mostly stays on the road.
                None leaves the tyres and what is told as they are.
            curvature: Whether the mean absolute curvature of the track [rad/unit] is told.
            render_mode: ``rgb_array`` or None.

        Raises:
            ValueError: An argument is out of its range.
        """
        if not 16 <= size <= 512:
            raise ValueError(f"size={size} is outside 16..512: take 64, 96 or 128")
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat} must be 1 or more")
        if not 0 <= warmup[0] <= warmup[1]:
            raise ValueError(f"warmup={tuple(warmup)} must be (fewest, most) physics steps with 0 <= fewest <= most")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array' or None")
        self.size, self.action_repeat, self.warmup = size, action_repeat, (int(warmup[0]), int(warmup[1]))
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": _PHYSICS_FPS / action_repeat}
        self.core = FastCarRacing(domain_randomize=domain_randomize)
        self.grip, self.curvature = check_grip(grip), curvature
        self._painter = ClassPainter(self.core, size) if labels else None
        if labels:
            self.metadata["labels"] = {"segmentation": CLASSES}
        self.action_space = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._line: CentreLine | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Build a track and its colours, and drive unseen to where the episode starts.

        Args:
            seed: Settles track, colours and starting place; None goes on with the stream of the last seed.
            options: ``{"randomize": False}`` keeps the colours of the episode before.
        """
        super().reset(seed=seed)
        self.core.np_random = self.np_random
        self.core.reset(options=options)
        self._line = CentreLine(self.core.track)
        grip = None if self.grip is None else draw_grip(self.grip, self.np_random)
        if grip is not None:
            set_grip(self.core.car, grip)
        self._warm_up(care=math.sqrt(min(1.0, grip or 1.0)))
        colors = describe(self.core.road_color, self.core.bg_color, self.core.grass_color)
        conditioning = tell(colors, grip=grip, curvature=track_curvature(self.core.track) if self.curvature else None)
        return self.core.draw(self.size), {"state": self._state(), **self._labels(), "conditioning": conditioning}

    def step(self, action: NDArray[np.float32]) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for ``action_repeat`` physics steps.

        Raises:
            ValueError: The action is outside the action space.
        """
        given = np.asarray(action, dtype=np.float32)
        if not self.action_space.contains(given):
            raise ValueError(f"action {action!r} is outside {self.action_space}: steering in [-1, 1], gas and brake in [0, 1]")
        info: dict[str, Any] = {}
        reward, terminated = 0.0, False
        for _ in range(self.action_repeat):
            _, gained, terminated, _, info = self.core.step(given)
            reward += float(gained)
            if terminated:
                break
        return self.core.draw(self.size), reward, bool(terminated), False, {**info, "state": self._state(), **self._labels()}

    def render(self) -> Frames | None:
        """Return the newest frame, or None without a render mode."""
        return None if self.render_mode is None else self.core.draw(self.size)

    def _warm_up(self, *, care: float = 1.0) -> None:
        """Drive along the centre line for a drawn time at a drawn speed, times ``care``, short of the lap's end."""
        steps = max(_ZOOMING, int(self.np_random.integers(self.warmup[0], self.warmup[1], endpoint=True)))
        speed = float(self.np_random.uniform(20, 65)) * care
        for step in range(steps):
            if step >= _ZOOMING and self.core.tile_visited_count > _LAP_SHARE * len(self.core.track):
                return
            state = self._state()
            corner = min(1.0, abs(state["path_angle_far"]) / 0.8)
            excess = state["speed"] - speed * (1 - 0.6 * corner)
            steer = np.clip(-1.6 * state["path_angle_near"] - 0.4 * state["path_angle_far"], -1, 1)
            _, _, terminated, _, _ = self.core.step(np.array([steer, np.clip(-0.1 * excess, 0, 0.5), np.clip(0.05 * excess, 0, 0.4)]))
            assert not terminated, "warming up stays on the track and short of the lap's end"

    def _labels(self) -> dict[str, NDArray[np.uint8]]:
        return {} if self._painter is None else {"segmentation": self._painter.draw()}

    def _state(self) -> dict[str, float]:
        car, line = self.core.car, self._line
        assert car is not None, "reset comes before step"
        assert line is not None, "reset comes before step"
        hull = car.hull
        place = line.place(hull.position[0], hull.position[1], hull.angle, _AHEAD)
        slips = [abs(wheel.GetWorldVector((1, 0)).dot(wheel.linearVelocity)) for wheel in car.wheels]
        return {
            "speed": math.hypot(*hull.linearVelocity),
            "yaw_rate": float(hull.angularVelocity),
            "offset": place.offset,
            "heading_error": place.heading_error,
            "on_road": float(sum(bool(wheel.tiles) for wheel in car.wheels) >= 2),
            "wheel_slip": float(sum(slips)) / len(slips),
            "path_angle_near": place.bearings[0],
            "path_angle_far": place.bearings[1],
        }
