"""OasisRollout: one episode in an Oasis world, a frame a step."""

from __future__ import annotations

from copy import copy
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.oasis.actions import check_row
from worldsim.oasis.prompt import check_prompt, encode
from worldsim.oasis.sampler import CONTEXT_STEP, ddim, ladder
from worldsim.oasis.streaming import conditions, draw_noise, empty_memory, imagine, keep, labels, remember
from worldsim.oasis.world import OasisWorld
from worldsim.tokenizer import to_uint8

Cache: TypeAlias = Literal["stream", "window", "off"]
CACHES: tuple[Cache, ...] = ("stream", "window", "off")


class OasisRollout:
    """Runs an Oasis world forward from a prompt.

    A new frame sees itself and the 31 frames before it. Those are labelled as slightly noisy (noise step 14) while no noise is added
    to them, and attention over time is causal: so their keys and values are the same in all denoising steps of the new frame. How
    far that is used is ``cache``:

    - ``"stream"``: each frame's keys and values are computed once, in a pass of its own after it is made, and kept until it leaves
      the window. A frame costs ``steps + 1`` passes of one frame. Up to the 32nd frame of an episode, prompt included, it equals
      the recomputed window (to rounding). From the 33rd on it does not: what is remembered of a frame was computed while frames
      were there that have left since, while recomputation forgets them in all layers at once. (In a model of one block it is equal
      for ever: its keys depend on their own frame alone.)
    - ``"window"``: the 31 frames' keys and values are computed anew for each new frame, then shared by its denoising steps. It
      equals the recomputed window always, for ``steps`` + 31 passes of one frame.
    - ``"off"``: the whole window in every denoising step, ``32 * steps`` passes of one frame: the published way, for comparison.

    Were noise drawn for the context anew in every step, none of this would hold; the published sampler draws none.

    Args:
        world: The model.
        frames: Prompt: ``(F, H, W, 3)`` uint8, or one frame ``(H, W, 3)``. The newest 31 are used.
        actions: ``(F - 1, 25)``, those between the frames; None for rest.
        seed: Where noise comes from, together with the frame's number; at least 0.
        steps: Denoising steps a frame, 1 to 1000; None for the world's own 10.
        cache: See above.

    Raises:
        ValueError: The prompt, an action, the seed or a number is not as said above.
    """

    def __init__(
        self,
        world: OasisWorld,
        frames: NDArray[np.uint8],
        *,
        actions: NDArray[Any] | None = None,
        seed: int = 0,
        steps: int | None = None,
        cache: Cache = "stream",
    ) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache={cache!r} is unknown: use one of {list(CACHES)}")
        if seed < 0:
            raise ValueError(f"seed={seed} must be 0 or more")
        self.world, self.seed, self.cache = world, seed, cache
        self.steps = world.spec.sampling.steps if steps is None else steps
        ladder(self.steps)  # refuses numbers out of range
        prompt = check_prompt(world, frames, actions)
        self.position = prompt.length
        self._latents, self._actions = encode(world, prompt)  # (1, P, C, h, w) and (1, P, A): the P <= 31 frames that the next one sees
        self._memory = None if cache == "off" else empty_memory(world)
        if self._memory is not None and cache == "stream":
            with torch.inference_mode():
                remember(world, self._memory, self._latents, self._actions)

    @property
    def latents(self) -> Tensor:
        """Latents ``(P, C, h, w)`` of the frames that the next one will see, the newest last."""
        return self._latents[0]

    def clone(self) -> OasisRollout:
        """Return a rollout that goes on from here by itself; both draw the same noise."""
        other = copy(self)
        other._memory = self._memory and self._memory.clone()
        return other

    def step(self, action: NDArray[Any]) -> NDArray[np.uint8]:
        """Make the next frame.

        Args:
            action: ``(25,)``, see ``worldsim.oasis.ACTIONS``.

        Returns:
            ``(H, W, 3)`` uint8.

        Raises:
            ValueError: The action is not in the action space, or the model gave NaN or infinity; the rollout stays where it was.
        """
        return self.decode(self.step_latents(action))

    @torch.inference_mode()
    def step_latents(self, action: NDArray[Any], *, noise: Tensor | None = None) -> Tensor:
        """Do as ``step``, without decoding.

        Args:
            action: ``(25,)``.
            noise: ``(C, h, w)`` to start from; None draws it from the seed and the frame's number.

        Returns:
            Latents ``(C, h, w)`` float32.
        """
        place = self.world.device
        row = torch.from_numpy(check_row(action))[None, None].to(place)  # (1, 1, A)
        drawn = draw_noise(self.world, self.seed, self.position) if noise is None else noise
        made = self._make(drawn[None, None].to(place, torch.float32), row)  # (1, 1, C, h, w)
        kept = self.world.spec.window - 1
        self._latents = torch.cat((self._latents, made), dim=1)[:, -kept:]  # (1, P, C, h, w)
        self._actions = torch.cat((self._actions, row), dim=1)[:, -kept:]  # (1, P, A)
        self.position += 1
        return made[0, 0]

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Turn latents ``(C, h, w)`` into a frame ``(H, W, 3)``."""
        frame: NDArray[np.uint8] = to_uint8(self.world.vae.decode(latents[None]).float()).cpu().numpy()[0]  # (H, W, 3)
        return frame

    def _make(self, noise: Tensor, row: Tensor) -> Tensor:
        """Turn noise ``(1, 1, C, h, w)`` into the next frame's latents, and remember it where frames are remembered."""
        if self._memory is None:
            return self._checked(self._recompute(noise, row))
        if self.cache == "window":
            remember(self.world, self._memory, self._latents, self._actions)
        told = conditions(self.world, row, steps=self.steps)
        made = self._checked(imagine(self.world, self._memory, noise, told, steps=self.steps))
        if self.cache == "stream":
            keep(self.world, self._memory, made, told, steps=self.steps)
        return made

    def _recompute(self, noise: Tensor, row: Tensor) -> Tensor:
        """Do as ``imagine``, with the whole window in every step."""
        actions = torch.cat((self._actions, row), dim=1)  # (1, P + 1, A)
        levels, past = ladder(self.steps), [CONTEXT_STEP] * self._latents.shape[1]

        def predict(x: Tensor, i: int) -> Tensor:
            window = torch.cat((self._latents, x), dim=1)  # (1, P + 1, C, h, w)
            v: Tensor = self.world.dit(window, labels(self.world, [*past, levels[i]]), actions)  # (1, P + 1, C, h, w)
            return v[:, -1:].float()

        return ddim(predict, noise, steps=self.steps)

    def _checked(self, made: Tensor) -> Tensor:
        if not torch.isfinite(made).all():
            raise ValueError(f"world {self.world.spec.name!r} gave values that are not finite at frame {self.position}: check its weights")
        return made
