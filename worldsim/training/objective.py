"""What the dynamics are trained for: the switches of the recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.diffusion import ramp_weight, velocity_weight


@dataclass(frozen=True)
class Objective:
    """What the dynamics are trained for.

    Attributes:
        forcing: Share of clips whose context frames have independent levels (diffusion forcing).
        lowest_context: Lowest context level of the other clips.
        from_noise: Share of target frames that start from pure noise.
        weight_floor: Weight of the loss at pure noise, relative to 1 at clean.
        skip: First frames of a clip that are context only.
        action_drop: Share of frames whose action is hidden.
        condition_drop: Share of tags, words and numbers that is hidden.
        condition_drop_all: Share of clips that are told nothing, beside those where that falls together; guidance needs some.
        context_loss: Weight of the context stream's own denoising.
        pixel_loss: Weight of the squared error of decoded frames, in [-1, 1]. In latents a blurred texture costs more than a road
            of the wrong colour; in pixels it is the other way round.
        pixel_frames: Frames of each clip that are decoded for it.
        latent_floor: Above 0, a frame's squared error e in latents counts as ``floor * log(1 + e / floor)``: what is far above the floor
            counts by its ratio, as in PSNR, so that a still or faint scene, whose errors are small, is not given up for a lively one.
        pixel_floor: The same for the squared error in pixels.
        reward_loss: Weight of the reward head.
        end_loss: Weight of the continue head.
        state_loss: Weight of the state head.
        shortcut: Share of clips trained to take larger sampling steps, from step ``shortcut_from``.
        shortcut_from: Optimiser step at which that begins.
        self_context: Share of clips whose context is the model's own estimate, from step ``self_from``.
        self_from: Optimiser step at which that begins.
        self_rounds: Rounds of such estimates, each built on the one before: the k-th frame after the first ones is then up to k
            imagined frames away from a real one.
        self_depth: Frames that such context may be away from a real one. Above ``self_rounds``, clips of the share go on where those of
            the step before ended, looking back at the network's own last frames. A run that was killed begins such clips anew, so it
            does not equal one that never was.
        unrolled: Above 0, such clips are made frame after frame instead, as in a rollout, and errors flow back through so many frames
            (backpropagation through time; weather models are trained so, GraphCast, Lam et al. 2023, section 4.5 of the supplement):
            what a frame does to those after it is learned too, not only what to make of a frame that is off.
        fading: Share of clips with real context whose context is faded, or in wrong colours, as after a long rollout; what frames should
            be like is then told by an anchor (``model.anchor``) alone; see ``worldsim.training.faded``.
        critic: Weight of the opinions of a critic of decoded frames, which is trained beside; see ``worldsim.training.critic``.
        nats: Above 0, frames are made of noise that tells so many nats, on average, of what cannot be foreseen, and rollouts choose one of
            many futures by it instead of their mean; see ``worldsim.training.posterior``. What draws that noise stays with the training
            state: training that goes on from a world begins with another.
        sink: First frames of a clip that all others see whatever the window, for rollouts with attention sinks.
        loss_space: What squared errors of latents are taken of: ``clean`` latents, or ``velocity``, which weighs them by
            ``1 / (1 - level) ** 2``, at most 100 (Dreamer 4, Hafner et al. 2025, table 2, has both). At pure noise the two are the same.
    """

    forcing: float = 0.5
    lowest_context: float = 0.6
    from_noise: float = 0.3
    weight_floor: float = 1.0
    skip: int = 2
    action_drop: float = 0.1
    condition_drop: float = 0.15
    condition_drop_all: float = 0.0
    context_loss: float = 0.5
    pixel_loss: float = 0.0
    pixel_frames: int = 2
    latent_floor: float = 0.0
    pixel_floor: float = 0.0
    reward_loss: float = 0.05
    end_loss: float = 0.05
    state_loss: float = 0.1
    shortcut: float = 0.0
    shortcut_from: int = 0
    self_context: float = 0.0
    self_from: int = 0
    self_rounds: int = 3
    self_depth: int = 0
    unrolled: int = 0
    fading: float = 0.0
    critic: float = 0.0
    nats: float = 0.0
    sink: int = 0
    loss_space: str = "clean"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained for."""
        if self.critic and not self.pixel_loss:
            raise ValueError(f"objective.critic={self.critic} looks at decoded frames: set objective.pixel_loss above 0")
        if not 0 <= self.fading <= 1:
            raise ValueError(f"objective.fading={self.fading} must be a share of clips between 0 and 1")
        if self.unrolled < 0 or (self.unrolled and (self.nats or self.sink)):
            raise ValueError(f"objective.unrolled={self.unrolled} must be a number of frames, or 0; with nats or sink it must be 0")
        if not 0 <= self.nats < math.inf:
            raise ValueError(f"objective.nats={self.nats} must be 0, which turns it off, or more")
        if self.loss_space not in ("clean", "velocity"):
            raise ValueError(f"objective.loss_space={self.loss_space!r} is unknown: use clean or velocity")

    def weight(self, level: Tensor) -> Tensor:
        """Weight of the squared error in clean latents at each signal level; the shape stays."""
        weight = ramp_weight(level, self.weight_floor)
        return weight if self.loss_space == "clean" else weight * velocity_weight(level, cap=100.0)


def by_ratio(error: Tensor, floor: float) -> Tensor:
    """Return ``floor * log(1 + error / floor)``, or the error itself at floor 0: linear below the floor, logarithmic above."""
    return floor * torch.log1p(error / floor) if floor else error
