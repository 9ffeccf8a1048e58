"""Oasis against outputs of the public code on the same random weights (``benchmarks/oasis_golden.py`` wrote them)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldsim.oasis import OasisRollout, OasisWorld, from_oasis
from worldsim.oasis.rollout import Cache
from worldsim.oasis.vae import SCALE
from worldsim.tokenizer import to_uint8

torch.set_num_threads(1)
GOLDEN = Path(__file__).parent / "golden" / "oasis.safetensors"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and sizes."""
    with safe_open(GOLDEN, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["sizes"])  # noqa: SIM118


@pytest.fixture(scope="module")
def world(golden: tuple[dict[str, Tensor], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> OasisWorld:
    """Return the tiny world, loaded from two files as the published ones are."""
    tensors, sizes = golden
    folder = tmp_path_factory.mktemp("oasis")
    for part in ("dit", "vae"):
        own = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
        save_file(own, folder / f"{part}.safetensors")
    height, width = sizes["frame_size"]
    made = from_oasis(
        folder / "dit.safetensors", folder / "vae.safetensors", frame_size=(height, width), head_dim=sizes["width"] // sizes["heads"]
    )
    made.spec = dataclasses.replace(made.spec, window=sizes["window"])
    return made


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def test_the_denoiser(golden: tuple[dict[str, Tensor], dict[str, Any]], world: OasisWorld) -> None:
    tensors, _ = golden
    with torch.inference_mode():
        v = world.dit(tensors["forward.latents"], tensors["forward.steps"], tensors["forward.actions"])
    assert distance(v, tensors["forward.v"]) < TOLERANCE
    assert tensors["forward.v"].std() > 0.1


@torch.inference_mode()
def test_the_autoencoder(golden: tuple[dict[str, Tensor], dict[str, Any]], world: OasisWorld) -> None:
    tensors, _ = golden
    grid = (2, world.vae.channels, *world.vae.grid)
    mean = tensors["vae_io.mean"].transpose(1, 2).reshape(grid)
    assert distance(world.vae.encode(tensors["vae_io.frames"]), mean * SCALE) < TOLERANCE
    codes = tensors["vae_io.codes"].transpose(1, 2).reshape(grid)
    assert distance(world.vae.decode(codes * SCALE), tensors["vae_io.decoded"]) < TOLERANCE
    assert tensors["vae_io.mean"].std() > 0.1
    assert tensors["vae_io.decoded"].std() > 0.1


def roll(golden: tuple[dict[str, Tensor], dict[str, Any]], world: OasisWorld, cache: Cache) -> tuple[Tensor, Tensor]:
    """Repeat the golden rollout: return latents of all frames and how far each is from the public ones ``(T,)``."""
    tensors, sizes = golden
    given, actions = sizes["prompt_frames"], tensors["rollout.actions"].numpy()
    prompt = tensors["rollout.prompt"].numpy()
    rollout = OasisRollout(world, prompt, actions=actions[1:given], steps=sizes["sampling_steps"], cache=cache)
    made = [*rollout.latents.unbind()]
    for action, noise in zip(actions[given:], tensors["rollout.noises"], strict=True):
        made.append(rollout.step_latents(action, noise=noise))
    latents = torch.stack(made)
    return latents, (latents - tensors["rollout.latents"]).abs().flatten(1).amax(1)


@pytest.mark.parametrize("cache", ["window", "off"])
def test_a_rollout_whose_window_is_recomputed_equals_the_public_one_throughout(
    golden: tuple[dict[str, Tensor], dict[str, Any]], world: OasisWorld, cache: Cache
) -> None:
    tensors, sizes = golden
    latents, apart = roll(golden, world, cache)
    assert len(latents) > sizes["window"] + 1, "the window slides"
    assert apart.max() < TOLERANCE
    with torch.inference_mode():
        frames = to_uint8(world.vae.decode(latents))
    levels = np.abs(frames.numpy().astype(int) - tensors["rollout.frames"].numpy())
    assert levels.max() <= 1, "the public script rounds down"


def test_a_streamed_rollout_equals_the_public_one_until_the_window_slides(
    golden: tuple[dict[str, Tensor], dict[str, Any]], world: OasisWorld
) -> None:
    _, sizes = golden
    _, apart = roll(golden, world, "stream")
    assert apart[: sizes["window"]].max() < TOLERANCE
    assert apart[sizes["window"] :].min() > TOLERANCE, "memory reaches further back than the window"
