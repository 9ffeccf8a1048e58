"""StreamingDiT gives what VideoDiT gives for one new frame a row, whatever the architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from worldsim.dit import FrameInputs, FrameOutputs, VideoDiT
from worldsim.sampler import euler
from worldsim.streaming_dit import Shared, StreamingDiT, level_embedding
from worldsim.windows import streaming_mask

ROWS, WINDOW, LEVELS, SIZES, HISTORY_LEVEL = 3, 4, (0.0, 0.4, 0.9), (0.5, 0.25, 0.0), 0.9
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no history": {"history": 0},
    "history 1": {"history": 1},
    "anchor": {"anchor": True},
    "carry": {"carry": 3},
    "carry, patches of one, an anchor": {"carry": 5, "patch_size": 1, "anchor": True},
    "anchor, history 1": {"anchor": True, "history": 1},
    "patch 1": {"patch_size": 1},
    "patch 4": {"patch_size": 4},
    "wide latents": {"latent_shape": (3, 4, 8), "patch_size": 2},
    "registers": {"registers": 3},
    "registers, no history": {"registers": 2, "history": 0},
    "conv": {"conv": True},
    "long skips": {"long_skips": True},
    "long skips, odd depth": {"long_skips": True, "depth": 5},
    "gelu": {"activation": "gelu"},
    "all over time": {"temporal_every": 1},
    "all of it": {"registers": 1, "long_skips": True, "history": 1, "patch_size": 4, "activation": "gelu", "mlp_ratio": 2.0},
}


def build(**switches: Any) -> VideoDiT:
    """A small network of which every weight is random."""
    torch.manual_seed(0)
    given = {"latent_shape": (4, 4, 4), "action_features": 3, "condition_features": 2, "width": 32, "depth": 4, "heads": 2}
    dit: VideoDiT = VideoDiT(**{**given, "temporal_every": 2, "window": WINDOW, "history": 2, **switches})
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    dit.eval().requires_grad_(False)
    return dit


def draw_inputs(dit: VideoDiT, *, seed: int = 1) -> dict[str, Tensor]:
    """A step of three rows, one with an empty window, one with a half-full one, one that slides."""
    made = torch.Generator().manual_seed(seed)
    layers, tokens, heads, size = dit.cache_shape()

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made)

    return {
        "latents": draw(ROWS, *dit.config.latent_shape),
        "history": draw(ROWS, dit.config.history + dit.config.anchor, *dit.config.latent_shape),
        "features": draw(ROWS, 3),
        "condition": draw(ROWS, 2),
        "keys": draw(ROWS, layers, tokens, heads, WINDOW, size),
        "values": draw(ROWS, layers, tokens, heads, WINDOW, size),
        "position": torch.tensor([0, 2, 1_000_003]),
        "remembered": torch.tensor([[-1] * WINDOW, [0, 1, -1, -1], [1_000_000, 1_000_001, 1_000_002, 999_999]]),
    }


def plainly(dit: VideoDiT, x: dict[str, Tensor], number: int) -> FrameOutputs:
    ones = torch.ones(ROWS, 1)
    inputs = FrameInputs(
        latents=x["latents"][:, None],
        history=x["history"].flatten(1, 2)[:, None],
        level=ones * LEVELS[number],
        step=ones * SIZES[number],
        history_level=ones * HISTORY_LEVEL,
        actions=x["features"][:, None],
        known=ones.bool(),
        condition=x["condition"],
        positions=x["position"][:, None],
    )
    mask = streaming_mask(x["position"][:, None], x["remembered"], WINDOW)
    out: FrameOutputs = dit(inputs, mask, (x["keys"].transpose(0, 1), x["values"].transpose(0, 1)))
    return out


def share(lean: StreamingDiT, dit: VideoDiT, x: dict[str, Tensor]) -> Shared:
    levels = level_embedding(dit, LEVELS, SIZES, HISTORY_LEVEL)
    mask = streaming_mask(x["position"][:, None], x["remembered"], WINDOW)
    keys, values = (torch.nn.functional.pad(x[name], (0, 0, 0, 1)) for name in ("keys", "values"))
    return lean.share(levels, x["features"], x["condition"], lean.patches(x["history"]), x["position"], mask, (keys, values), WINDOW)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_every_pass_gives_the_numbers_of_the_plain_network(switches: dict[str, Any]) -> None:
    dit = build(**switches)
    lean, x = StreamingDiT(dit), draw_inputs(dit)
    shared, patches = share(lean, dit, x), lean.patches(x["latents"])
    for number in range(len(LEVELS)):
        plain = plainly(dit, x, number)
        hidden = lean.run(patches, shared.modulation[number], shared)
        made = lean.latents(lean.estimate(hidden, patches, shared.modulation[number], shared))
        for own, other in (
            (hidden, plain.hidden[:, 0]),
            (made, plain.latents[:, 0]),
            (shared.keys[..., -1, :], plain.keys[..., 0, :]),
            (shared.values[..., -1, :], plain.values[..., 0, :]),
        ):
            torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slots", [[3, 3, 3], [0, 4, 2]], ids=["one slot", "a slot each"])
def test_a_frame_may_have_any_slot_of_the_ring(slots: list[int]) -> None:
    """With the slots of a row in another order, and the new frame's among them, everything is the same but for that order."""
    dit = build()
    lean, x = StreamingDiT(dit), draw_inputs(dit)
    last, patches = share(lean, dit, x), lean.patches(x["latents"])
    order = torch.stack([torch.tensor([*range(slot), WINDOW, *range(slot, WINDOW)]) for slot in slots])  # (B, P)

    def moved(ring: Tensor) -> Tensor:
        return torch.stack([row[..., own, :] for row, own in zip(ring, order, strict=True)])  # (B, layers, N, heads, P, d)

    held = (moved(last.keys.transpose(0, 1)), moved(last.values.transpose(0, 1)))
    kept = [one.clone() for one in held]
    mask = torch.stack([row[..., own] for row, own in zip(last.mask[:, 0], order, strict=True)])  # (B, 1, P)
    levels = level_embedding(dit, LEVELS, SIZES, HISTORY_LEVEL)
    slot = slots[0] if len(set(slots)) == 1 else torch.tensor(slots)
    first = lean.share(levels, x["features"], x["condition"], lean.patches(x["history"]), x["position"], mask, held, slot)
    outs = [lean.run(patches, told.modulation[0], told) for told in (last, first)]
    torch.testing.assert_close(outs[1], outs[0], atol=1e-5, rtol=1e-5)
    for own, other, before in ((first.keys, last.keys, 0), (first.values, last.values, 1)):
        torch.testing.assert_close(own.transpose(0, 1), moved(other.transpose(0, 1)), atol=1e-5, rtol=1e-5)
        assert torch.equal(held[before], kept[before])


def test_patches_are_put_together_again() -> None:
    lean = StreamingDiT(build(latent_shape=(3, 4, 8)))
    latents = torch.randn(2, 5, 3, 4, 8)
    assert lean.patches(latents).shape == (2, 5, 8, 12)
    assert torch.equal(lean.latents(lean.patches(latents)), latents)


def test_weights_are_read_once() -> None:
    dit = build()
    lean, x = StreamingDiT(dit), draw_inputs(dit)
    patches, shared = lean.patches(x["latents"]), share(lean, dit, x)
    before = lean.run(patches, shared.modulation[0], shared)
    old = build()
    for parameter in dit.parameters():
        parameter.mul_(1.5)
    again = share(lean, old, x)
    assert torch.equal(lean.run(patches, again.modulation[0], again), before)
    other = StreamingDiT(dit)
    told = share(other, dit, x)
    after = other.run(patches, told.modulation[0], told)
    torch.testing.assert_close(after, plainly(dit, x, 0).hidden[:, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)


def test_half_precision_is_near() -> None:
    dit = build()
    full, half, x = StreamingDiT(dit), StreamingDiT(dit, dtype=torch.bfloat16), draw_inputs(dit)
    outs = []
    for lean in (full, half):
        shared, patches = share(lean, dit, x), lean.patches(x["latents"])
        hidden = lean.run(patches, shared.modulation[0], shared)
        made = lean.estimate(hidden, patches, shared.modulation[0], shared)
        assert (hidden.dtype, shared.keys.dtype, made.dtype) == (lean.dtype, torch.float32, torch.float32)
        outs.append(made)
    assert 0 < float((outs[0] - outs[1]).abs().mean()) < 0.05


def test_steps_of_the_sampler_add_up() -> None:
    """A denoiser that always says the same is followed evenly, and reached."""
    goal, noise, seen = torch.tensor([4.0]), torch.tensor([0.0]), list[float]()

    def denoise(z: Tensor, number: int) -> Tensor:
        assert number == len(seen)
        seen.append(float(z))
        return goal

    assert torch.equal(euler(denoise, noise, steps=4), goal)
    assert seen == [0.0, 1.0, 2.0, 3.0]
