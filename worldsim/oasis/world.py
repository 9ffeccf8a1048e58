"""OasisWorld: denoiser, autoencoder and what is known of them, from two safetensors files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from worldsim.conditioning import Vocabulary
from worldsim.contexts import Contexts
from worldsim.devices import find_device
from worldsim.oasis.actions import ACTIONS, action_space
from worldsim.oasis.dit import OasisDiT
from worldsim.oasis.loading import NAME, REPOSITORY, find_weights, load_dit, load_vae
from worldsim.oasis.vae import OasisVAE
from worldsim.spec import Sampling, WorldSpec

WINDOW = 32
"""Frames that the denoiser was trained to see, the one being made among them."""

FPS = 20.0


class OasisWorld(nn.Module):
    """An Oasis model, ready to run: by ``OasisRollout``, or many rows by ``OasisSimulator``. It ships no start contexts.

    Args:
        dit: The denoiser.
        vae: The autoencoder.
        spec: What it is.
        fingerprint: sha256 over the files it was loaded from; empty for one that was not.
    """

    def __init__(self, dit: OasisDiT, vae: OasisVAE, spec: WorldSpec | None = None, *, fingerprint: str = "") -> None:
        super().__init__()
        self.dit, self.vae, self.fingerprint, self.uncertainty = dit, vae, fingerprint, None
        self.starter = self.labeller = None
        self.spec, self.contexts = spec or describe(vae.frame_size), Contexts(())

    @property
    def tokenizer(self) -> OasisVAE:
        """The autoencoder, under the name that it has in other worlds."""
        return self.vae

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dit.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the denoiser's weights."""
        return self.dit.dtype


def describe(frame_size: tuple[int, int] = (360, 640)) -> WorldSpec:
    """Return the spec of Oasis: 20 frames a second, 25 actions, 10 denoising steps, a window of 32 frames, no reward and no end."""
    return WorldSpec(
        name=NAME,
        frame_size=frame_size,
        fps=FPS,
        action_space=action_space(),
        vocabulary=Vocabulary(),
        reward_range=(0.0, 0.0),
        window=WINDOW,
        context_frames=1,
        sampling=Sampling(steps=10, context_level=1.0, shortcut=False),
        source={"id": "Minecraft"},
        licence=f"the weights' own: see {REPOSITORY} on the Hub",
    )


def from_oasis(
    dit_safetensors: str | Path,
    vae_safetensors: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    frame_size: tuple[int, int] = (360, 640),
    head_dim: int = 64,
) -> OasisWorld:
    """Load Oasis-500M, or a model of its kind with other sizes, which are read off the files.

    Args:
        dit_safetensors: The denoiser, ``oasis500m.safetensors``. Its rotary frequencies may have any of their aliases, or be missing.
        vae_safetensors: The autoencoder, ``vit-l-20.safetensors``.
        device: Where to put it.
        dtype: Weights' type; 837 million weights are 3.3 GB as float32.
        frame_size: Height and width of frames in pixels.
        head_dim: Width of an attention head, which the files do not tell.

    Returns:
        The world in evaluation mode.

    Raises:
        ValueError: A file is missing, damaged, pickled or something else, the two do not fit each other, or the device is not there.
    """
    place, files = find_device(device), (Path(dit_safetensors), Path(vae_safetensors))
    dit = load_dit(files[0], head_dim=head_dim, dtype=dtype)
    vae = load_vae(files[1], frame_size=frame_size, head_dim=head_dim, dtype=dtype)
    _check_fit(dit, vae, files)
    world = OasisWorld(dit, vae, fingerprint=_digest(files))
    return world.to(place).eval().requires_grad_(False)


@lru_cache(maxsize=1)
def from_pretrained(
    folder: str | Path | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> OasisWorld:
    """Load ``oasis-500m`` from the Hub's cache or a folder; the last one loaded is kept and shared.

    Raises:
        ValueError: The weights are not on this machine; says how to get them. Else as ``from_oasis``.
    """
    return from_oasis(*find_weights(folder), device=device, dtype=dtype)


def _check_fit(dit: OasisDiT, vae: OasisVAE, files: tuple[Path, Path]) -> None:
    height, width = vae.grid
    if dit.channels != vae.channels or height % dit.patch or width % dit.patch:
        raise ValueError(
            f"{files[0]} takes latents of {dit.channels} channels in patches of {dit.patch}, {files[1]} makes {vae.latent_shape}: "
            "give two files of one model"
        )
    if dit.external_cond.in_features != len(ACTIONS):
        raise ValueError(f"{files[0]} takes {dit.external_cond.in_features} action numbers, Oasis has {len(ACTIONS)}: give an Oasis model")


def _digest(files: tuple[Path, Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            whole.update(hashlib.file_digest(data, "sha256").digest())
    return whole.hexdigest()
