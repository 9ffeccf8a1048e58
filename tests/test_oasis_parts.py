"""Oasis: its schedule, its actions and its published sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.oasis import ACTIONS, OasisDiT, OasisVAE, action_row, action_space
from worldsim.oasis.sampler import ddim, ladder, signal_shares


def test_the_schedule_is_the_published_one() -> None:
    shares = signal_shares()
    known = {0: 0.99970, 14: 0.99532, 99: 0.96051, 199: 0.89568, 499: 0.5, 799: 0.10432, 899: 0.03949, 999: 3.0e-7}
    assert len(shares) == 1000
    assert all(shares[step] == pytest.approx(share, abs=1e-5) for step, share in known.items())
    assert shares[999] == pytest.approx(3.0e-7, rel=0.05)
    assert ladder(10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert ladder(1) == [999]


def test_sampling_ends_at_what_a_perfect_prediction_says() -> None:
    clean, noise = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))

    def predict(x: torch.Tensor, i: int) -> torch.Tensor:
        share = signal_shares()[ladder(5)[i]]
        spread = (x - share**0.5 * clean) / (1 - share) ** 0.5
        v: torch.Tensor = share**0.5 * spread - (1 - share) ** 0.5 * clean
        return v

    assert torch.allclose(ddim(predict, noise, steps=5), clean, atol=1e-4)


def test_the_action_space() -> None:
    space = action_space()
    assert (len(ACTIONS), space.shape) == (25, (25,))
    assert (ACTIONS[0], ACTIONS[11], ACTIONS[15], ACTIONS[24]) == ("inventory", "forward", "cameraX", "drop")
    row = action_row("forward", "jump", camera=(-1.0, 0.5))
    assert space.contains(row)
    assert {ACTIONS[i]: row[i] for i in np.flatnonzero(row)} == {"forward": 1, "jump": 1, "cameraX": -1, "cameraY": 0.5}
    assert isinstance(space, spaces.Box)


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        dit, vae = OasisDiT(), OasisVAE()
    names, other = dit.state_dict(), vae.state_dict()
    assert (len(names), len(other)) == (334, 228)
    assert (sum(p.numel() for p in dit.parameters()), sum(p.numel() for p in vae.parameters())) == (607_943_744, 229_246_160)
    expected = {
        "x_embedder.proj.weight": (1024, 16, 2, 2),
        "t_embedder.mlp.0.weight": (1024, 256),
        "external_cond.weight": (1024, 25),
        "spatial_rotary_emb.freqs": (16,),
        "temporal_rotary_emb.freqs": (32,),
        "blocks.15.s_attn.to_qkv.weight": (3072, 1024),
        "blocks.15.t_attn.rotary_emb.freqs": (32,),
        "blocks.0.t_mlp.fc1.weight": (4096, 1024),
        "blocks.0.s_adaLN_modulation.1.weight": (6144, 1024),
        "final_layer.linear.weight": (64, 1024),
        "final_layer.adaLN_modulation.1.bias": (2048,),
    }
    assert {name: tuple(names[name].shape) for name in expected} == expected
    assert tuple(other["quant_conv.weight"].shape) == (32, 1024)
    assert tuple(other["decoder.11.attn.qkv.bias"].shape) == (3072,)
    assert tuple(other["predictor.weight"].shape) == (1200, 1024)
