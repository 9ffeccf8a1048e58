"""One task of Meta-World with a renderer of its own: small, without shadows, from a camera near the gripper."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import os
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.types import Frames

CLASSES = ("background", "table", "robot", "object", "goal")
"""Names of the class numbers 0, 1, ...: floor and walls, the table, the arm with its hand, what is handled (with what it is fixed to),
and the marker of the goal."""
_BACKGROUND, _TABLE, _ROBOT, _OBJECT, _GOAL = range(len(CLASSES))
_SAMPLES = 2  # along each side of a pixel
_GOAL_RADIUS = 0.03  # metres: the stock marker of 0.02 is hardly two pixels
_PUCK_COLOR = (1.0, 0.8, 0.1, 1.0)  # the stock one is the arm's dark red
_HIDDEN_GROUP = 5
_UNSEEN = {"controller_box", "pedestal_feet", "torso", "pedestal", "right_arm_base_link", "right_l0", "head", "screen", "right_l1"}
_PACKAGES = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libgl1, or libosmesa6 and set MUJOCO_GL=osmesa"


def load() -> Any:
    """Import Meta-World and MuJoCo so that they draw without a screen; returns the module ``mujoco``.

    Sets the environment variable ``MUJOCO_GL`` where it is not set.

    Raises:
        ValueError: A package is not installed, or Linux has no library to draw with.
    """
    if missing := [name for name in ("metaworld", "mujoco", "packaging") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"Meta-World cannot be used without the packages {missing}: pip install 'worldsim-gym[metaworld]'")
    if sys.platform.startswith("linux") and not os.environ.get("MUJOCO_GL"):
        _choose_library()
    try:
        importlib.import_module("metaworld")
        return importlib.import_module("mujoco")
    except (ImportError, AttributeError, RuntimeError) as error:
        raise _cannot_draw(error) from error


def _choose_library() -> None:
    found = [name for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if ctypes.util.find_library(library)]
    if not found:
        raise ValueError(f"MuJoCo has no library to draw with, neither EGL nor OSMesa: {_PACKAGES}")
    os.environ["MUJOCO_GL"] = found[0]
    if (chosen := sys.modules.get("mujoco.gl_context")) is not None:
        importlib.reload(chosen)  # MuJoCo was imported before, and has chosen a screen


def _cannot_draw(error: Exception) -> ValueError:
    return ValueError(f"MuJoCo cannot draw with MUJOCO_GL={os.environ.get('MUJOCO_GL')} ({error}): {_PACKAGES}")


class ManipulationScene:
    """A task's simulator and what draws it; both are built once and kept.

    Attributes:
        core: Meta-World's own environment of the task.
    """

    def __init__(self, id: str, size: int) -> None:
        """Build the simulator of task ``id`` (``push-v3``), drawn in frames of ``size`` pixels.

        Raises:
            ValueError: The extra is not installed, or nothing can be drawn.
        """
        self._mujoco = load()
        environments = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS
        self.core: Any = environments[id]()
        self.core._set_task_called = True  # positions are drawn from the environment's stream, not from a list of tasks
        self.core._freeze_rand_vec, self.core.seeded_rand_vec = False, True
        self.core._partially_observable = False
        self.core.__dict__.pop("sawyer_observation_space", None)  # computed again, with the goal
        self.size = size
        self._hand = np.array(self.core.hand_init_pos, dtype=np.float64)
        _dress(self.core.model)
        kinds = self._mujoco.mjtObj
        self._classes = _classes(self.core.model, geoms=int(kinds.mjOBJ_GEOM), sites=int(kinds.mjOBJ_SITE))
        self._renderer = _renderer(self._mujoco, self.core.model, size * _SAMPLES)
        self._options, self._camera = self._mujoco.MjvOption(), self._mujoco.MjvCamera()
        self._options.geomgroup[:] = (1, 1, 1, 0, 0, 0)
        self._camera.type = self._mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.lookat[:] = (-0.04, 0.67, 0.15)
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 0.88, 140.0, -35.0
        self.close = weakref.finalize(self, self._renderer.close)  # before the interpreter's end takes the libraries away

    def reset(self, generator: np.random.Generator, spread: tuple[float, float, float]) -> NDArray[np.float64]:
        """Draw the places of object, goal and hand, and return the observation ``(39,)``.

        Args:
            generator: All draws come from it.
            spread: Farthest distance [m] of the hand from its stock start along x, y and z.
        """
        core = self.core
        start = self._hand + generator.uniform(-1, 1, size=3) * spread
        core.hand_init_pos = np.clip(start, core.hand_low, core.hand_high)
        core.np_random = generator
        core.reset()
        self._mujoco.mj_forward(core.model, core.data)
        seen: NDArray[np.float64] = core._get_curr_obs_combined_no_goal()
        core._prev_obs = seen
        return np.hstack((seen, seen, self.goal))

    @property
    def goal(self) -> NDArray[np.float64]:
        """Where the goal is, ``(3,)`` [m]."""
        return np.array(self.core._target_pos, dtype=np.float64)

    def draw(self) -> Frames:
        """Return the newest frame ``(size, size, 3)``, area averages of a picture of twice its size."""
        self._renderer.update_scene(self.core.data, self._camera, self._options)
        fine = self._renderer.render().reshape(self.size, _SAMPLES, self.size, _SAMPLES, 3)
        frame: Frames = ((fine.sum(axis=(1, 3), dtype=np.uint16) + _SAMPLES**2 // 2) // _SAMPLES**2).astype(np.uint8)
        return frame

    def draw_classes(self) -> NDArray[np.uint8]:
        """Return the class that covers most of each pixel of the newest frame, ``(size, size)``; the lower number in a tie."""
        self._renderer.enable_segmentation_rendering()
        try:
            self._renderer.update_scene(self.core.data, self._camera, self._options)
            drawn = self._renderer.render()  # (2 size, 2 size, 2): number and kind of what is drawn
        finally:
            self._renderer.disable_segmentation_rendering()
        fine = np.full(drawn.shape[:2], _BACKGROUND, dtype=np.uint8)
        for kind, classes in self._classes.items():
            there = drawn[..., 1] == kind
            fine[there] = classes[drawn[..., 0][there]]
        samples = fine.reshape(self.size, _SAMPLES, self.size, _SAMPLES)
        counts = np.stack([(samples == number).sum(axis=(1, 3)) for number in range(len(CLASSES))])  # (classes, size, size)
        most: NDArray[np.uint8] = counts.argmax(axis=0).astype(np.uint8)
        return most


def _renderer(mujoco: Any, model: Any, size: int) -> Any:
    model.vis.quality.offsamples = 0
    model.vis.global_.offwidth = model.vis.global_.offheight = size
    try:
        renderer = mujoco.Renderer(model, size, size)
    except Exception as error:  # drivers fail in many ways
        raise _cannot_draw(error) from error
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return renderer


def _dress(model: Any) -> None:
    """Let puck and goal be seen in few pixels, and leave out of the picture what no frame shows."""
    for site in range(model.nsite):
        if model.site(site).name == "goal":
            model.site_size[site] = _GOAL_RADIUS
            model.site_rgba[site, 3] = 1.0
    for geom in range(model.ngeom):
        if model.geom(geom).name == "objGeom":
            model.geom_matid[geom], model.geom_rgba[geom] = -1, _PUCK_COLOR
        if model.body(model.geom_bodyid[geom]).name in _UNSEEN:
            model.geom_group[geom] = _HIDDEN_GROUP


def _classes(model: Any, *, geoms: int, sites: int) -> dict[int, NDArray[np.uint8]]:
    """Return the class of every geom and of every site, by MuJoCo's number of the kind."""
    roots = {"world": _BACKGROUND, "RetainingWall": _BACKGROUND, "mocap": _BACKGROUND, "tablelink": _TABLE, "base": _ROBOT}
    body = [roots.get(model.body(model.body_rootid[number]).name, _OBJECT) for number in range(model.nbody)]
    names = [model.site(site).name for site in range(model.nsite)]
    marked = [_GOAL if name == "goal" else body[number] for name, number in zip(names, model.site_bodyid, strict=True)]
    return {geoms: np.array([body[number] for number in model.geom_bodyid], dtype=np.uint8), sites: np.array(marked, dtype=np.uint8)}
