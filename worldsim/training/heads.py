"""``worldsim train heads``: roll a finished world out, and teach its heads reward, end and state of what it imagines.

Heads that were trained beside the dynamics know real frames and those a few steps from one. What they read of rollouts is off where
frames are: too high or low on the whole, too sure of ends. Here they go on learning on rollouts of the finished world beside what
happened, and the end probability is found above which environments best end an episode.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from worldsim.evaluation.endings import Endings, choose_threshold
from worldsim.evaluation.figures import episode_name
from worldsim.evaluation.openloop import Segment, check_fit, cut_segment, cut_segments
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import WorldSpec
from worldsim.training.rollouts import Kept, roll_out
from worldsim.training.run import check_counts, open_data
from worldsim.types import EpisodeStore

SETTINGS = ("segments", "per_episode", "context", "horizon", "every", "batch", "seed")
"""What rollouts depend on."""
EACH = 100
"""Training steps after which the heads are measured."""


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
    store, where = open_data(cfg), Path(cfg.out) / "world"
    if not store.split("heldout"):
        raise ValueError(f"dataset {cfg.data.path} has no held-out episode to measure on: record at least two episodes")
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device or "cpu")
    check_fit(world.spec, store)
    check_labels(world.spec, store)
    world = world.replaced(heads=world.heads.without_recall())  # what it knows is of the heads before
    cut, unseen = (_cut(store, cfg, split=split, limit=limit) for split, limit in (("train", cfg.segments), ("heldout", cfg.segments // 5)))
    learned, spared = spare(cut)
    if not any(spared):
        told = f"segments={cfg.segments} of {cfg.context + cfg.horizon} frames come from fewer than 6 training episodes of {cfg.data.path}"
        raise ValueError(f"{told}: ask for more, record more, or set a shorter horizon")
    kept, count = Kept(cfg, store.info.fingerprint, SETTINGS), len(learned)
    rolled = roll_out(world, [*learned, *spared, *unseen], partial(_roll, every=cfg.every), batch=cfg.batch, kept=kept)
    own, other, heldout = (Told.join(rolled[i : i + count]) for i in range(0, 3 * count, count))
    natural, old = end_share(store), copy.deepcopy(world.heads).cpu()  # what was rolled out is there, and this is little work
    found = fit(old, own, other, natural=natural, steps=cfg.steps, batch_size=cfg.batch_size, lr=cfg.lr, seed=cfg.seed)
    heads = between(old, found, share=cfg.share)
    for name, one in (("before", old), ("after", heads)):
        print(f"{name}, held-out rollouts: {_said(measure(one, heldout, natural=natural))}")
    made = _with(world, heads, cfg)
    torch.nn.Module.to(heads, world.device)
    ends = Endings(horizon=max(1, cfg.horizon // 4))
    threshold = choose_threshold(Simulator(made), store, ends, context=cfg.context, seed=cfg.seed, batch=cfg.batch)
    print(f"environments end an episode where the end probability is above {threshold:.2g}")
    made.spec = replace(made.spec, end_threshold=threshold)
    made.save_pretrained(where)
    kept.forget()
    print(f"world saved to {where}: worldsim evaluate world={where} tells what it is worth")


def check_labels(spec: WorldSpec, store: EpisodeStore) -> None:
    """Refuse a dataset whose labelled state is not a world's.

    Raises:
        ValueError: Names both.
    """
    if tuple(store.info.state_names) != tuple(spec.state_names):
        theirs, ours = list(store.info.state_names), list(spec.state_names)
        raise ValueError(f"dataset {store.info.name!r} labels {theirs}, world {spec.name!r} tells {ours}: use data of its own source")


def _cut(store: EpisodeStore, cfg: DictConfig, *, split: str, limit: int) -> list[list[Segment]]:
    """Cut stretches at random places, and stretches of two lengths that end as their episodes do."""
    cut: dict[str, Any] = {"context": cfg.context, "seed": cfg.seed}
    anywhere = cut_segments(store, split=split, horizon=cfg.horizon, per_episode=cfg.per_episode, limit=max(1, limit), **cut)
    lengths = (cfg.horizon, max(1, cfg.horizon // 4))
    return [anywhere, *(ending(store, split=split, context=cfg.context, horizon=length, limit=limit // 2) for length in lengths)]


def ending(store: EpisodeStore, *, split: str, context: int, horizon: int, limit: int) -> list[Segment]:
    """Cut stretches of ``horizon`` steps whose last step ended the episode, one of each episode that has room."""
    found = list[Segment]()
    for i in store.split(split):
        if len(found) >= limit:
            break
        episode = store[i]
        start = len(episode) + 1 - context - horizon
        if start >= 0 and episode.terminated.any():
            found.append(cut_segment(episode, start, context, horizon, seed=len(found)))
    return found


def spare(parts: Sequence[Sequence[Segment]]) -> tuple[list[list[Segment]], list[list[Segment]]]:
    """Take the stretches of every sixth episode out of each part; return what is left, and those, none of fewer than six episodes."""
    names = list(dict.fromkeys(episode_name(segment) for part in parts for segment in part))
    taken = set(names[5::6])
    each = [[[segment for segment in part if (episode_name(segment) in taken) == wanted] for part in parts] for wanted in (False, True)]
    return each[0], each[1]


def end_share(store: EpisodeStore) -> float:
    """Return the share of steps of the training episodes that end them."""
    ends = [(float(episode.terminated.any()), len(episode)) for episode in (store[i] for i in store.split("train"))]
    ended, steps = map(sum, zip(*ends, strict=True))
    return ended / steps


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
    generator = torch.Generator().manual_seed(seed)
    learner = copy.deepcopy(heads).requires_grad_(True)
    best, least = copy.deepcopy(heads), sum(measure(heads, spared, natural=natural).values())
    optimizer = torch.optim.AdamW(learner.parameters(), lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    weight = end_weight(data, natural)
    for step in range(1, steps + 1):
        some = data.rows(torch.randint(len(data.end), (batch_size,), generator=generator))
        loss = sum(losses(learner, some, weight=weight).values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % EACH == 0 or step == steps:
            found = measure(learner, spared, natural=natural)
            print(f"step {step}/{steps}: {_said(found)}", flush=True)
            if sum(found.values()) < least:
                best, least = copy.deepcopy(learner), sum(found.values())
    return best.requires_grad_(False)


def between(old: Heads, new: Heads, *, share: float) -> Heads:
    """Return heads whose weights lie ``share`` of the way from old to trained ones (robust fine-tuning, Wortsman et al. 2022, equation 1).

    They tell rollouts as well as the trained ones, or better, and forget less of what the old ones knew of frames that are near real.
    """
    made, target = copy.deepcopy(old), new.state_dict()
    made.load_state_dict({name: torch.lerp(value, target[name], share) for name, value in old.state_dict().items()})
    return made


def end_weight(data: Told, natural: float) -> float:
    """Return how much an end counts, so that ends have the share among all frames that they have in whole episodes."""
    ends = float(data.end.sum())
    return natural / (1 - natural) * (len(data.end) - ends) / ends if ends and natural < 1 else 1.0


def losses(heads: Heads, data: Told, *, weight: float) -> dict[str, Tensor]:
    """Return mean surprise of rewards and ends, in nats, and mean squared error of the standardised state; ends count ``weight`` times."""
    read = heads(data.hidden.float().unsqueeze(0))
    count = 1 + (weight - 1) * data.end  # (K,)
    reward = -(heads.two_hot(data.reward[None]) * read.reward_logits.log_softmax(-1)).sum(-1)[0]  # (K,)
    end = F.binary_cross_entropy_with_logits(read.end_logit[0], data.end, reduction="none")  # (K,)
    state = (read.state[0] - data.state).square().mean(-1) if data.state.shape[-1] else torch.zeros_like(end)  # (K,)
    return {name: (count * value).sum() / count.sum() for name, value in (("reward", reward), ("end", end), ("state", state))}


@torch.no_grad()
def measure(heads: Heads, data: Told, *, natural: float) -> dict[str, float]:
    """Return the ``losses`` of all frames."""
    weight, total = end_weight(data, natural), dict[str, float]()
    for index in torch.arange(len(data.end)).split(1024):
        for name, value in losses(heads, data.rows(index), weight=weight).items():
            total[name] = total.get(name, 0.0) + float(value) * len(index) / len(data.end)
    return total


def _said(found: dict[str, float]) -> str:
    return f"reward {found['reward']:.3f} nats, end {found['end']:.4f} nats, state {found['state']:.3f}"


def _with(world: WorldModel, heads: Heads, cfg: DictConfig) -> WorldModel:
    """Return the world with other heads; what was measured of it with the old ones is left out."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    told = {key: settings[key] for key in (*SETTINGS, "steps", "batch_size", "lr", "share")}
    spec = replace(world.spec, recipe={**world.spec.recipe, "heads": told}, quality={})
    return world.replaced(heads=heads.eval(), spec=spec)
