"""``worldsim train recall``: roll a finished world out, and teach its heads to go on from the state that they told a frame before.

What frames do not show, as health, or show roughly, as speed, heads cannot read of a frame. Taught on whole rollouts, on what they told
themselves, they keep count of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from worldsim.evaluation.endings import Endings, choose_threshold
from worldsim.evaluation.openloop import Segment, check_fit, cut_segments
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.recall import Recall, tell
from worldsim.simulator import Simulator
from worldsim.training.heads import check_labels, end_share, ending, spare
from worldsim.training.rollouts import Kept, roll_out
from worldsim.training.run import check_counts, open_data
from worldsim.types import EpisodeStore

SETTINGS = ("segments", "per_episode", "context", "horizon", "batch", "seed")
"""What rollouts depend on."""
DROP = 0.5
"""Share of features that are hidden of a whole rollout (dropout): they tell recorded episodes apart, which would be learned by heart."""
_ONCE = ("guess", "begun")  # of ``Tapes``: once a rollout
EACH = 100
"""Training steps after which recall is measured."""


@dataclass(frozen=True)
class Tapes:
    """N rollouts of T steps: what heads read of them without recall, and what happened.

    Attributes:
        features: ``(N, T, features)``, of ``Heads.look``, as the three below.
        logits: ``(N, T, bins)``.
        end: ``(N, T, 1)``.
        state: ``(N, T, S)`` standardised, as the four below.
        guess: ``(N, S)`` state of the last context frame as read.
        begun: ``(N, S)`` the same, recorded.
        truth: ``(N, T, S)`` recorded.
        reward: ``(N, T)`` recorded.
        ended: ``(N, T)``, 1 where the step ended the episode.
        there: ``(N, T)``, 0 beyond the end of a shorter rollout.
    """

    features: Tensor
    logits: Tensor
    end: Tensor
    state: Tensor
    guess: Tensor
    begun: Tensor
    truth: Tensor
    reward: Tensor
    ended: Tensor
    there: Tensor

    def rows(self, index: Tensor) -> Tapes:
        """Return some rollouts."""
        return Tapes(*(value[index] for value in vars(self).values()))

    @staticmethod
    def join(parts: Sequence[dict[str, Tensor]]) -> Tapes:
        """Lay what was rolled out one below the other, as long as the longest; parts may be empty, but not all."""
        longest = max(part["there"].shape[1] for part in parts if part)

        def fill(name: str, value: Tensor) -> Tensor:
            if name in _ONCE:
                return value
            missing = longest - value.shape[1]
            return torch.cat((value, value.new_zeros(len(value), missing, *value.shape[2:])), dim=1)  # (n, T, ...)

        return Tapes(*(torch.cat([fill(name, part[name]) for part in parts if part]) for name in Tapes.__dataclass_fields__))


def train_recall(cfg: DictConfig) -> None:
    """Teach ``cfg.world`` recall by ``configs/train_recall.yaml``; the world with it is saved to ``cfg.out``/world.

    Raises:
        ValueError: A count is below 1, there is too little data or no labelled state, or world and dataset cannot be read or do not fit.
    """
    check_counts(cfg, "segments", "per_episode", "context", "horizon", "batch", "steps", "batch_size")
    if not 0 <= cfg.unknown <= 1:
        raise ValueError(f"unknown={cfg.unknown} must be a share of rollouts between 0 and 1")
    store, where = open_data(cfg), Path(cfg.out) / "world"
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device or "cpu")
    check_fit(world.spec, store)
    check_labels(world.spec, store)
    if not world.spec.state_names:
        raise ValueError(f"world {world.spec.name!r} tells no labelled state, so there is nothing to recall: record data with one")
    world = world.replaced(heads=world.heads.without_recall())
    kept = Kept(cfg, store.info.fingerprint, SETTINGS)
    learned, spared = spare(_cut(store, cfg, split="train", limit=cfg.segments))
    unseen = _cut(store, cfg, split="heldout", limit=max(1, cfg.segments // 5)) if store.split("heldout") else []
    if not any(spared):
        told = f"segments={cfg.segments} of {cfg.context + cfg.horizon} frames come from fewer than 6 training episodes of {cfg.data.path}"
        raise ValueError(f"{told}: ask for more, record more, or set a shorter horizon")
    count = len(learned)
    rolled = roll_out(world, [*learned, *spared, *unseen], roll, batch=cfg.batch, kept=kept)
    own, other = (Tapes.join(rolled[i : i + count]) for i in (0, count))
    natural, old = end_share(store), copy.deepcopy(world.heads).cpu()
    heads = with_recall(old, seed=cfg.seed)
    settings = {"steps": cfg.steps, "batch_size": cfg.batch_size, "lr": cfg.lr, "unknown": cfg.unknown, "seed": cfg.seed}
    assert heads.memory is not None
    heads.memory.load_state_dict(fit(heads, own, other, natural=natural, **settings).state_dict())
    if unseen:
        heldout = Tapes.join(rolled[2 * count :])
        for name, one in (("before", old), ("after", heads)):
            print(f"{name}, held-out rollouts: {_said(measure(one, heldout, natural=natural))}")
    made = _with(world, heads, cfg)
    torch.nn.Module.to(heads, world.device)
    ends = [
        Endings(horizon=length) for length in (max(1, cfg.horizon // 4), cfg.horizon)
    ]  # what keeps count must not end long ones by chance
    threshold = choose_threshold(Simulator(made), store, *ends, context=cfg.context, seed=cfg.seed, batch=cfg.batch)
    print(f"environments end an episode where the end probability is above {threshold:.2g}")
    made.spec = replace(made.spec, end_threshold=threshold)
    made.save_pretrained(where)
    kept.forget()
    print(f"world saved to {where}: worldsim evaluate world={where} tells what it is worth")


def with_recall(heads: Heads, *, seed: int) -> Heads:
    """Return heads with a recall that has learned nothing; one seed gives the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Heads(**{**heads.config, "recall": True})
    made.load_state_dict(heads.state_dict(), strict=False)
    return made.eval()


def _cut(store: EpisodeStore, cfg: DictConfig, *, split: str, limit: int) -> list[list[Segment]]:
    """Cut stretches at random places, and stretches of two lengths that end as their episodes do."""
    cut: dict[str, Any] = {"split": split, "context": cfg.context, "limit": limit}
    anywhere = cut_segments(store, horizon=cfg.horizon, per_episode=cfg.per_episode, seed=cfg.seed, **cut)
    return [anywhere, *(ending(store, horizon=length, **cut) for length in (cfg.horizon, max(1, cfg.horizon // 4)))]


def roll(simulator: Simulator, segments: Sequence[Segment]) -> dict[str, Tensor]:
    """Roll segments out with their recorded actions; see ``Tapes``."""
    spec, heads = simulator.spec, simulator.world.heads
    mean, spread = (torch.tensor(values, dtype=torch.float32) for values in (spec.state_mean, spec.state_std))

    def standard(values: Any) -> Tensor:
        return (torch.from_numpy(np.array(values)).float() - mean) / spread

    state, guess = simulator.begin([segment.context for segment in segments], [segment.seed for segment in segments])
    seen = []
    for t in range(len(segments[0].actions)):
        state, step = simulator.step(state, np.stack([segment.actions[t] for segment in segments]), decode=False)
        with torch.inference_mode():
            seen.append([part[:, 0].cpu() for part in heads.look(step.hidden[:, None].to(heads.squeeze.weight.dtype))])
    features, logits, end, read = (torch.stack(parts, dim=1) for parts in zip(*seen, strict=True))  # (B, T, ...)
    return {
        "features": features,
        "logits": logits,
        "end": end,
        "state": read,
        "guess": standard(guess),
        "begun": standard([segment.context.state for segment in segments]),
        "truth": standard([segment.state for segment in segments]),
        "reward": torch.from_numpy(np.stack([segment.rewards for segment in segments])).float(),
        "ended": torch.from_numpy(np.stack([segment.terminated for segment in segments])).float(),
        "there": torch.ones(len(segments), len(segments[0].actions)),
    }


def fit(
    heads: Heads,
    data: Tapes,
    spared: Tapes,
    *,
    natural: float,
    steps: int,
    batch_size: int,
    lr: float,
    unknown: float,
    seed: int,
) -> Recall:
    """Return a trained copy of the recall of heads; the same data and seed give the same.

    Args:
        heads: They stay as they are.
        data: What is learned.
        spared: What is not: the copy is as it was when it told these best.
        natural: Share of steps that end an episode; those in the data count so much.
        steps: Of training.
        batch_size: Rollouts a step.
        lr: Highest rate.
        unknown: Share of rollouts that begin from the state as read.
        seed: What rollouts are drawn from.
    """
    assert heads.memory is not None
    generator, learner = torch.Generator().manual_seed(seed), copy.deepcopy(heads).requires_grad_(False)
    recall: Any = learner.memory
    recall.requires_grad_(True)
    blank = measure(heads.without_recall(), spared, natural=natural)
    best, least = copy.deepcopy(recall), float("inf")
    optimizer = torch.optim.AdamW(recall.parameters(), lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    weight = end_weight(data, natural)
    for step in range(1, steps + 1):
        some = data.rows(torch.randint(len(data.begun), (batch_size,), generator=generator))
        blind = torch.rand(batch_size, 1, generator=generator) < unknown
        shown = (torch.rand(batch_size, 1, data.features.shape[-1], generator=generator) >= DROP) / (1 - DROP)  # (n, 1, features)
        some = replace(some, begun=torch.where(blind, some.guess, some.begun), features=some.features * shown)
        loss = _over(losses(learner, some, weight=weight), blank)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recall.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % EACH == 0 or step == steps:
            found = measure(learner, spared, natural=natural)
            print(f"step {step}/{steps}: {_said(found)}", flush=True)
            if (total := float(_over(found, blank))) < least:
                best, least = copy.deepcopy(recall), total
    return best.requires_grad_(False)


def _over(found: Mapping[str, Any], blank: Mapping[str, float]) -> Any:
    """Return the sum of losses, each over what it is without recall: ends are rare, and count as much as states."""
    return sum(value / max(blank[name], 1e-6) for name, value in found.items())


def end_weight(data: Tapes, natural: float) -> float:
    """Return how much a step that ends counts, so that such steps have the share that they have in whole episodes."""
    ends = float(data.ended.sum())
    return natural / (1 - natural) * (float(data.there.sum()) - ends) / ends if ends and natural < 1 else 1.0


def run(heads: Heads, data: Tapes) -> tuple[Tensor, Tensor, Tensor]:
    """Tell reward logits ``(N, T, bins)``, end logits ``(N, T)`` and states ``(N, T, S)``, each frame by the state told before."""
    if heads.memory is None:
        return data.logits, data.end.squeeze(-1), data.state
    told, found = data.begun, []
    for t in range(data.reward.shape[1]):
        found.append(heads.memory(data.features[:, t], data.logits[:, t], data.end[:, t], data.state[:, t], tell(told)))
        told = found[-1][2]  # (N, S)
    logits, end, state = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))  # (N, T, ...)
    return logits, end.squeeze(-1), state


def losses(heads: Heads, data: Tapes, *, weight: float) -> dict[str, Tensor]:
    """Return mean surprise of rewards and ends, in nats, and mean squared error of the standardised state; ends count ``weight`` times."""
    logits, end, state = run(heads, data)
    count = data.there * (1 + (weight - 1) * data.ended)  # (N, T)
    each = {
        "reward": -(heads.two_hot(data.reward) * logits.log_softmax(-1)).sum(-1),  # (N, T)
        "end": F.binary_cross_entropy_with_logits(end, data.ended, reduction="none"),  # (N, T)
        "state": (state - data.truth).square().mean(-1),  # (N, T)
    }
    return {name: (count * value).sum() / count.sum() for name, value in each.items()}


@torch.no_grad()
def measure(heads: Heads, data: Tapes, *, natural: float) -> dict[str, float]:
    """Return the ``losses`` of all rollouts, each from its recorded state."""
    return {name: float(value) for name, value in losses(heads, data, weight=end_weight(data, natural)).items()}


def _said(found: dict[str, float]) -> str:
    return f"reward {found['reward']:.3f} nats, end {found['end']:.4f} nats, state {found['state']:.3f}"


def _with(world: WorldModel, heads: Heads, cfg: DictConfig) -> WorldModel:
    """Return the world with other heads; what was measured of it with the old ones is left out."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    told = {key: settings[key] for key in (*SETTINGS, "steps", "batch_size", "lr", "unknown")}
    spec = replace(world.spec, recipe={**world.spec.recipe, "recall": told}, quality={})
    return world.replaced(heads=heads.eval(), spec=spec)
