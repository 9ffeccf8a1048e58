"""What a step of a rollout gives, on the world's device or on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIXELS, END, REWARD, STATE = range(4)
"""Columns of ``TensorStep.readout``; those of the labelled state begin at ``STATE``, and the last one is the uncertainty."""


@dataclass(frozen=True)
class Step:
    """What a step of B rows gives.

    Attributes:
        frames: ``(B, H, W, 3)`` uint8; ``(B, 0, 0, 3)`` where they were not asked for.
        latents: ``(B, C, h, w)`` float32, on the world's device.
        reward: ``(B,)`` float32, expected reward, inside the range seen in training.
        end: ``(B,)`` float32, probability that the episode ended with this step.
        state: ``(B, S)`` float32, labelled state in physical units.
        finite: ``(B,)`` bool, False where the model gave NaN or infinity.
        hidden: ``(B, N, D)``, on the world's device: last tokens, for heads of one's own.
        uncertainty: ``(B,)`` float32, probability in 0..1 that the frame's error is high (``ErrorHead.chance``); NaN without that head.
    """

    frames: NDArray[np.uint8]
    latents: Tensor
    reward: NDArray[np.float32]
    end: NDArray[np.float32]
    state: NDArray[np.float32]
    finite: NDArray[np.bool_]
    hidden: Tensor
    uncertainty: NDArray[np.float32]


@dataclass(frozen=True)
class TensorStep:
    """What a step of B rows gives, on the world's device.

    Attributes:
        frames: ``(B, H, W, 3)`` uint8; ``(B, 0, 0, 3)`` where they were not asked for.
        latents: ``(B, C, h, w)`` float32.
        hidden: ``(B, N, D)``: last tokens, for heads of one's own.
        readout: ``(B, 4 + S)`` float32, all numbers of a row side by side, so that one copy brings them to the host: the sum of the frame
            as the decoder made it, 0 without, the logit of ``end``, ``reward``, ``state`` and ``uncertainty``.
    """

    frames: Tensor
    latents: Tensor
    hidden: Tensor
    readout: Tensor

    @property
    def finite(self) -> Tensor:
        """``(B,)`` bool, False where the model gave NaN or infinity."""
        return torch.isfinite(self.readout[:, :-1]).all(1)

    @property
    def end(self) -> Tensor:
        """``(B,)``, probability that the episode ended with this step."""
        return self.readout[:, END].sigmoid()

    @property
    def reward(self) -> Tensor:
        """``(B,)``, expected reward, inside the range seen in training."""
        return self.readout[:, REWARD]

    @property
    def state(self) -> Tensor:
        """``(B, S)``, labelled state in physical units."""
        return self.readout[:, STATE:-1]

    @property
    def uncertainty(self) -> Tensor:
        """``(B,)``, probability in 0..1 that the frame's error is high (``ErrorHead.chance``); NaN without that head."""
        return self.readout[:, -1]

    def numpy(self) -> Step:
        """Bring it to the host."""
        end, read = self.end.cpu().numpy(), self.readout.cpu().numpy()  # (B,), (B, 4 + S)
        return Step(
            frames=self.frames.cpu().numpy(),
            latents=self.latents,
            reward=read[:, REWARD],
            end=end,
            state=read[:, STATE:-1],
            finite=np.isfinite(read[:, :-1]).all(1),
            hidden=self.hidden,
            uncertainty=read[:, -1],
        )
