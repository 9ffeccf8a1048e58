"""``worldsim train decoder``: roll a finished world out, and teach its decoder to show what it imagines as sharply as real frames."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from worldsim.evaluation.openloop import Segment, check_fit, cut_segments, psnr, real
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.tokenizer import FrameAutoencoder, to_uint8
from worldsim.training.decoder_task import PAIR, DecoderLoss, DecoderTask, Rolled
from worldsim.training.loop import Trainer, processes
from worldsim.training.rollouts import Kept, roll_out
from worldsim.training.run import check_counts, loop_config, open_data
from worldsim.training.tokenizer_task import reconstruct

SETTINGS = ("segments", "per_episode", "context", "horizon", "batch", "seed")
"""What rollouts depend on."""


def train_decoder(cfg: DictConfig) -> None:
    """Train the decoder of ``cfg.world`` on by ``configs/train_decoder.yaml``; the world with it is saved to ``cfg.out``/world.

    Raises:
        ValueError: A setting is out of range, or world and dataset cannot be read or do not fit each other.
    """
    _check(cfg)
    store, folder = open_data(cfg), Path(cfg.out)
    if not store.split("heldout"):
        raise ValueError(f"dataset {cfg.data.path} has no held-out episode to measure on: record at least two episodes")
    world = WorldModel.from_pretrained(cfg.world, device=processes().device)
    check_fit(world.spec, store)
    side = min(world.spec.frame_size)
    if cfg.coarse > side:
        raise ValueError(f"coarse={cfg.coarse} must be at most the frames' shorter side, {side} pixels")
    cut: dict[str, Any] = {"context": cfg.context, "horizon": cfg.horizon, "per_episode": cfg.per_episode, "seed": cfg.seed}
    segments = cut_segments(store, split="train", limit=cfg.segments, **cut)
    unseen = cut_segments(store, split="heldout", limit=max(1, cfg.segments // 10), **cut)
    with processes().main_process_first():  # who comes second finds the rollouts made
        kept = Kept(cfg, store.info.fingerprint, SETTINGS)
        rolled = roll_out(world, [segments, unseen], _roll, batch=cfg.batch, kept=kept)
    learned, shown = (Rolled(own["latents"], real(own_segments)) for own, own_segments in zip(rolled, (segments, unseen), strict=True))
    tokenizer = with_grain(world.tokenizer)
    module = DecoderLoss(tokenizer, texture=cfg.texture, coarse=cfg.coarse)
    trainer = Trainer(DecoderTask(module, learned, shown, batch_size=cfg.batch_size), loop_config(cfg), folder)
    trainer.run()
    if not trainer.accelerator.is_main_process:
        return
    with trainer.averaged():
        for name, one in (("before", world.tokenizer), ("after", tokenizer)):
            print(f"{name}: {_told(one, shown)}")
        _with(world, tokenizer, cfg).save_pretrained(folder / "world")
    kept.forget()
    where = folder / "world"
    print(f"world saved to {where}: worldsim train uncertainty world={where}, so that errors are foretold of what it shows now")


def _check(cfg: DictConfig) -> None:
    check_counts(cfg, "segments", "per_episode", "context", "horizon", "batch", "batch_size", "coarse")
    if cfg.horizon < PAIR:
        raise ValueError(f"horizon={cfg.horizon} must be {PAIR} or more steps: successive frames are judged together")
    if not 0 < cfg.texture < float("inf"):
        raise ValueError(f"texture={cfg.texture} must be a weight above 0: without it no detail is asked for")


def with_grain(tokenizer: FrameAutoencoder) -> FrameAutoencoder:
    """Return a copy of a tokenizer that is given ``Grain``, and hardly shows it yet where it had none."""
    config: Any = tokenizer.config
    if config.grain:
        return copy.deepcopy(tokenizer)
    made: Any = FrameAutoencoder(**{key: value for key, value in config.items() if not key.startswith("_")} | {"grain": True})
    grained: FrameAutoencoder = made.to(next(tokenizer.parameters()).device).eval()
    assert grained.add_grain is not None
    fresh = {f"add_grain.{name}": value for name, value in grained.add_grain.state_dict().items()}
    grained.load_state_dict(tokenizer.state_dict() | fresh)
    return grained


def _roll(simulator: Simulator, segments: Sequence[Segment]) -> dict[str, Tensor]:
    """Roll B segments out under their recorded actions: latents ``(B, T, C, h, w)`` float16."""
    state = simulator.start([segment.context for segment in segments], [segment.seed for segment in segments])
    latents = list[Tensor]()
    for t in range(len(segments[0].actions)):
        state, step = simulator.step(state, np.stack([segment.actions[t] for segment in segments]), decode=False)
        latents.append(step.latents.cpu().half())
    return {"latents": torch.stack(latents, dim=1)}


@torch.no_grad()
def _told(tokenizer: FrameAutoencoder, shown: Rolled) -> str:
    """Say how well real and imagined frames are shown, and with how much detail, as a share of that of the real frames."""
    place = next(tokenizer.parameters()).device
    truth = shown.frames.reshape(-1, *shown.frames.shape[2:])  # (S T, H, W, 3)
    parts = shown.latents.flatten(0, 1).split(256)
    made = np.concatenate([to_uint8(tokenizer.decode(part.to(place).float())).cpu().numpy() for part in parts])
    seen, all_of_it = reconstruct(tokenizer, truth), detail(truth)
    return (
        f"held-out real frames {psnr(truth, seen).mean():.2f} dB, detail {detail(seen) / all_of_it:.0%}; "
        f"imagined ones {psnr(truth, made).mean():.2f} dB, detail {detail(made) / all_of_it:.0%}"
    )


def detail(frames: NDArray[np.uint8]) -> float:
    """Return the mean squared difference of neighbouring pixels, across and down, of frames ``(N, H, W, 3)``."""
    values = frames.astype(np.float32)
    return float(np.square(np.diff(values, axis=1)).mean() + np.square(np.diff(values, axis=2)).mean()) / 2


def _with(world: WorldModel, tokenizer: FrameAutoencoder, cfg: DictConfig) -> WorldModel:
    """Return the world with another decoder; what was measured of it with the old one is left out."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    told = {key: settings[key] for key in ("texture", "coarse", "batch_size", "segments", "horizon", "loop")}
    spec = replace(world.spec, recipe={**world.spec.recipe, "decoder": told}, quality={})
    return world.replaced(tokenizer=tokenizer.eval(), spec=spec)
