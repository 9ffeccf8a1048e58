"""Meta-World as a source to record: one arm and five tasks in one world, drawn fast, with labelled state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.envs.sources.metaworld_scene import CLASSES, ManipulationScene, load
from worldsim.envs.sources.metaworld_tasks import TASKS, check_tasks, tell
from worldsim.types import Frames

_PHYSICS_FPS = 80  # five MuJoCo steps of 2.5 ms for each of Meta-World's
_LONGEST = 500  # Meta-World's own limit, in its steps


class MetaWorldSource(gym.Env[Frames, NDArray[np.float32]]):
    """Meta-World's Sawyer arm on a table, made for recording: every reset draws a task, and the places of object, goal and hand.

    One step is ``action_repeat`` steps of Meta-World, 1/80 s each, of which only the last is drawn; its reward is their mean, 0 to 10.
    An episode terminates when the task's own success has lasted for ``hold`` steps in a row, so that frames show it, and is
    truncated after ``max_steps``. Physics, rewards and success are the stock ones; the goal's marker is drawn larger, puck and drawer
    handle are yellow.

    Actions: ``Box(4)`` float32 in [-1, 1]: motion of the hand along x (right positive), y (away from the robot) and z (up), where 1 is
    1 cm in each of Meta-World's steps, and the gripper's effort (closing positive).
    Observations: frames ``(size, size, 3)`` uint8.
    ``info["state"]`` holds ``state_names`` in ``state_units``; ``task`` is the number of the task in
    ``worldsim.envs.sources.metaworld_tasks.TASKS``, ``object`` is the puck, or the handle or button to move.
    ``info["segmentation"]``, with ``labels``, is ``(size, size)`` uint8: numbers of the classes that ``metadata["labels"]`` names.
    ``info["conditioning"]`` of a reset holds ``tags``: the task (``"push"``) and coarse words for the place of its goal or object
    (``"left"``, ``"far"``, ``"high"``); ``numbers``: places of object and goal in 0..1; and ``text``: ``"push the puck to the left, far
    goal"``.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 40}
    state_units: ClassVar[dict[str, str]] = {
        **{f"gripper_{axis}": "m" for axis in "xyz"},
        "opening": "0 (closed) to 1 (open)",
        **{f"object_{axis}": "m" for axis in "xyz"},
        **{f"goal_{axis}": "m" for axis in "xyz"},
        "distance": "m from object to goal",
        "success": "0 or 1",
        "task": "number of the task",
    }
    state_names: ClassVar[tuple[str, ...]] = tuple(state_units)

    def __init__(
        self,
        size: int = 64,
        *,
        tasks: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        action_repeat: int = 2,
        max_steps: int = 120,
        hold: int = 8,
        spread: tuple[float, float, float] = (0.15, 0.06, 0.06),
        labels: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Build the source; a task's simulator is built at its first reset and kept.

        Args:
            size: Height and width of frames in pixels, 16 to 256.
            tasks: Tasks to draw from: push, pick-place, button-press, drawer-open, door-open; None for all.
            weights: How often each of ``tasks`` is drawn, relative to the others; None for equally often.
            action_repeat: Steps of Meta-World that one action is held for. With 2, the hand moves by up to 2 cm a frame, which is some
                two pixels of 64, and experts need 25 to 100 frames.
            max_steps: Steps after which an episode is truncated.
            hold: Steps in a row for which success lasts before an episode terminates.
            spread: Farthest distance [m] of the hand from its stock start along x, y and z.
            labels: Whether ``info["segmentation"]`` tells what each pixel shows.
            render_mode: ``rgb_array`` or None.

        Raises:
            ValueError: An argument is out of its range, Meta-World is not installed, or the machine has nothing to draw with.
        """
        if not 16 <= size <= 256:
            raise ValueError(f"size={size} is outside 16..256: take 64 or 128")
        if action_repeat < 1 or hold < 1:
            raise ValueError(f"action_repeat={action_repeat} and hold={hold} must be 1 or more")
        if not 1 <= max_steps * action_repeat <= _LONGEST:
            raise ValueError(f"max_steps={max_steps} of action_repeat={action_repeat} must be 1 to {_LONGEST} steps of Meta-World in all")
        if len(spread) != 3 or min(spread) < 0:
            raise ValueError(f"spread={tuple(spread)} must be three distances [m] of 0 or more, along x, y and z")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array' or None")
        self.tasks, self._shares = check_tasks(tasks, weights)
        load()
        self.size, self.action_repeat, self.max_steps, self.hold = size, action_repeat, max_steps, hold
        self.spread, self.labels, self.render_mode = (spread[0], spread[1], spread[2]), labels, render_mode
        self.metadata = {**self.metadata, "render_fps": _PHYSICS_FPS / action_repeat}
        if labels:
            self.metadata["labels"] = {"segmentation": CLASSES}
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.task = self.tasks[0]
        self._scenes: dict[str, ManipulationScene] = {}
        self._steps = self._held = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Draw a task, and the places of object, goal and hand.

        Args:
            seed: Settles all of them; None goes on with the stream of the last seed.
            options: ``{"task": "push"}`` takes this task.

        Raises:
            ValueError: The option names a task that is not among ``tasks``.
        """
        super().reset(seed=seed)
        drawn = self.tasks[int(self.np_random.choice(len(self.tasks), p=self._shares))]
        self.task = str((options or {}).get("task", drawn))
        if self.task not in self.tasks:
            raise ValueError(f"options: task {self.task!r} is none of {', '.join(self.tasks)}")
        if self.task not in self._scenes:
            self._scenes[self.task] = ManipulationScene(TASKS[self.task].id, self.size)
        self._steps = self._held = 0
        scene = self._scenes[self.task]
        seen = scene.reset(self.np_random, self.spread)
        conditioning = tell(self.task, seen[4:7], scene.goal)
        return scene.draw(), {"state": self._state(seen, success=0.0), **self._labels(), "conditioning": conditioning}

    def step(self, action: NDArray[np.float32]) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for ``action_repeat`` steps of Meta-World.

        Raises:
            ValueError: The action is outside the action space.
        """
        given = np.asarray(action, dtype=np.float32)
        if not self.action_space.contains(given):
            raise ValueError(f"action {action!r} is outside {self.action_space}: motion along x, y, z and the gripper's effort")
        scene = self._scenes[self.task]
        rewards, seen, info = [], np.zeros(0), {}
        for _ in range(self.action_repeat):
            seen, reward, _, _, info = scene.core.step(given.astype(np.float64))
            rewards.append(float(reward))
        success = float(info["success"])
        self._steps += 1
        self._held = self._held + 1 if success else 0
        terminated = self._held >= self.hold
        told = {"state": self._state(seen, success=success), **self._labels()}
        return scene.draw(), sum(rewards) / len(rewards), terminated, not terminated and self._steps >= self.max_steps, told

    def render(self) -> Frames | None:
        """Return the newest frame, or None without a render mode or before the first reset."""
        return None if self.render_mode is None or self.task not in self._scenes else self._scenes[self.task].draw()

    def close(self) -> None:
        """Free the renderers."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes = {}

    def _labels(self) -> dict[str, NDArray[np.uint8]]:
        return {"segmentation": self._scenes[self.task].draw_classes()} if self.labels else {}

    def _state(self, seen: NDArray[np.float64], *, success: float) -> dict[str, float]:
        goal = self._scenes[self.task].goal
        values = (*seen[:3], seen[3], *seen[4:7], *goal, np.linalg.norm(seen[4:7] - goal), success, list(TASKS).index(self.task))
        return {name: float(value) for name, value in zip(self.state_names, values, strict=True)}
