"""Oasis-500M, a Minecraft world, read from its public weights and run with a cache of temporal keys and values.

An independent implementation: a video DiT with factorised space and time attention under adaLN-zero (Peebles and Xie 2023), trained
by diffusion forcing (Chen et al. 2024) on the latents of a ViT autoencoder, and sampled by DDIM (Song et al. 2021). It has the
state-dict names and shapes of the published files.
"""

from __future__ import annotations

from worldsim.oasis.actions import ACTIONS, action_row, action_space
from worldsim.oasis.dit import OasisDiT
from worldsim.oasis.loading import NAME, find_weights
from worldsim.oasis.rollout import OasisRollout
from worldsim.oasis.simulator import OasisSimulator
from worldsim.oasis.vae import OasisVAE
from worldsim.oasis.world import OasisWorld, from_oasis, from_pretrained

__all__ = [
    "ACTIONS",
    "NAME",
    "OasisDiT",
    "OasisRollout",
    "OasisSimulator",
    "OasisVAE",
    "OasisWorld",
    "action_row",
    "action_space",
    "find_weights",
    "from_oasis",
    "from_pretrained",
]
