"""``worldsim train heads``: roll a finished world out, and teach its heads reward, end and state of what it imagines.

Heads that were trained beside the dynamics know real frames and those a few steps from one. What they read of rollouts is off where
frames are: too high or low on the whole, too sure of ends. Here they go on learning on rollouts of the finished world beside what
happened, and the end probability is found above which environments best end an episode.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from worldsim.evaluation.openloop import Segment
from worldsim.heads import Heads
from worldsim.simulator import Simulator
from worldsim.training.lesson import Lesson, end_share
from worldsim.training.outcomes import Outcome, end_weight, learn, said, surprise
from worldsim.training.run import check_counts

SETTINGS = ("segments", "per_episode", "context", "horizon", "every", "batch", "seed")
"""What rollouts depend on."""


@dataclass(frozen=True)
class Told:
    """What heads are to tell of K made frames.

    Attributes:
        hidden: Last tokens ``(K, N, D)`` float16.
        reward: ``(K,)``.
        end: ``(K,)``, 1 where the step ended the episode.
        state: ``(K, S)`` standardised.
    """

    hidden: Tensor
    reward: Tensor
    end: Tensor
    state: Tensor

    def rows(self, index: Tensor) -> Told:
        """Return some frames."""
        return Told(*(value[index] for value in vars(self).values()))

    @staticmethod
    def join(parts: Sequence[dict[str, Tensor]]) -> Told:
        """Lay what was rolled out end to end; parts may be empty, but not all."""
        return Told(*(torch.cat([part[name] for part in parts if part]) for name in ("hidden", "reward", "end", "state")))


def train_heads(cfg: DictConfig) -> None:
    """Train the heads of ``cfg.world`` on by ``configs/train_heads.yaml``; the world with them is saved to ``cfg.out``/world.

    Raises:
        ValueError: A count is below 1, there is too little data, or world and dataset cannot be read or do not fit each other.
    """
    check_counts(cfg, "segments", "per_episode", "context", "horizon", "every", "batch", "steps", "batch_size")
    if not 0 < cfg.share <= 1:
        raise ValueError(f"share={cfg.share} must be above 0, where the heads stay as they are, and at most 1")
    lesson = Lesson.open(cfg, SETTINGS, ends=0.5)
    own, other, heldout = lesson.roll_out(partial(_roll, every=cfg.every), Told.join)
    natural, old = end_share(lesson.store), copy.deepcopy(lesson.world.heads).cpu()  # what was rolled out is there, and this is little work
    found = fit(old, own, other, natural=natural, steps=cfg.steps, batch_size=cfg.batch_size, lr=cfg.lr, seed=cfg.seed)
    heads = between(old, found, share=cfg.share)
    if heldout is not None:
        for name, one in (("before", old), ("after", heads)):
            print(f"{name}, held-out rollouts: {said(measure(one, heldout, natural=natural))}")
    lesson.save(heads, "heads", ("steps", "batch_size", "lr", "share"), [cfg.horizon // 4])


def _roll(simulator: Simulator, segments: Sequence[Segment], *, every: int) -> dict[str, Tensor]:
    """Roll segments out with their recorded actions beside what happened; keep the first 8 steps, every so many, and the last."""
    spec, length = simulator.spec, len(segments[0].actions)
    mean, spread = (torch.tensor(values, dtype=torch.float32) for values in (spec.state_mean, spec.state_std))
    state = simulator.start([segment.context for segment in segments], [segment.seed for segment in segments])
    found: dict[str, list[Tensor]] = {"hidden": [], "reward": [], "end": [], "state": []}
    for t in range(length):
        state, step = simulator.step(state, np.stack([segment.actions[t] for segment in segments]), decode=False)
        if t < 8 or t % every == 0 or t == length - 1:
            found["hidden"].append(step.hidden.cpu().half())
            found["reward"].append(torch.tensor([float(segment.rewards[t]) for segment in segments]))
            found["end"].append(torch.tensor([float(segment.terminated[t]) for segment in segments]))
            found["state"].append((torch.from_numpy(np.stack([segment.state[t] for segment in segments])).float() - mean) / spread)
    return {name: torch.cat(values) for name, values in found.items()}


def fit(heads: Heads, data: Told, spared: Told, *, natural: float, steps: int, batch_size: int, lr: float, seed: int) -> Heads:
    """Return a copy of heads, trained on; the same data and seed give the same.

    Args:
        heads: Where training begins; they stay as they are.
        data: What is learned.
        spared: What is not: the copy is as it was when it told these best, which may be at the beginning.
        natural: Share of steps that end an episode; those in the data count so much, for rewards and state as well.
        steps: Of training.
        batch_size: Frames a step.
        lr: Highest rate.
        seed: What frames are drawn from.
    """
    generator, weight = torch.Generator().manual_seed(seed), _weight(data, natural)
    learner = copy.deepcopy(heads).requires_grad_(True)

    def loss() -> Tensor:
        some = data.rows(torch.randint(len(data.end), (batch_size,), generator=generator))
        return sum(losses(learner, some, weight=weight).values(), torch.zeros(()))

    return learn(learner, loss, lambda: measure(learner, spared, natural=natural), steps=steps, lr=lr)


def between(old: Heads, new: Heads, *, share: float) -> Heads:
    """Return heads whose weights lie ``share`` of the way from old to trained ones (robust fine-tuning, Wortsman et al. 2022, equation 1).

    They tell rollouts as well as the trained ones, or better, and forget less of what the old ones knew of frames that are near real.
    """
    made, target = copy.deepcopy(old), new.state_dict()
    made.load_state_dict({name: torch.lerp(value, target[name], share) for name, value in old.state_dict().items()})
    return made


def _weight(data: Told, natural: float) -> float:
    return end_weight(data.end, torch.ones_like(data.end), natural)


def losses(heads: Heads, data: Told, *, weight: float) -> dict[str, Tensor]:
    """Return the losses of ``surprise``; ends count ``weight`` times."""
    read = heads(data.hidden.float().unsqueeze(0))
    reward, end, state = (value.unsqueeze(0) for value in (data.reward, data.end, data.state))  # (1, K), (1, K), (1, K, S)
    truth = Outcome(reward, end, state, 1 + (weight - 1) * end)
    return surprise(heads, (read.reward_logits, read.end_logit, read.state), truth)


@torch.no_grad()
def measure(heads: Heads, data: Told, *, natural: float) -> dict[str, float]:
    """Return the ``losses`` of all frames."""
    weight, total = _weight(data, natural), dict[str, float]()
    for index in torch.arange(len(data.end)).split(1024):
        for name, value in losses(heads, data.rows(index), weight=weight).items():
            total[name] = total.get(name, 0.0) + float(value) * len(index) / len(data.end)
    return total
