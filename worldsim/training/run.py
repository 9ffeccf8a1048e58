"""``worldsim train``: puts data, model and loop together from a composed configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldsim.checkpoint import load_component
from worldsim.evaluation.openloop import psnr
from worldsim.targets import instantiate_allowed
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.build import WorldBuilder
from worldsim.training.loop import LoopConfig, Trainer
from worldsim.training.tokenizer_task import TokenizerTask, load_frames, reconstruct
from worldsim.types import EpisodeStore


def open_data(cfg: DictConfig) -> EpisodeStore:
    """Open the dataset that ``cfg.data`` names."""
    store: EpisodeStore = instantiate_allowed(cfg.data)
    if not store.split("train"):
        raise ValueError(f"dataset {cfg.data.path} has no training episodes: record more with worldsim collect")
    return store


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
    autoencoder = instantiate_allowed(cfg.model, frame_size=list(store.info.frame_size))
    frames, heldout = load_frames(store, store.split("train")), load_frames(store, store.split("heldout"))
    task = TokenizerTask(autoencoder, frames, heldout, batch_size=cfg.batch_size, edges=cfg.edges)
    folder = Path(cfg.out)
    trainer = Trainer(task, loop_config(cfg), folder)
    trainer.run()
    with trainer.averaged():
        quality = float(psnr(heldout, reconstruct(autoencoder, heldout)).mean())
        autoencoder.save_pretrained(folder / "tokenizer")
    print(f"held-out PSNR {quality:.2f} dB over {len(heldout):,} frames; tokenizer saved to {folder / 'tokenizer'}")
    return quality


def train_dynamics(cfg: DictConfig) -> None:
    """Train dynamics and heads on a tokenizer's latents by ``configs/train_dynamics.yaml``; the world is saved to ``cfg.out``/world."""
    store, folder = open_data(cfg), Path(cfg.out)
    tokenizer = load_component(FrameAutoencoder, Path(cfg.tokenizer_dir)).eval().requires_grad_(False)
    made = WorldBuilder(store, tokenizer, cfg, folder)
    trainer = Trainer(made.task, loop_config(cfg), folder)
    trainer.run()
    with trainer.averaged():
        made.world().save_pretrained(folder / "world")
    print(f"world saved to {folder / 'world'}: worldsim evaluate world={folder / 'world'} data.path={cfg.data.path}")
