"""``worldsim train``: puts data, model and loop together from a composed configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from worldsim.checkpoint import load_component, save_component
from worldsim.evaluation.openloop import psnr
from worldsim.targets import instantiate_allowed
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.build import WorldBuilder, start_from
from worldsim.training.loop import LoopConfig, Trainer, processes
from worldsim.training.tokenizer_task import TokenizerTask, load_frames, reconstruct
from worldsim.types import EpisodeStore


def open_data(cfg: DictConfig) -> EpisodeStore:
    """Open the dataset that ``cfg.data`` names."""
    store: EpisodeStore = instantiate_allowed(cfg.data)
    if not store.split("train"):
        raise ValueError(f"dataset {cfg.data.path} has no training episodes: record more with worldsim collect")
    return store


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw first weights from ``seed`` alone, and leave torch's own randomness as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_counts(cfg: DictConfig, *names: str) -> None:
    """Refuse settings that must be 1 or more and are not."""
    for name in names:
        if cfg[name] < 1:
            raise ValueError(f"{name}={cfg[name]} must be 1 or more")


def open_tokenizer(cfg: DictConfig, store: EpisodeStore) -> FrameAutoencoder:
    """Load the tokenizer in ``cfg.tokenizer_dir``.

    Raises:
        ValueError: There is none, it is damaged, or it was trained for frames of another size.
    """
    folder = Path(cfg.tokenizer_dir)
    if not (folder / "config.json").is_file():
        raise ValueError(f"tokenizer_dir={folder} holds no tokenizer: train one with 'worldsim train tokenizer' and give its folder")
    tokenizer = load_component(FrameAutoencoder, folder)
    size: Any = tokenizer.config
    if tuple(size.frame_size) != tuple(store.info.frame_size):
        theirs, ours = ("x".join(map(str, each)) for each in (size.frame_size, store.info.frame_size))
        raise ValueError(f"tokenizer {folder} is for frames of {theirs}, dataset {store.info.name!r} has {ours}: train one on this dataset")
    return tokenizer.eval().requires_grad_(False)


def loop_config(cfg: DictConfig) -> LoopConfig:
    """Build the loop's record from its part of the configuration."""
    fields: Any = OmegaConf.to_container(cfg.loop, resolve=True)
    return LoopConfig(**fields)


def train_tokenizer(cfg: DictConfig) -> float:
    """Train a tokenizer by ``configs/train_tokenizer.yaml`` and save it to ``cfg.out``.

    Returns:
        Mean PSNR over held-out frames in dB.
    """
    store = open_data(cfg)
    check_counts(cfg, "batch_size")
    if not store.split("heldout"):
        raise ValueError(f"dataset {cfg.data.path} has no held-out episode to measure on: record at least two episodes")
    with seeded(cfg.loop.seed):
        autoencoder = instantiate_allowed(cfg.model, frame_size=list(store.info.frame_size))
    if cfg.init:
        start_from(autoencoder, Path(cfg.init), what="tokenizer")
    frames, heldout = load_frames(store, store.split("train")), load_frames(store, store.split("heldout"))
    task = TokenizerTask(autoencoder, frames, heldout, batch_size=cfg.batch_size, edges=cfg.edges, equivariance=cfg.equivariance)
    folder = Path(cfg.out)
    trainer = Trainer(task, loop_config(cfg), folder)
    trainer.run()
    with trainer.averaged():
        quality = float(psnr(heldout, reconstruct(autoencoder, heldout)).mean())
        if not trainer.accelerator.is_main_process:
            return quality
        save_component(autoencoder, folder / "tokenizer")
    print(f"held-out PSNR {quality:.2f} dB over {len(heldout):,} frames; tokenizer saved to {folder / 'tokenizer'}")
    return quality


def train_dynamics(cfg: DictConfig) -> None:
    """Train dynamics and heads on a tokenizer's latents by ``configs/train_dynamics.yaml``; the world is saved to ``cfg.out``/world."""
    store, folder = open_data(cfg), Path(cfg.out)
    check_counts(cfg, "batch_size", "clip", "context_frames", "sample_horizon")
    found: Any = open_tokenizer(cfg, store)  # diffusers gives its `to` no types
    tokenizer: FrameAutoencoder = found.to(processes().device)
    with seeded(cfg.loop.seed), processes().main_process_first():  # who comes second finds the latents encoded
        made = WorldBuilder(store, tokenizer, cfg, folder)
    trainer = Trainer(made.task, loop_config(cfg), folder)
    trainer.run()
    if not trainer.accelerator.is_main_process:
        return
    with trainer.averaged():
        made.world().save_pretrained(folder / "world")
    print(f"world saved to {folder / 'world'}: worldsim evaluate world={folder / 'world'} data.path={cfg.data.path}")
