"""Training of the labeller: frames and what their pixels show, from a source that knows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from worldsim.checkpoint import resolve, save_component
from worldsim.encoding import encode_frames
from worldsim.evaluation.labels import confusion, iou_by_class, mean_iou
from worldsim.labeller import NAME, SEGMENTATION, Labeller
from worldsim.model import WorldModel
from worldsim.targets import instantiate_allowed
from worldsim.training.run import check_counts, open_data, seeded
from worldsim.types import EpisodeStore

_FEWEST = 1e-3  # share of pixels below which a class weighs no more


@dataclass(frozen=True)
class Labelled:
    """Latents ``(K, C, h, w)`` float16 of K frames, and the class of each of their pixels ``(K, H, W)`` uint8."""

    latents: Tensor
    classes: Tensor


def train_labels(cfg: DictConfig) -> float:
    """Train the labeller of ``cfg.world`` by ``configs/train_labels.yaml`` and save it into the world's folder, or ``cfg.out``.

    Returns:
        Mean IoU over held-out frames in 0..1, NaN without any.

    Raises:
        ValueError: A count is below 1, or world and dataset cannot be read, do not fit each other, or the dataset holds no segmentation.
    """
    check_counts(cfg, "steps", "batch_size")
    folder, store = Path(cfg.out) if cfg.out else resolve(cfg.world) / NAME, open_data(cfg)
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device or "cpu")
    names = check_labelled(world, store)
    with seeded(cfg.seed):
        labeller: Labeller = instantiate_allowed(
            cfg.model, latent_shape=list(world.tokenizer.latent_shape), frame_size=list(world.spec.frame_size), classes=list(names)
        )
    train = gather(world, store, "train")
    print(f"learning {', '.join(names)} from {len(train.classes):,} frames")
    place: Any = labeller  # diffusers gives its `to` no types
    fit(
        place.to(world.device),
        train,
        steps=cfg.steps,
        batch_size=cfg.batch_size,
        noise=cfg.noise,
        lr=cfg.lr,
        seed=cfg.seed,
        say=lambda text: print(text, flush=True),
    )
    quality = float("nan")
    if store.split("heldout"):
        matrix = measure(labeller, gather(world, store, "heldout"))
        quality, each = mean_iou(matrix), iou_by_class(matrix)
        told = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, each, strict=True) if value is not None)
        print(f"held-out mean IoU {quality:.3f}: {told}")
    save_component(labeller, folder)
    print(f"labeller saved to {folder}: gym.make('WorldSim-v0', world={str(cfg.world)!r}, labels=True)")
    return quality


def check_labelled(world: WorldModel, store: EpisodeStore) -> tuple[str, ...]:
    """Return the names of the classes that a dataset's segmentation has.

    Raises:
        ValueError: It holds none, or frames of another size than the world's.
    """
    names = store.info.labels.get(SEGMENTATION)
    if not names:
        raise ValueError(f"dataset {store.info.name!r} holds no segmentation: record one with 'worldsim collect record.labels=true'")
    if tuple(store.info.frame_size) != tuple(world.spec.frame_size):
        theirs, mine = ("x".join(map(str, size)) for size in (store.info.frame_size, world.spec.frame_size))
        raise ValueError(f"dataset {store.info.name!r} has frames of {theirs}, world {world.spec.name!r} makes {mine}: record that size")
    return tuple(names)


def gather(world: WorldModel, store: EpisodeStore, split: str) -> Labelled:
    """Encode the frames of a split; their segmentation comes along."""
    latents, shown = [], []
    for i in store.split(split):
        episode = store[i]
        latents.append(torch.from_numpy(encode_frames(world.tokenizer, episode.frames, world.device)))  # (T + 1, C, h, w)
        shown.append(torch.from_numpy(episode.labels[SEGMENTATION]))  # (T + 1, H, W)
    return Labelled(torch.cat(latents), torch.cat(shown))


def fit(
    labeller: Labeller,
    data: Labelled,
    *,
    steps: int,
    batch_size: int,
    noise: float,
    lr: float,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Fit a labeller in place; the same labeller, data and seed give the same weights.

    The loss is the cross entropy, in which a class weighs by one over the root of its share of the pixels.

    Args:
        labeller: What is trained.
        data: Frames.
        steps: Training steps.
        batch_size: Frames a step.
        noise: Each frame's latents get noise of a standard deviation between 0 and this.
        lr: Highest learning rate.
        seed: Of the order of frames and of the noise.
        say: Is told the loss now and then.
    """
    generator, device = torch.Generator().manual_seed(seed), labeller.device
    weight = class_weights(data.classes, len(labeller.classes)).to(device)
    optimizer = torch.optim.AdamW(labeller.parameters(), lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    labeller.train()
    begun = time.monotonic()
    for step in range(steps):
        rows = torch.randint(len(data.classes), (batch_size,), generator=generator)
        latents = data.latents[rows].float()  # (N, C, h, w)
        strength = noise * torch.rand(batch_size, 1, 1, 1, generator=generator)
        latents = latents + strength * torch.randn(latents.shape, generator=generator)
        loss = F.cross_entropy(labeller(latents.to(device)), data.classes[rows].long().to(device), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            left = (time.monotonic() - begun) / (step + 1) * (steps - step - 1)
            say(f"step {step + 1}/{steps}: loss {loss.item():.4f}, {left:.0f} s left")
    labeller.eval().requires_grad_(False)


def class_weights(classes: Tensor, count: int) -> Tensor:
    """Return one weight a class ``(count,)``, one over the root of its share of the pixels; those of a mean pixel are 1 on average."""
    share = torch.bincount(classes.flatten().int(), minlength=count).double() / classes.numel()
    weight = share.clamp(min=_FEWEST).rsqrt()
    return (weight / (weight * share).sum()).float()


@torch.no_grad()
def measure(labeller: Labeller, data: Labelled, *, batch: int = 256) -> NDArray[np.int64]:
    """Return how often each class ``(K, K)``, first the true one, is read as which."""
    read = torch.cat([labeller.classify(part.float().to(labeller.device)).cpu() for part in data.latents.split(batch)])
    return confusion(data.classes.numpy(), read.numpy(), len(labeller.classes))
