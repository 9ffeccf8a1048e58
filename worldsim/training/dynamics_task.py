"""Training of the dynamics: two streams of one clip, the context that is looked back at and the frames that are imagined.

The context stream carries each frame near its clean state (or, for diffusion forcing, at any level); the target stream carries
the same frames noisy, each seeing only context before it. Every frame of a clip is thus trained in exactly the pattern that a
rollout uses, in one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.clips import Clip, LatentEpisodes
from worldsim.conditioning import Vocabulary
from worldsim.devices import draw_noise, send
from worldsim.diffusion import SMALLEST_SHORTCUT, corrupt, draw_context_levels, draw_target_levels, ramp_weight
from worldsim.dit import FrameInputs, FrameOutputs, VideoDiT
from worldsim.heads import Heads
from worldsim.training.critic import Critic, critic_losses
from worldsim.training.faded import draw_fading, fade
from worldsim.training.objective import Objective, by_ratio
from worldsim.training.own_frames import OwnFrames
from worldsim.training.posterior import PRICE, Posterior
from worldsim.training.unrolled import unroll
from worldsim.windows import shift_levels, stack_history, training_mask

CRITIC_SHARE = 0.01
"""Weight of the critic's own loss: small, for gradients of all are clipped together, and Adam does not mind."""


_OF_ROWS = ("context_level", "context_noise", "level", "step", "noise", "looked", "fading")  # of ``Draw``: a row each


@dataclass(frozen=True)
class Draw:
    """One training batch with everything random in it.

    Attributes:
        clip: The clips, actions and conditions already dropped.
        context_level: ``(B, F)``.
        context_noise: ``(B, F, C, h, w)``.
        level: ``(B, F - skip)`` of the target stream.
        step: ``(B, F - skip)`` size of the shortcut that is asked for.
        noise: ``(B, F - skip, C, h, w)``.
        looked: ``(B, pixel_frames)`` int64, target frames that are decoded.
        shortcuts: First rows of the batch that are trained as shortcuts.
        self_rows: Last rows of the batch whose context is the model's own estimate.
        begun: ``(self_rows, skip, C, h, w)`` what those look back at first: real frames, or own ones of the step before.
        fading: ``(B, 2)`` how the context of each row is faded; 0 for one's own.
        judged: ``(B * pixel_frames, 3, H, W)`` noise for the critic; without one, empty.
    """

    clip: Clip
    context_level: Tensor
    context_noise: Tensor
    level: Tensor
    step: Tensor
    noise: Tensor
    looked: Tensor
    shortcuts: int
    self_rows: int
    begun: Tensor
    fading: Tensor
    judged: Tensor

    def rows(self, pick: slice) -> Draw:
        """Return the same draw for some rows."""
        clip = Clip(*(value[pick] for value in vars(self.clip).values()))
        tensors = {name: getattr(self, name)[pick] for name in _OF_ROWS}
        return replace(self, clip=clip, **tensors)


@dataclass(frozen=True)
class Imagined:
    """What a draw was made into.

    Attributes:
        targets: Estimates of the target frames ``(B, F - skip, C, h, w)``.
        context: Estimates of the context frames ``(b, F, C, h, w)`` of the first rows, those that were made at once.
        hidden: Last tokens of the context ``(B, F, N, D)``.
        truth: What the targets are to be, as they.
        nats: What the noise of the first rows tells, ``(b, F - skip)``.
    """

    targets: Tensor
    context: Tensor
    hidden: Tensor
    truth: Tensor
    nats: Tensor


class DynamicsLoss(nn.Module):
    """Loss of the video DiT and the heads on one ``Draw``.

    Args:
        dynamics: What is trained.
        heads: And its heads.
        objective: What for.
        decode: The frozen tokenizer's way back to frames; needed for a ``pixel_loss``.
    """

    def __init__(self, dynamics: VideoDiT, heads: Heads, objective: Objective, decode: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        if objective.pixel_loss and decode is None:
            raise ValueError(f"pixel_loss={objective.pixel_loss} needs a decoder: give decode, or set pixel_loss to 0")
        self.dynamics, self.heads, self.objective, self.decode = dynamics, heads, objective, decode
        self.critic = Critic() if objective.critic else None
        self.posterior = _posterior(dynamics) if objective.nats else None
        self.own: Tensor | None = None  # (self_rows, F, C, h, w), what was imagined last

    def streams(self, draw: Draw, context: Tensor, noisy: Tensor) -> FrameOutputs:
        """Run context latents ``(B, F, C, h, w)`` and noisy target latents ``(B, F - skip, C, h, w)`` through the network together."""
        skip, clip = self.objective.skip, draw.clip
        b, f = clip.latents.shape[:2]
        seen = corrupt(context, draw.context_noise, draw.context_level)  # (B, F, C, h, w)
        config = self.dynamics.config
        history = stack_history(seen, config.history, clip.anchor if config.anchor else None)  # (B, F, H*C, h, w), or one more
        history_level = shift_levels(draw.context_level)
        place = torch.arange(f, device=seen.device).expand(b, f)

        def both(x: Tensor) -> Tensor:
            return torch.cat((x, x[:, skip:]), dim=1)  # (B, 2F - skip, ...)

        inputs = FrameInputs(
            latents=torch.cat((seen, noisy), dim=1),
            history=both(history),
            level=torch.cat((draw.context_level, draw.level), dim=1),
            step=torch.cat((torch.zeros_like(draw.context_level), draw.step), dim=1),
            history_level=both(history_level),
            actions=both(clip.actions),
            known=both(clip.known),
            condition=clip.condition,
            positions=both(place),
        )
        return self.dynamics(inputs, training_mask(f, skip, config.window, seen.device, sink=self.objective.sink))

    def starting_noise(self, draw: Draw, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return noise ``(B, F - skip, C, h, w)`` to make targets of after ``context``, and what it tells, ``(B, F - skip)`` nats."""
        if self.posterior is None:
            return draw.noise, torch.zeros_like(draw.level)
        skip, clip = self.objective.skip, draw.clip
        past = stack_history(context, self.dynamics.config.history)[:, skip:]  # (B, F - skip, H*C, h, w)
        made: tuple[Tensor, Tensor] = self.posterior(clip.latents[:, skip:], past, clip.actions[:, skip:], draw.noise)
        return made

    @torch.no_grad()
    def own_context(self, draw: Draw) -> Tensor:
        """Replace the context of the last rows by the network's own estimates, made in parallel from the frames before."""
        context, skip = draw.clip.latents.clone(), self.objective.skip
        part = draw.rows(slice(len(context) - draw.self_rows, None))
        part = replace(part, level=torch.zeros_like(part.level), step=torch.zeros_like(part.step))
        latents = torch.cat((draw.begun, part.clip.latents[:, skip:]), dim=1)  # (b, F, C, h, w)
        for _ in range(self.objective.self_rounds):
            noise, _ = self.starting_noise(part, latents)
            imagined = self.streams(part, latents, noise).latents[:, -part.level.shape[1] :]  # (b, F - skip, C, h, w)
            latents = torch.cat((draw.begun, imagined.to(latents.dtype)), dim=1)  # (b, F, C, h, w)
        context[len(context) - draw.self_rows :] = latents
        self.own = latents
        return context  # (B, F, C, h, w)

    @torch.no_grad()
    def shortcut_target(self, draw: Draw, context: Tensor, noisy: Tensor) -> Tensor:
        """Where two half steps lead: the target of one whole step (shortcut models, Frans et al. 2024, equation 4)."""
        part, tau, half = draw.rows(slice(0, draw.shortcuts)), draw.level[: draw.shortcuts], draw.step[: draw.shortcuts] / 2
        context, start = context[: draw.shortcuts], noisy[: draw.shortcuts]
        label = torch.where(half >= SMALLEST_SHORTCUT, half, torch.zeros(()).to(half))

        def velocity(z: Tensor, level: Tensor) -> Tensor:
            clean = self.streams(replace(part, level=level, step=label), context, z).latents[:, -level.shape[1] :].float()
            return (clean - z) / (1 - level)[..., None, None, None]

        first = velocity(start, tau)
        middle = start + first * half[..., None, None, None]
        second = velocity(middle, tau + half)
        return start + (first + second) / 2 * (1 - tau)[..., None, None, None]  # (b, F - skip, C, h, w)

    def forward(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts."""
        o, made = self.objective, self.imagine(draw)
        error = (made.targets.float() - made.truth).square().mean((2, 3, 4))  # (B, F - skip)
        rows = len(made.context)
        own = (made.context.float() - draw.clip.latents[:rows]).square().mean((2, 3, 4))  # (b, F)
        target_loss = (o.weight(draw.level) * by_ratio(error, o.latent_floor)).mean()
        context_loss = (o.weight(draw.context_level[:rows]) * own).mean()
        loss, logs = self._head_loss(made.hidden, draw.clip)
        logs = {"target": target_loss.detach(), "context": context_loss.detach(), **logs}
        if o.pixel_loss:
            pixels, more = self._frame_losses(made.targets, made.truth, draw)
            loss, logs = loss + pixels, {**logs, **more}
        if self.posterior is not None:
            told = made.nats.mean()
            loss, logs = loss + PRICE * F.relu(told - o.nats), {**logs, "nats": told.detach()}
        fresh = draw.level[draw.shortcuts :] == 0
        logs["from_noise"] = (error[draw.shortcuts :] * fresh).sum().detach() / fresh.sum().clamp(min=1)
        return target_loss + o.context_loss * context_loss + loss, logs

    def imagine(self, draw: Draw) -> Imagined:
        """Make the target frames of a draw, those of its last rows one after another if that is asked for."""
        if not (self.objective.unrolled and draw.self_rows):
            return self._at_once(draw)
        count = len(draw.clip.latents) - draw.self_rows
        first = self._at_once(replace(draw.rows(slice(0, count)), self_rows=0))
        part = draw.rows(slice(count, None))
        targets, hidden = unroll(self.dynamics, part.clip, draw.begun, part.noise, through=self.objective.unrolled)
        self.own = torch.cat((draw.begun, targets.detach()), dim=1)  # (self_rows, F, C, h, w)
        truth = torch.cat((first.truth, part.clip.latents[:, self.objective.skip :]))
        return replace(first, targets=torch.cat((first.targets, targets)), hidden=torch.cat((first.hidden, hidden)), truth=truth)

    def _at_once(self, draw: Draw) -> Imagined:
        o, clip, f = self.objective, draw.clip, draw.clip.latents.shape[1]
        context = self.own_context(draw) if draw.self_rows else clip.latents
        context = fade(context, draw.fading) if o.fading else context  # (B, F, C, h, w)
        truth = clip.latents[:, o.skip :]
        noise, nats = self.starting_noise(draw, context)
        noisy = corrupt(truth, noise, draw.level)  # (B, F - skip, C, h, w)
        if draw.shortcuts:
            truth = torch.cat((self.shortcut_target(draw, context, noisy), truth[draw.shortcuts :]))
        out = self.streams(draw, context, noisy)
        return Imagined(out.latents[:, f:], out.latents[:, :f], out.hidden[:, :f], truth, nats)

    def _frame_losses(self, made: Tensor, truth: Tensor, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the frames looked at, decoded from estimates and from truth, both ``(B, F - skip, C, h, w)``: squared error, critic."""
        assert self.decode is not None
        rows = torch.arange(len(made), device=made.device).unsqueeze(1)  # (B, 1)
        weight = ramp_weight(draw.level, self.objective.weight_floor)[rows, draw.looked].flatten()  # (B * P,)
        with torch.no_grad():
            wanted = self.decode(truth[rows, draw.looked].flatten(0, 1)).float()  # (B * P, 3, H, W)
        frames = self.decode(made[rows, draw.looked].flatten(0, 1).to(truth.dtype)).float()  # (B * P, 3, H, W)
        error = (frames - wanted).square().mean((1, 2, 3))  # (B * P,)
        pixels = (weight * by_ratio(error, self.objective.pixel_floor)).mean()
        loss, logs = self.objective.pixel_loss * pixels, {"pixels": pixels.detach()}
        if self.critic is not None:
            real, critic = critic_losses(self.critic, frames, wanted, draw.judged)
            loss, logs = (
                loss + self.objective.critic * real + CRITIC_SHARE * critic,
                {**logs, "real": real.detach(), "critic": critic.detach()},
            )
        return loss, logs

    def _head_loss(self, hidden: Tensor, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        o, read = self.objective, self.heads(hidden)
        stepped = clip.stepped.float()
        count = stepped.sum().clamp(min=1)
        surprise = -(self.heads.two_hot(clip.rewards) * read.reward_logits.log_softmax(-1)).sum(-1)  # (B, F)
        reward = (surprise * stepped).sum() / count
        end = (F.binary_cross_entropy_with_logits(read.end_logit, clip.ends, reduction="none") * stepped).sum() / count
        state = (read.state - clip.state).square().mean() if clip.state.shape[-1] else reward.new_zeros(())
        logs = {"reward": reward.detach(), "end": end.detach(), "state": state.detach()}
        return o.reward_loss * reward + o.end_loss * end + o.state_loss * state, logs


def _posterior(dynamics: VideoDiT) -> Posterior:
    config = dynamics.config
    return Posterior(channels=config.latent_shape[0], history=config.history, action_features=config.action_features)


class DynamicsTask:
    """Latent clips drawn at random, with levels, noise and drops.

    Args:
        loss: What is trained.
        episodes: Latents to train on.
        vocabulary: Tells what of a condition can be dropped.
        batch_size: Clips a step.
        clip: Frames a clip.
        frame_size: Height and width of decoded frames.
        on_sample: Called with (step, folder) to write something to look at.
    """

    def __init__(
        self,
        loss: DynamicsLoss,
        episodes: LatentEpisodes,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        clip: int,
        frame_size: Sequence[int],
        on_sample: Callable[[int, Path], None] | None = None,
    ) -> None:
        self.module, self.episodes, self.vocabulary = loss, episodes, vocabulary
        self.batch_size, self.clip, self.frame_size, self.on_sample = batch_size, clip, tuple(frame_size), on_sample
        self.frames_per_step = batch_size * clip
        o = loss.objective
        anchored = bool(loss.dynamics.config.anchor)
        self.own = OwnFrames(
            episodes,
            skip=o.skip,
            ahead=clip - o.skip if o.unrolled else min(o.self_rounds, clip - o.skip),
            depth=o.self_depth,
            anchored=anchored,
        )

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> Draw:
        """Draw everything that is random in one step."""
        o = self.module.objective
        self_rows = round(o.self_context * self.batch_size) if step >= o.self_from else 0
        clip, begun = self.own.draw(self.batch_size, self.clip, generator, rows=self_rows, made=self.module.own)
        b, f = clip.latents.shape[:2]
        shown = torch.rand(b, f, generator=generator) >= o.action_drop
        condition = self.vocabulary.drop(clip.condition, generator, rate=o.condition_drop, whole=o.condition_drop_all)
        clip = replace(clip, known=clip.known & shown, condition=condition)
        level, sizes, shortcuts = self._target_levels(step, (b, f - o.skip), generator)
        if o.unrolled:
            level[b - self_rows :] = 0
        fading = draw_fading(b, generator, share=o.fading) if o.fading else torch.zeros(b, 2)
        fading[b - self_rows :] = 0
        judged = (b * o.pixel_frames * bool(o.critic), 3, *self.frame_size)
        return Draw(
            clip=clip.to(device),
            context_level=send(draw_context_levels((b, f), generator, forcing=o.forcing, lowest=o.lowest_context), device),
            context_noise=draw_noise(tuple(clip.latents.shape), generator, device),
            level=send(level, device),
            step=send(sizes, device),
            noise=draw_noise((b, f - o.skip, *clip.latents.shape[2:]), generator, device),
            looked=send(torch.randint(f - o.skip, (b, o.pixel_frames), generator=generator), device),
            shortcuts=shortcuts,
            self_rows=self_rows,
            begun=send(begun, device),
            fading=send(fading, device),
            judged=draw_noise(judged, generator, device),
        )

    def _target_levels(self, step: int, shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        o = self.module.objective
        level, sizes = draw_target_levels(shape, generator, from_noise=o.from_noise), torch.zeros(shape)
        count = round(o.shortcut * shape[0]) if step >= o.shortcut_from else 0
        if count:
            size = 0.5 ** torch.randint(0, 3, (count, shape[1]), generator=generator).float()  # 1, 1/2 or 1/4
            place = (torch.rand(count, shape[1], generator=generator) / size).floor() * size
            sizes[:count], level[:count] = size, place
        return level, sizes, count

    def sample(self, step: int, folder: Path) -> None:
        """Hand over to ``on_sample``."""
        if self.on_sample is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.on_sample(step, folder)
