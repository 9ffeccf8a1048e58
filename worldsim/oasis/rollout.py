"""OasisRollout: one episode in an Oasis world, a frame a step."""

from __future__ import annotations

from copy import copy
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.contexts import Context
from worldsim.oasis.actions import ACTIONS, check_row
from worldsim.oasis.dit import Modulation
from worldsim.oasis.memory import Memory
from worldsim.oasis.sampler import CONTEXT_STEP, ddim, ladder
from worldsim.oasis.world import OasisWorld
from worldsim.tokenizer import to_model, to_uint8

Cache: TypeAlias = Literal["stream", "window", "off"]
CACHES: tuple[Cache, ...] = ("stream", "window", "off")


class _Prompt(NamedTuple):
    """A checked prompt: the frames kept, the action that led to each (rest before the first of all), and how many were given."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    length: int


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
        self._levels = ladder(self.steps)
        prompt = _prompt(world, frames, actions)
        self.position = prompt.length
        self._latents, self._actions = self._encode(prompt)  # (1, P, C, h, w) and (1, P, A): the P <= 31 frames that the next one sees
        self._memory = None if cache == "off" else self._empty()
        if cache == "stream":
            self._fill()

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
        row = torch.from_numpy(check_row(action))[None, None].to(self.world.device)  # (1, 1, A)
        start = (self._noise() if noise is None else noise)[None, None].to(self.world.device, torch.float32)  # (1, 1, C, h, w)
        conditions = self._modulation([*self._levels, CONTEXT_STEP], row.expand(1, self.steps + 1, -1))
        made = self._sample(start, row, conditions)  # (1, 1, C, h, w)
        if not torch.isfinite(made).all():
            raise ValueError(f"world {self.world.spec.name!r} gave values that are not finite at frame {self.position}: check its weights")
        if self.cache == "stream":
            self._run(made, conditions.frame(self.steps), keys_only=True)
            self._advance(1)
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

    def _sample(self, start: Tensor, row: Tensor, conditions: Modulation) -> Tensor:
        """Denoise ``(1, 1, C, h, w)`` by the ladder's steps, of which ``conditions`` has one frame each."""
        if self.cache == "off":
            actions = torch.cat((self._actions, row), dim=1)  # (1, P + 1, A)

            def whole(x: Tensor, i: int) -> Tensor:
                steps = self._labels([CONTEXT_STEP] * self._latents.shape[1] + [self._levels[i]])  # (1, P + 1)
                v: Tensor = self.world.dit(torch.cat((self._latents, x), dim=1), steps, actions)  # (1, P + 1, C, h, w)
                return v[:, -1:].float()

            return ddim(whole, start, steps=self.steps)
        if self.cache == "window":
            self._fill()

        def one(x: Tensor, i: int) -> Tensor:
            v = self._run(x, conditions.frame(i))
            assert v is not None, "only a pass for keys gives none"
            return v.float()

        return ddim(one, start, steps=self.steps)

    @torch.inference_mode()
    def _fill(self) -> None:
        """Let the memory hold the frames that the next one sees, and nothing else."""
        assert self._memory is not None, "there is a memory unless the cache is off"
        self._memory.clear()
        frames = self._latents.shape[1]
        self._run(self._latents, self._modulation([CONTEXT_STEP] * frames, self._actions), keys_only=True)
        self._advance(frames)

    def _run(self, latents: Tensor, modulation: Modulation, *, keys_only: bool = False) -> Tensor | None:
        return self.world.dit.run(latents, modulation, self._memory, keys_only=keys_only)

    def _advance(self, frames: int) -> None:
        assert self._memory is not None, "there is a memory unless the cache is off"
        self._memory.advance(frames)

    def _modulation(self, steps: list[int], actions: Tensor) -> Modulation:
        return self.world.dit.modulation(self._labels(steps), actions)

    def _labels(self, steps: list[int]) -> Tensor:
        return torch.tensor([steps], device=self.world.device)  # (1, T)

    def _noise(self) -> Tensor:
        """Draw the noise ``(C, h, w)`` of the next frame, from seed and frame number alone."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, self.position], dtype=np.uint64)))
        return torch.from_numpy(generator.standard_normal(self.world.vae.latent_shape, dtype=np.float32))

    @torch.inference_mode()
    def _encode(self, prompt: _Prompt) -> tuple[Tensor, Tensor]:
        """Return latents ``(1, F, C, h, w)``, and actions ``(1, F, A)`` that led to each frame."""
        place, vae = self.world.device, self.world.vae
        latents = torch.cat([vae.encode(to_model(torch.tensor(frame[None])).to(place)) for frame in prompt.frames])  # (F, C, h, w)
        return latents[None].float(), torch.from_numpy(prompt.actions)[None].to(place)

    def _empty(self) -> Memory:
        dit, (_, height, width) = self.world.dit, self.world.vae.latent_shape
        return Memory.empty(
            depth=len(dit.blocks),
            rows=1,
            tokens=(height // dit.patch) * (width // dit.patch),
            heads=dit.heads,
            window=self.world.spec.window,
            head_dim=dit.width // dit.heads,
            device=dit.device,
            dtype=dit.dtype,
        )


def _prompt(world: OasisWorld, frames: NDArray[np.uint8], actions: NDArray[Any] | None) -> _Prompt:
    """Check a prompt and keep the newest frames that a new one sees."""
    shown = np.asarray(frames)
    shown = shown[None] if shown.ndim == 3 else shown
    rest = np.zeros((1, len(ACTIONS)), np.float32)
    between = rest.repeat(max(0, len(shown) - 1), axis=0) if actions is None else [check_row(row) for row in actions]
    context = Context(shown, np.asarray(between, np.float32).reshape(-1, len(ACTIONS)))
    size, wanted = shown.shape[1:3], tuple(world.spec.frame_size)
    if size != wanted:
        raise ValueError(
            f"prompt has frames of {size[0]}x{size[1]}, world {world.spec.name!r} makes {wanted[0]}x{wanted[1]}: resize them first"
        )
    kept = world.spec.window - 1
    return _Prompt(context.frames[-kept:], np.concatenate((rest, context.actions))[-kept:], len(shown))
