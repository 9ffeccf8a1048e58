"""A tiny world, built here and never trained: 16x16 frames, two blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces

from worldsim.conditioning import Vocabulary
from worldsim.contexts import Context, Contexts
from worldsim.dit import VideoDiT
from worldsim.episode import Conditioning
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.spaces import feature_size, to_row
from worldsim.spec import Sampling, WorldSpec
from worldsim.tokenizer import FrameAutoencoder

torch.set_num_threads(1)

MakeWorld = Callable[..., WorldModel]


def build_world(
    action_space: Space[Any] | None = None, *, seed: int = 0, contexts: int = 4, steps: int = 2, end_logit: float | None = None
) -> WorldModel:
    """Build an untrained world whose every weight is random, so that actions, context and noise all show in its frames.

    ``end_logit`` lets its end head say the same whatever it sees: -50 for never, 50 for at once.
    """
    torch.manual_seed(seed)
    space = action_space or spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
    vocabulary = Vocabulary(tags=("dark", "wet"), words=("grey", "road"), numbers={"red": (0.5, 0.2)})
    tokenizer = FrameAutoencoder(frame_size=(16, 16), latent_channels=4, widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    dynamics = VideoDiT(
        latent_shape=(4, 4, 4),
        action_features=feature_size(space),
        condition_features=vocabulary.size,
        width=32,
        depth=2,
        heads=2,
        temporal_every=2,
        window=4,
    )
    heads = Heads(tokens=4, width=32, state_size=2, hidden=16)
    for module in (tokenizer, dynamics, heads):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.08) if parameter.ndim > 1 else None
    if end_logit is not None:
        last: Any = heads.mlp[-1]
        torch.nn.init.constant_(last.bias[heads.sizes[0] : heads.sizes[0] + 1], end_logit)
    spec = WorldSpec(
        name="tiny",
        frame_size=(16, 16),
        fps=25.0,
        action_space=space,
        vocabulary=vocabulary,
        state_names=("speed", "offset"),
        state_mean=(20.0, 0.0),
        state_std=(5.0, 1.0),
        reward_range=(-1.0, 1.0),
        window=4,
        context_frames=4,
        sampling=Sampling(steps=steps),
        source={"id": "worldsim/CarRacing-v0"},
    )
    random = np.random.default_rng(seed)
    space.seed(seed)
    items = tuple(
        Context(
            random.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8),
            np.stack([to_row(space, space.sample()) for _ in range(3)]),
            Conditioning(("dark",), {"red": 0.4}, "grey road"),
            f"context {i}",
        )
        for i in range(contexts)
    )
    return WorldModel(tokenizer, dynamics, heads, spec, Contexts(items)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def make_world() -> MakeWorld:
    """Return ``build_world``."""
    return build_world


@pytest.fixture(scope="session")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved tiny world."""
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    build_world().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def endless_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved tiny world whose episodes do not end by themselves."""
    folder = tmp_path_factory.mktemp("endless") / "tiny"
    build_world(end_logit=-50.0).save_pretrained(folder)
    return folder
