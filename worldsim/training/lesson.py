"""What a finished world's heads are taught on: stretches of recordings that it rolls out beside; and the world with what they learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from worldsim.evaluation.endings import Endings, choose_threshold
from worldsim.evaluation.figures import episode_name
from worldsim.evaluation.openloop import Segment, check_fit, cut_segment, cut_segments
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import WorldSpec
from worldsim.training.rollouts import Kept, Roll, roll_out
from worldsim.training.run import open_data
from worldsim.types import EpisodeStore

T = TypeVar("T")

Stretches = list[list[Segment]]
"""Stretches at random places, and stretches of two lengths that end as their episodes do."""


@dataclass(frozen=True)
class Lesson:
    """A finished world, and the stretches of recorded episodes that its heads are taught on.

    Attributes:
        cfg: Settings of the command.
        settings: Names of those that rollouts depend on.
        store: Recorded episodes.
        world: Its heads have no recall.
        learned: Stretches to learn from.
        spared: Stretches of other episodes, to choose weights by.
        unseen: Stretches of held-out episodes, to measure on; nothing if there is none.
    """

    cfg: DictConfig
    settings: tuple[str, ...]
    store: EpisodeStore
    world: WorldModel
    learned: Stretches
    spared: Stretches
    unseen: Stretches

    @staticmethod
    def open(cfg: DictConfig, settings: tuple[str, ...], *, ends: float) -> Lesson:
        """Open world and dataset, and cut stretches.

        Args:
            cfg: Settings of the command.
            settings: Names of those that rollouts depend on.
            ends: Most stretches of each length that end as their episodes do, over ``cfg.segments``.

        Raises:
            ValueError: There is too little data, or world and dataset cannot be read or do not fit each other.
        """
        store = open_data(cfg)
        world = WorldModel.from_pretrained(cfg.world, device=cfg.device or "cpu")
        check_fit(world.spec, store)
        check_labels(world.spec, store)
        learned, spared = spare(_cut(store, cfg, "train", cfg.segments, ends))
        if not any(spared):
            length, path = cfg.context + cfg.horizon, cfg.data.path
            told = f"segments={cfg.segments} of {length} frames come from fewer than 6 training episodes of {path}"
            raise ValueError(f"{told}: ask for more, record more, or set a shorter horizon")
        unseen = _cut(store, cfg, "heldout", max(1, cfg.segments // 5), ends) if store.split("heldout") else []
        plain = world.replaced(heads=world.heads.without_recall())  # what recall knows is of the heads before
        return Lesson(cfg, settings, store, plain, learned, spared, unseen)

    def roll_out(self, roll: Roll, join: Callable[[Sequence[dict[str, Tensor]]], T]) -> tuple[T, T, T | None]:
        """Roll out what is learned, spared and unseen, and join each; batches that are on disk are read."""
        parts = (self.learned, self.spared, self.unseen)
        rolled = iter(roll_out(self.world, [one for part in parts for one in part], roll, batch=self.cfg.batch, kept=self._kept()))
        learned, spared, unseen = ([next(rolled) for _ in part] for part in parts)
        return join(learned), join(spared), join(unseen) if any(unseen) else None

    def save(self, heads: Heads, name: str, told: Sequence[str], lengths: Sequence[int]) -> None:
        """Save the world with other heads to ``cfg.out``/world, and forget the rollouts.

        Args:
            heads: They are moved to the world's device.
            name: Of what they were taught, in the recipe.
            told: Names of the settings that go there too.
            lengths: Horizons of the stretches that ``end_threshold`` is chosen by.
        """
        cfg, where, settings = self.cfg, Path(self.cfg.out) / "world", OmegaConf.to_container(self.cfg, resolve=True)
        assert isinstance(settings, dict)
        recipe = {**self.world.spec.recipe, name: {key: settings[key] for key in (*self.settings, *told)}}
        torch.nn.Module.to(heads, self.world.device)
        made = self.world.replaced(heads=heads.eval(), spec=replace(self.world.spec, recipe=recipe, quality={}))
        plans = [Endings(horizon=max(1, length)) for length in lengths]
        threshold = choose_threshold(Simulator(made), self.store, *plans, context=cfg.context, seed=cfg.seed, batch=cfg.batch)
        print(f"environments end an episode where the end probability is above {threshold:.2g}")
        made.spec = replace(made.spec, end_threshold=threshold)
        made.save_pretrained(where)
        self._kept().forget()
        print(f"world saved to {where}: worldsim evaluate world={where} tells what it is worth")

    def _kept(self) -> Kept:
        return Kept(self.cfg, self.store.info.fingerprint, self.settings)


def check_labels(spec: WorldSpec, store: EpisodeStore) -> None:
    """Refuse a dataset whose labelled state is not a world's.

    Raises:
        ValueError: Names both.
    """
    if tuple(store.info.state_names) != tuple(spec.state_names):
        theirs, ours = list(store.info.state_names), list(spec.state_names)
        raise ValueError(f"dataset {store.info.name!r} labels {theirs}, world {spec.name!r} tells {ours}: use data of its own source")


def _cut(store: EpisodeStore, cfg: DictConfig, split: str, limit: int, ends: float) -> Stretches:
    anywhere = cut_segments(
        store, split=split, context=cfg.context, horizon=cfg.horizon, per_episode=cfg.per_episode, limit=limit, seed=cfg.seed
    )
    lengths, most = (cfg.horizon, max(1, cfg.horizon // 4)), int(ends * limit)
    return [anywhere, *(ending(store, split=split, context=cfg.context, horizon=length, limit=most) for length in lengths)]


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


def spare(parts: Sequence[Sequence[Segment]]) -> tuple[Stretches, Stretches]:
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
