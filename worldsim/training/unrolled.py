"""Rollouts that errors flow back through: frame after frame, as a simulator makes them in one step from noise."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.clips import Clip
from worldsim.dit import FrameInputs, FrameOutputs, VideoDiT
from worldsim.windows import stack_history, training_mask


class _Memory:
    """Frames so far, and the keys and values of the last ``window`` of them."""

    def __init__(self, dynamics: VideoDiT, clip: Clip, begun: Tensor) -> None:
        self.dynamics, self.clip, self.frames = dynamics, clip, list(begun.unbind(1))
        first = len(self.frames)
        out = self.run(begun, level=1.0, mask=training_mask(first, first, dynamics.config.window, begun.device))
        self.hidden, self.keys, self.values = [out.hidden], out.keys, out.values

    def run(self, latents: Tensor, *, level: float, mask: Tensor, past: tuple[Tensor, Tensor] | None = None) -> FrameOutputs:
        """Run the network on the newest frames ``(b, f, C, h, w)``, which follow those in ``past`` or are the first."""
        f, config, clip = latents.shape[1], self.dynamics.config, self.clip
        first = 0 if past is None else len(self.frames)
        place = torch.arange(first, first + f, device=latents.device).expand(len(latents), f)  # (b, f)
        known = torch.cat((torch.stack(self.frames[:first], dim=1), latents), dim=1) if first else latents  # (b, first + f, C, h, w)
        history = stack_history(known, config.history, clip.anchor if config.anchor else None)[:, first:]  # (b, f, H*C, h, w), or one more
        levels = torch.full((len(latents), f), level, device=latents.device)  # (b, f)
        inputs = FrameInputs(
            latents=latents,
            history=history,
            level=levels,
            step=torch.zeros_like(levels),
            history_level=(place > 0).to(levels),
            actions=clip.actions[:, first : first + f],
            known=clip.known[:, first : first + f],
            condition=clip.condition,
            positions=place,
        )
        return self.dynamics(inputs, mask, past, estimate=level == 0)

    def add(self, noise: Tensor) -> Tensor:
        """Make the next frame ``(b, C, h, w)`` of noise, and remember it."""
        window, past = self.dynamics.config.window, (self.keys, self.values)
        mask = torch.zeros(1, 1, self.keys.shape[4] + 1, device=noise.device)  # (1, 1, P + 1)
        made = self.run(noise.unsqueeze(1), level=0.0, mask=mask, past=past).latents  # (b, 1, C, h, w)
        made = made.to(noise.dtype)
        out = self.run(made, level=1.0, mask=mask, past=past)
        self.frames.append(made[:, 0])
        self.hidden.append(out.hidden)
        self.keys, self.values = (torch.cat(pair, dim=4)[..., -window:, :] for pair in ((self.keys, out.keys), (self.values, out.values)))
        return made[:, 0]

    def cut(self) -> None:
        """Let no error flow further back than to here."""
        self.frames, self.keys, self.values = [frame.detach() for frame in self.frames], self.keys.detach(), self.values.detach()


def unroll(dynamics: VideoDiT, clip: Clip, begun: Tensor, noise: Tensor, *, through: int) -> tuple[Tensor, Tensor]:
    """Roll clips out.

    Args:
        dynamics: What makes frames.
        clip: b clips of F frames; their first latents are not looked at.
        begun: Their first frames ``(b, skip, C, h, w)``.
        noise: ``(b, F - skip, C, h, w)``.
        through: Frames that errors flow back through at most, from each to those before.

    Returns:
        Frames made ``(b, F - skip, C, h, w)``, and the last tokens of all ``(b, F, N, D)``.
    """
    memory, made = _Memory(dynamics, clip, begun), list[Tensor]()
    for number, one in enumerate(noise.unbind(1)):
        if number and number % through == 0:
            memory.cut()
        made.append(memory.add(one))
    return torch.stack(made, dim=1), torch.cat(memory.hidden, dim=1)
