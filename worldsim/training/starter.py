"""Training of the starter: first frames from tags, numbers and words alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from worldsim.checkpoint import resolve, save_component
from worldsim.clips import LatentEpisodes, load_episodes
from worldsim.diffusion import corrupt
from worldsim.dit import VideoDiT
from worldsim.model import WorldModel
from worldsim.spaces import feature_size
from worldsim.spec import WorldSpec
from worldsim.starter import FRAMES, NAME, estimate, sample_starts, starter_shape
from worldsim.targets import instantiate_allowed
from worldsim.training.build import start_from
from worldsim.training.loop import Trainer, processes
from worldsim.training.run import check_counts, loop_config, open_data, seeded
from worldsim.types import EpisodeStore

_SHOWN = 16


@dataclass(frozen=True)
class StartDraw:
    """One batch: clean starts ``(B, FRAMES * C, h, w)``, noise likewise, levels ``(B,)`` and conditions ``(B, V)``, thinned already."""

    latents: Tensor
    noise: Tensor
    level: Tensor
    condition: Tensor


class StarterLoss(nn.Module):
    """Squared error of the velocity from noise to data (rectified flow, Liu et al. 2023, equation 1) of an estimate of the data.

    With a clean estimate x the velocity at signal level tau is ``(x - z) / (1 - tau)``; its weight is held at that of ``nearest``.

    Args:
        network: See ``worldsim.starter.estimate``.
        nearest: Levels above count like this one.
    """

    def __init__(self, network: VideoDiT, *, nearest: float = 0.9) -> None:
        super().__init__()
        self.network, self.nearest = network, nearest

    def forward(self, draw: StartDraw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts."""
        noisy = corrupt(draw.latents[:, None], draw.noise[:, None], draw.level[:, None])[:, 0]  # (B, FRAMES*C, h, w)
        made = estimate(self.network, noisy, draw.level, draw.condition)  # (B, FRAMES*C, h, w)
        error = (made.float() - draw.latents).square().mean((1, 2, 3))  # (B,)
        weight = (1 - draw.level.clamp(max=self.nearest)).square().reciprocal()  # (B,)
        return (weight * error).mean(), {"error": error.mean().detach()}


class StarterTask:
    """Pairs of neighbouring frames, each part of their conditioning told or not.

    Args:
        loss: What is trained.
        world: The finished world: its tokenizer and its vocabulary.
        episodes: Latents to train on.
        batch_size: Pairs a step.
    """

    def __init__(self, loss: StarterLoss, world: WorldModel, episodes: LatentEpisodes, *, batch_size: int) -> None:
        self.module, self.world, self.episodes = loss, world, episodes
        self.batch_size, self.frames_per_step = batch_size, batch_size * FRAMES

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> StartDraw:
        """Draw pairs, noise and levels; levels are logit-normal (Esser et al. 2024, equation 19)."""
        clip = self.episodes.draw(self.batch_size, FRAMES, generator)
        latents = clip.latents.flatten(1, 2)  # (B, FRAMES*C, h, w)
        return StartDraw(
            latents=latents.to(device),
            noise=torch.randn(latents.shape, generator=generator).to(device),
            level=torch.randn(self.batch_size, generator=generator).sigmoid().to(device),
            condition=self.world.spec.vocabulary.thin(clip.condition, generator).to(device),
        )

    def sample(self, step: int, folder: Path) -> None:
        """Write starts for the conditionings of the world's own contexts: the real frame above, what is made below."""
        folder.mkdir(parents=True, exist_ok=True)
        shown = [self.world.contexts[i] for i in range(min(_SHOWN, len(self.world.contexts)))]
        told = [context.conditioning for context in shown]
        made = sample_starts(self.module.network, self.world.tokenizer, self.world.spec, told, range(len(told)))
        rows = [np.concatenate([context.frames[-1] for context in each], axis=1) for each in (shown, made)]
        picture = np.concatenate(rows)
        size = (picture.shape[1] * 2, picture.shape[0] * 2)
        Image.fromarray(picture).resize(size, Image.Resampling.NEAREST).save(folder / f"{step:07d}.png")


def train_starter(cfg: DictConfig) -> None:
    """Train the starter of ``cfg.world`` by ``configs/train_starter.yaml`` and save it into the world's folder.

    Raises:
        ValueError: World or dataset cannot be read, or they do not fit each other.
    """
    check_counts(cfg, "batch_size")
    folder, store, out = resolve(cfg.world), open_data(cfg), Path(cfg.out)
    device = cast("torch.device", processes().device)  # None only before the processes joined
    world = WorldModel.from_pretrained(cfg.world, device=device)
    _check(world, store)
    with seeded(cfg.loop.seed):
        network: VideoDiT = instantiate_allowed(
            cfg.model,
            latent_shape=list(starter_shape(world.tokenizer.latent_shape)),
            action_features=feature_size(world.spec.action_space),
            condition_features=world.spec.vocabulary.size,
            history=0,
            window=1,
            temporal_every=cfg.model.depth + 1,
        )
    if cfg.init:
        start_from(network, Path(cfg.init) / NAME, what=NAME, known=(WorldSpec.load(Path(cfg.init)).vocabulary, world.spec.vocabulary))
    nothing: Any = tuple(np.array(values, np.float32) for values in (world.spec.state_mean, world.spec.state_std))
    vocabulary = world.spec.vocabulary
    episodes = load_episodes(
        store, "train", world.tokenizer, vocabulary=vocabulary, statistics=nothing, cache=out / "cache", device=world.device
    )
    trainer = Trainer(StarterTask(StarterLoss(network), world, episodes, batch_size=cfg.batch_size), loop_config(cfg), out)
    trainer.run()
    if trainer.accelerator.is_main_process:
        with trainer.averaged():
            save_component(network, folder / NAME)
        print(f"starter saved to {folder / NAME}: gym.make('WorldSim-v0', world={str(cfg.world)!r}, context='generate')")


def _check(world: WorldModel, store: EpisodeStore) -> None:
    if tuple(store.info.frame_size) != tuple(world.spec.frame_size):
        theirs, mine = ("x".join(map(str, size)) for size in (store.info.frame_size, world.spec.frame_size))
        raise ValueError(f"dataset {store.info.name!r} has frames of {theirs}, world {world.spec.name!r} makes {mine}: use its own data")
    if not world.spec.vocabulary.size > 2:
        raise ValueError(f"world {world.spec.name!r} knows no tags, numbers or words: record its source with conditioning first")
