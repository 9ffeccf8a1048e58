"""How well heads tell the outcomes of rollouts, reward, end and state, and the loop that teaches them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.heads import Heads

EACH = 100
"""Training steps after which heads are measured."""

M = TypeVar("M", bound=nn.Module)


def end_weight(ended: Tensor, there: Tensor, natural: float) -> float:
    """Return how much an end counts, so that ends have the share of steps that they have in whole episodes.

    Args:
        ended: 1 where a step ended its episode, of any shape.
        there: Of the same shape, 0 where there is no step.
        natural: That share, of ``end_share``.
    """
    ends = float(ended.sum())
    return natural / (1 - natural) * (float(there.sum()) - ends) / ends if ends and natural < 1 else 1.0


@dataclass(frozen=True)
class Outcome:
    """What happened at steps ``(N, T)``.

    Attributes:
        reward: ``(N, T)``.
        ended: ``(N, T)``, 1 where the step ended the episode.
        state: ``(N, T, S)`` standardised.
        count: ``(N, T)``, how much a step counts.
    """

    reward: Tensor
    ended: Tensor
    state: Tensor
    count: Tensor


def surprise(heads: Heads, told: tuple[Tensor, Tensor, Tensor], truth: Outcome) -> dict[str, Tensor]:
    """Return mean surprise of rewards and ends, in nats, and mean squared error of the standardised state.

    Args:
        heads: Whose bins rewards fall into.
        told: Reward logits ``(N, T, bins)``, end logits ``(N, T)`` and states ``(N, T, S)``.
        truth: What happened.
    """
    logits, end, state = told
    each = {
        "reward": -(heads.two_hot(truth.reward) * logits.log_softmax(-1)).sum(-1),  # (N, T)
        "end": F.binary_cross_entropy_with_logits(end, truth.ended, reduction="none"),  # (N, T)
        "state": (state - truth.state).square().mean(-1) if state.shape[-1] else torch.zeros_like(end),  # (N, T)
    }
    return {name: (truth.count * value).sum() / truth.count.sum() for name, value in each.items()}


def learn(
    learner: M,
    loss: Callable[[], Tensor],
    measure: Callable[[], dict[str, float]],
    *,
    steps: int,
    lr: float,
    total: Callable[[dict[str, float]], float] = lambda found: sum(found.values()),
    longest: float = float("inf"),
) -> M:
    """Train a module in place, and return a copy of it as it was when it was best, which may be at the beginning.

    Args:
        learner: What is trained.
        loss: Gives that of a step's draw.
        measure: Tells its losses on what is not learned from; called every ``EACH`` steps.
        steps: Of training.
        lr: Highest rate.
        total: Makes one number of them; the least is best.
        longest: Norm that gradients are clipped to.
    """
    best, least = copy.deepcopy(learner), total(measure())
    optimizer = torch.optim.AdamW(learner.parameters(), lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), longest)
        optimizer.step()
        schedule.step()
        if step % EACH == 0 or step == steps:
            found = measure()
            print(f"step {step}/{steps}: {said(found)}", flush=True)
            if total(found) < least:
                best, least = copy.deepcopy(learner), total(found)
    return best.requires_grad_(False)


def said(found: dict[str, float]) -> str:
    """Say the losses of ``surprise``."""
    return f"reward {found['reward']:.3f} nats, end {found['end']:.4f} nats, state {found['state']:.3f}"
