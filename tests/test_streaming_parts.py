"""What a step prepares once or does in place gives what the plain parts give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces

from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.networks import networks_of
from worldsim.simulator import Simulator
from worldsim.spaces import feature_maker, to_features, to_row
from worldsim.streaming_decoder import StreamingDecoder
from worldsim.streaming_heads import StreamingErrorHead, StreamingHeads
from worldsim.tokenizer import FrameAutoencoder, to_uint8
from worldsim.uncertainty import ErrorHead
from worldsim.windows import ring_mask, streaming_mask

SPACES: list[Space[Any]] = [
    spaces.Box(np.array([-1, 0, -np.inf], np.float32), np.array([1, 1, np.inf], np.float32)),
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.Dict({"steer": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(2)}),
]


def autoencoder(**given: Any) -> FrameAutoencoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"frame_size": (16, 16), "latent_channels": 4, "widths": (8, 16), "encoder_blocks": (1, 1)}
    built: FrameAutoencoder = FrameAutoencoder(**{**sizes, "decoder_blocks": (1, 2), **given})
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    built.eval().requires_grad_(False)
    return built


@pytest.mark.parametrize("rows", [1, 3])
def test_the_decoder_gives_the_numbers_of_the_plain_one(rows: int) -> None:
    tokenizer, latents = autoencoder(), torch.randn(rows, 4, 4, 4)
    kept = latents.clone()
    torch.testing.assert_close(StreamingDecoder(tokenizer)(latents), tokenizer.decode(latents), atol=1e-5, rtol=1e-5)
    assert torch.equal(latents, kept)
    half = StreamingDecoder(tokenizer, dtype=torch.bfloat16)(latents.bfloat16())
    assert half.dtype == torch.bfloat16
    assert 0 < float((half.float() - tokenizer.decode(latents)).abs().mean()) < 0.05


def test_the_decoder_reads_its_weights_once() -> None:
    tokenizer, latents = autoencoder(), torch.randn(1, 4, 4, 4)
    decoder = StreamingDecoder(tokenizer)
    before = decoder(latents)
    for parameter in tokenizer.parameters():
        parameter.mul_(1.5)
    assert torch.equal(decoder(latents), before)
    assert not torch.allclose(StreamingDecoder(tokenizer)(latents), before, atol=1e-2)


def test_other_tokenizers_decode_as_they_do(make_world: Any) -> None:
    world: WorldModel = make_world()

    class Other(torch.nn.Module):
        latent_shape = world.tokenizer.latent_shape

        def __init__(self) -> None:
            super().__init__()
            self.own = autoencoder()

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return self.own.decode(latents)

    other: Any = Other()
    latents = torch.randn(2, 4, 4, 4)
    plain = WorldModel(other, world.dynamics, world.heads, world.spec, world.contexts)
    assert torch.equal(networks_of(plain, "fp32").decode(latents), other.decode(latents))
    assert networks_of(plain, "bf16").decode(latents.bfloat16()).dtype == torch.bfloat16
    assert other.decode(latents).dtype == torch.float32


def test_what_is_no_number_is_grey_and_what_is_given_stays() -> None:
    given = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, torch.nan, torch.inf, -torch.inf]).repeat(3, 1, 1)
    kept = given.clone()
    assert to_uint8(given)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 128, 255, 0]
    torch.testing.assert_close(given, kept, equal_nan=True)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sink", [0, 2])
def test_the_mask_of_a_ring_is_that_of_any_memory(make_world: Any, sink: int, compiled: bool) -> None:
    """From the first frame on, and long after the ring has gone round; the new frame sees itself in its own slot."""
    world: WorldModel = make_world()
    simulator, window = Simulator(world, sink=sink), world.spec.window
    simulator.compile = compiled  # which passes slots on in another form, and changes nothing else here
    state = simulator.start([world.contexts[0]], [0])
    for action in np.zeros((2 * window + 3, 1, 3), np.float32):
        positions = state.position.tolist()
        remembered, slot = simulator._make_room(state, positions)
        assert remembered[0, int(slot)] == positions[0]
        before = torch.where(remembered == positions[0], -1, remembered)  # what the new frame can look back at
        wanted = streaming_mask(state.position[:, None], before, window, sink=sink)[..., :-1]
        wanted[..., int(slot)] = 0
        assert torch.equal(ring_mask(remembered), wanted)
        assert torch.equal(simulator._mask(remembered, positions), wanted)
        state, _ = simulator.step(state, action)
        assert torch.equal(state.remembered, remembered)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_features_that_were_prepared_are_the_same(space: Space[Any]) -> None:
    space.seed(0)
    rows = np.stack([to_row(space, space.sample()) for _ in range(5)])
    np.testing.assert_array_equal(feature_maker(space)(rows), to_features(space, rows))


def shaken(module: Any) -> Any:
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval().requires_grad_(False)


def test_heads_tell_what_the_plain_ones_read_in_physical_units() -> None:
    heads, hidden = shaken(Heads(tokens=4, width=8, state_size=2)), torch.randn(3, 4, 8)
    mean, std = torch.tensor([100.0, -3.0]), torch.tensor([20.0, 0.5])
    plain, kept = heads(hidden[:, None]), hidden.clone()
    told = StreamingHeads(heads, mean=mean.tolist(), std=std.tolist())(hidden)
    torch.testing.assert_close(told.end, plain.end_logit, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(told.reward, plain.reward, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(told.state, plain.state[:, 0] * std + mean, atol=1e-4, rtol=1e-4)
    assert torch.equal(hidden, kept)
    half = StreamingHeads(heads, mean=mean.tolist(), std=std.tolist(), dtype=torch.bfloat16)(hidden.bfloat16())
    assert half.state.dtype == torch.float32
    difference = (half.state - told.state).abs() / std
    assert 0 < float(difference.max()) < 0.3


def test_the_error_head_tells_the_same_chance() -> None:
    head, hidden = shaken(ErrorHead(tokens=4, width=8, mean=2.0, spread=0.7, threshold=2.4)), torch.randn(5, 4, 8)
    made = StreamingErrorHead(head)(hidden)
    torch.testing.assert_close(made.squeeze(1), head.chance(hidden), atol=1e-5, rtol=1e-5)
    assert made.std() > 0.01
    before = made.clone()
    shaken(head).threshold = 9.0
    lean = StreamingErrorHead(head)
    assert not torch.allclose(lean(hidden), before, atol=1e-2)


def test_heads_read_their_weights_once() -> None:
    heads, head, hidden = shaken(Heads(tokens=4, width=8, state_size=2)), shaken(ErrorHead(tokens=4, width=8)), torch.randn(3, 4, 8)
    lean = StreamingHeads(heads, mean=[0.0, 0.0], std=[1.0, 1.0])
    sure, plain, chance = StreamingErrorHead(head), lean(hidden).state, head.chance(hidden)
    for parameter in (*heads.parameters(), *head.parameters()):
        parameter.mul_(1.5)
    assert torch.equal(lean(hidden).state, plain)
    torch.testing.assert_close(sure(hidden).squeeze(1), chance, atol=1e-5, rtol=1e-5)
