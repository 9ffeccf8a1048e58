"""``WorldSim-v0``: a learned world as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from worldsim.envs.actions import row_maker
from worldsim.envs.keys import keys_to_action
from worldsim.envs.rows import NOT_FINITE, Rows, to_host
from worldsim.envs.snapshot import WorldSnapshot, as_snapshot
from worldsim.envs.start import as_conditioning
from worldsim.envs.window import Window
from worldsim.episode import Conditioning
from worldsim.spaces import feature_maker
from worldsim.types import Frames


class WorldSimEnv(gym.Env[NDArray[Any], Any], EzPickle):
    """One episode at a time in a learned world.

    Observations: frames ``(H, W, 3)`` uint8, or latents ``(C, h, w)`` float32; the first is the last frame of the start context.
    Actions: the action space of the simulator that the world was learned from.
    Reward: what the world expects the simulator would give, inside the range of its training data.

    ``terminated`` is True where the world gives the end of the episode a probability above one half. ``truncated`` is True at
    the horizon, and where the model breaks down (NaN): ``info["truncation_reason"]`` then says so, and the last good frame is
    given again. ``info["state"]`` holds the labelled state as floats; the info of a reset also holds ``"conditioning"``
    (``tags``, ``numbers``, ``text``) and the name of the start ``"context"``.

    Weights are loaded once a process, however many environments there are. The same seed gives the same episode.

    Args:
        world: Name of a shipped world, folder, or Hub repository.
        render_mode: ``rgb_array``, ``human`` (a window) or None.
        horizon: Most steps of an episode; None for no limit.
        device: Where the world runs, as ``cpu`` or ``cuda``.
        steps: Denoising steps a frame; None for the world's own number. More is slower and can be sharper.
        guidance: How much what the world is told is stressed: 1 not at all, more at up to twice the cost of a frame; None for the
            world's own.
        context: Where episodes start unless a reset says otherwise; see ``reset``. None draws one of the world's own.
        conditioning: What the world is told unless a reset says otherwise; None leaves the context's own.
        observation: ``frame`` or ``latent``; latents cost no decoding, and ``render`` still shows frames.
        latents: Whether ``info["latent"]`` holds, beside the frame, what it was decoded from; at a start, the frame encoded.
        labels: Whether ``info["segmentation"]`` holds what each pixel shows, ``(H, W)`` uint8: numbers of the classes that
            ``metadata["labels"]["segmentation"]`` names. The world tells it from latents; not every world was taught to.
        precision: ``fp32``, or ``bf16`` for networks that are faster where the processor has it, and a little less exact.
        compile: Compile the dynamics: up to a minute at the first step, then the same but for rounding; measure whether it pays.

    Raises:
        ValueError: The world cannot be loaded, or an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 25}

    def __init__(
        self,
        world: str = "carracing-nano",
        *,
        render_mode: str | None = None,
        horizon: int | None = 1000,
        device: str | None = "cpu",
        steps: int | None = None,
        guidance: float | None = None,
        context: Any = None,
        conditioning: Mapping[str, Any] | None = None,
        observation: str = "frame",
        latents: bool = False,
        labels: bool = False,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        given: dict[str, Any] = {
            "horizon": horizon,
            "device": device,
            "steps": steps,
            "guidance": guidance,
            "context": context,
            "conditioning": conditioning,
            "observation": observation,
            "latents": latents,
            "labels": labels,
            "precision": precision,
            "compile": compile,
        }
        EzPickle.__init__(self, world, render_mode=render_mode, **given)
        if render_mode not in (None, "rgb_array", "human"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array', 'human' or None")
        self.rows = Rows(world, count=1, **given)
        self.render_mode, self.metadata = render_mode, self.rows.metadata()
        self.world_spec = self.rows.spec
        self.action_space = deepcopy(self.world_spec.action_space)  # its own randomness
        self._row, self._features = row_maker(self.action_space), feature_maker(self.action_space)
        self.observation_space = self.rows.space
        self._window = Window(self.world_spec.name, self.rows.fps) if render_mode == "human" else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Settles the start and all noise; None goes on with the stream of the last seed.
            options: ``{"context": ..., "conditioning": ...}``, both optional. A context is the index of one of the world's own,
                ``{"frames": array (F, H, W, 3) or image file, "actions": ...}``, or
                ``{"dataset": path, "episode": i, "start": t}``; ``"resize": True`` in it makes other sizes fit. Conditioning
                ``{"tags": [...], "numbers": {...}, "text": "..."}`` takes the place of the context's own.

        Raises:
            ValueError: An option is unknown, or what it names is not there or does not fit the world.
        """
        super().reset(seed=seed)
        (info,) = self.rows.reset([0], [self.np_random], [options])
        self._show()
        return to_host(self.rows.observations[0]), info | self._beside()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Move one frame on.

        Raises:
            ValueError: The action is outside the action space.
            ResetNeeded: There is no episode, or it is over.
        """
        if self.rows.over[0]:
            raise ResetNeeded("there is no running episode: call reset() first, and again whenever one has terminated or is truncated")
        out = self.rows.step(torch.from_numpy(self._features(self._row(action)[None])))
        self._show()
        info: dict[str, Any] = {"state": self.rows.labelled(out.read[0][1:]), **self._beside()}
        if not out.finite[0]:
            info["truncation_reason"] = NOT_FINITE
        return to_host(out.observations)[0], out.read[0][0], bool(out.terminated[0]), bool(out.truncated[0]), info

    def render(self) -> Frames | None:
        """Return the newest frame with ``render_mode="rgb_array"``; show it with ``"human"``."""
        self._show()
        return to_host(self.rows.frames()[0]) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window, if there is one; harmless when done twice."""
        if self._window is not None:
            self._window.close()

    def set_conditioning(self, conditioning: Conditioning | Mapping[str, Any]) -> None:
        """Tell the world something else from the next step on; frames that it remembers stay as they are.

        Args:
            conditioning: In place of all that it was told before; a mapping as in a reset's options.

        Raises:
            ValueError: There is no running episode, or the world does not know a tag or number; nothing has changed then.
        """
        self.rows.tell([0], [as_conditioning(conditioning)])

    def clone_state(self, *, include_rng: bool = True) -> WorldSnapshot:
        """Return a snapshot of the episode, a value that nothing changes any more. Wrappers keep their own counts.

        Args:
            include_rng: Whether later starts are to be drawn as they will be here. The running episode never depends on it.

        Raises:
            ValueError: There was no reset yet.
        """
        return self.rows.clone([0], include_rng=include_rng)

    def restore_state(self, snapshot: WorldSnapshot | bytes) -> NDArray[Any]:
        """Go on from a snapshot, bit-equal, and return its observation.

        Args:
            snapshot: What ``clone_state`` gave here or in the batched environment (of one row), or its ``to_bytes()``.

        Raises:
            ValueError: The snapshot is of another checkpoint, kind of observation, or of several rows.
        """
        self.rows.restore(as_snapshot(snapshot, self.rows.model), [0])
        self._np_random = self.rows.generators[0]
        self._show()
        return to_host(self.rows.observations[0])

    def get_keys_to_action(self) -> dict[tuple[int, ...], Any]:
        """Return actions by the keys held down, for ``gymnasium.utils.play``.

        Raises:
            ValueError: The world names no keys.
        """
        return keys_to_action(self.world_spec)

    def get_action_meanings(self) -> list[str]:
        """Return a name for each action of a Discrete space: its keys where the world names them, else its number.

        Raises:
            ValueError: The action space is not Discrete.
        """
        space = self.action_space
        if not isinstance(space, spaces.Discrete):
            raise ValueError(f"actions of {space} have no names: only those of a Discrete space do")
        names = {int(value): str(name).upper() for name, value in self.world_spec.keys.items()}
        return [names.get(number, f"ACTION {number}") for number in range(int(space.start), int(space.start + space.n))]

    def _beside(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self.rows.beside().items()}

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(to_host(self.rows.frames()[0]))
