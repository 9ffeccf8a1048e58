"""``worldsim train decoder``: detail where there was a mean, and nothing else of the world changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from omegaconf import DictConfig
from test_uncertainty import _episode as episode
from torch import nn

from worldsim.config import compose
from worldsim.datasets.writer import write_dataset
from worldsim.model import WorldModel
from worldsim.streaming_decoder import StreamingDecoder
from worldsim.tokenizer import FrameAutoencoder, to_model
from worldsim.training.decoder import detail, train_decoder, with_grain
from worldsim.training.decoder_task import DecoderBatch, DecoderLoss, DecoderTask, Rolled
from worldsim.training.optimizers import build_optimizer
from worldsim.training.texture import FLOOR, Texture
from worldsim.training.tokenizer_task import reconstruct
from worldsim.training.uncertainty import train_uncertainty

MakeWorld = Callable[..., WorldModel]
SIZE = (16, 16)
SMALL = [
    "segments=6",
    "context=4",
    "horizon=5",
    "batch=3",
    "batch_size=2",
    "coarse=4",
    "loop.steps=3",
    "loop.decay=1",
    "loop.sample_every=3",
]


def tokenizer() -> FrameAutoencoder:
    torch.manual_seed(0)
    made: Any = FrameAutoencoder(frame_size=SIZE, latent_channels=4, widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    small: FrameAutoencoder = made.eval()
    return small


def speckled(count: int, seed: int) -> NDArray[np.uint8]:
    """Draw S pairs of speckled frames of any shade, ``(S, 2, H, W, 3)``."""
    rng = np.random.default_rng(seed)
    shade = rng.integers(96, 160, (count, 1, 1, 1, 1))
    return np.broadcast_to(shade + rng.choice((-48, 48), (count, 1, *SIZE, 1)), (count, 2, *SIZE, 3)).astype(np.uint8)


def shades() -> FrameAutoencoder:
    """A tokenizer whose latents tell the shade of frames alone, not where speckles are: the best that can be made of it is their mean."""
    made = with_grain(tokenizer())
    made.encoder = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 4, 1))
    return made


def trained(autoencoder: FrameAutoencoder, *, texture: float = 0.002, steps: int = 1) -> tuple[DecoderLoss, DecoderTask]:
    frames = speckled(64, seed=0)
    with torch.no_grad():
        encoded: Any = autoencoder.encode(to_model(torch.from_numpy(frames)).flatten(0, 1))
        latents = encoded.unflatten(0, (64, 2))
    module, rolled = DecoderLoss(autoencoder, texture=texture, coarse=4), Rolled(latents.half(), frames)
    task, generator = DecoderTask(module, rolled, rolled, batch_size=8), torch.Generator().manual_seed(0)
    optimizer = build_optimizer(module.train(), "adamw", lr=5e-3, weight_decay=0.0)
    for step in range(steps):
        loss, _ = module(task.batch(step, generator, torch.device("cpu")))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval(), task


def test_texture_is_brought_to_what_decodes_to_a_mean_and_without_it_is_not() -> None:
    found = list[float]()
    for texture in (0.1, 1e-9):
        autoencoder = trained(shades(), texture=texture, steps=60)[0].autoencoder
        found.append(detail(reconstruct(autoencoder, speckled(16, seed=1)[:, 0])))
    real = detail(speckled(16, seed=1)[:, 0])
    assert real / 4 < found[0] < real
    assert found[0] > 2.5 * found[1]


def test_texture_tells_speckles_from_their_mean_and_not_where_they_are() -> None:
    texture, frames = Texture(6), to_model(torch.from_numpy(speckled(8, seed=0))).flatten(1, 2)
    plain, turned = frames.mean((2, 3), keepdim=True).expand_as(frames), frames.flip(2)
    near = (texture(turned) - texture(frames)).square().mean()
    assert float((texture(plain) - texture(frames)).square().mean()) > 20 * float(near)
    torch.testing.assert_close(texture(plain), torch.full_like(texture(plain), math.log(FLOOR)))
    assert not torch.equal(Texture(6, seed=1)(frames), texture(frames))


def test_a_pattern_in_all_cells_is_told_and_what_differs_from_cell_to_cell_is_not() -> None:
    module = trained(tokenizer())[0]
    cell = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    signs = torch.tensor([1.0, -1.0]).repeat(2).repeat_interleave(4)
    torch.testing.assert_close(module.repeated(cell.repeat(1, 1, 4, 4)), cell)
    torch.testing.assert_close(module.repeated(cell.repeat(1, 1, 4, 4) * signs), torch.zeros_like(cell))


def test_grain_of_no_strength_changes_nothing_and_some_makes_places_differ() -> None:
    plain = tokenizer()
    grained, latents = with_grain(plain), torch.zeros(1, 4, 4, 4)
    assert plain.add_grain is None
    assert grained.add_grain is not None
    assert not torch.equal(grained.decode(latents), plain.decode(latents))
    torch.nn.init.zeros_(grained.add_grain.strength)
    assert torch.equal(grained.decode(latents), plain.decode(latents))
    assert torch.equal(with_grain(grained).add_grain.strength, grained.add_grain.strength)  # type: ignore[union-attr]
    torch.testing.assert_close(StreamingDecoder(grained)(latents), grained.decode(latents))


def test_only_the_decoder_is_trained_and_colours_are_held() -> None:
    fresh, (module, _) = with_grain(tokenizer()), trained(with_grain(tokenizer()), steps=3)
    for name, value in fresh.state_dict().items():
        same = torch.equal(value, module.autoencoder.state_dict()[name])
        assert same != (name.startswith("decoder.") or name == "add_grain.strength"), name
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, module.old.state_dict()[name])


def test_same_step_same_batch_and_other_step_other_batch() -> None:
    _, task = trained(tokenizer())

    def draw(seed: int) -> DecoderBatch:
        return task.batch(0, torch.Generator().manual_seed(seed), torch.device("cpu"))

    for name in ("made", "frames", "noise"):
        assert torch.equal(getattr(draw(0), name), getattr(draw(0), name))
        assert not torch.equal(getattr(draw(0), name), getattr(draw(1), name))


def test_successive_frames_stay_together() -> None:
    _, task = trained(tokenizer())
    frames = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5, 1, 1, 1) * np.ones((1, 1, *SIZE, 3), np.uint8)
    task.rolled = Rolled(torch.from_numpy(frames[:, :, :4, :4, 0]).half()[:, :, None].expand(-1, -1, 4, -1, -1), frames)
    batch = task.batch(0, torch.Generator().manual_seed(0), torch.device("cpu"))
    numbers = batch.made[:, 0, 0, 0]
    torch.testing.assert_close((batch.frames[:, 0, 0, 0] + 1) * 127.5, numbers)
    torch.testing.assert_close(numbers[1::2] - numbers[::2], torch.ones(8))


def test_detail_is_what_neighbours_differ_by() -> None:
    assert detail(np.full((1, *SIZE, 3), 7, np.uint8)) == 0
    rows = np.arange(SIZE[0]) % 2 * 96
    assert detail(np.broadcast_to(rows[None, :, None, None], (1, *SIZE, 3)).astype(np.uint8)) == 96**2 / 2


@pytest.fixture
def data(endless_path: Path, tmp_path: Path) -> Path:
    space = WorldModel.from_pretrained(endless_path).spec.action_space
    write_dataset(tmp_path / "toy", [episode(seed) for seed in range(20)], name="toy", fps=25.0, action_space=space, state_names=("a", "b"))
    return tmp_path / "toy"


def train(world: Path, data: Path, out: Path, *changes: str) -> WorldModel:
    train_decoder(compose("train_decoder", [f"world={world}", f"data.path={data}", f"out={out}", *SMALL, *changes]))
    return WorldModel.from_pretrained(out / "world")


def test_the_world_that_comes_out_differs_in_its_decoder_alone(
    endless_path: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = WorldModel.from_pretrained(endless_path)
    before = {name: value.clone() for name, value in old.state_dict().items()}
    new = train(endless_path, data, tmp_path / "run")
    changed = {name for name, value in new.state_dict().items() if name not in before or not torch.equal(value, before[name])}
    assert "tokenizer.decoder.0.weight" in changed
    assert all(name.startswith(("tokenizer.decoder.", "tokenizer.add_grain.")) for name in changed)
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())
    assert new.spec.recipe["decoder"]["texture"] == 0.002
    assert not new.spec.quality
    assert len(new.contexts) == len(old.contexts)
    told = capsys.readouterr().out
    assert "before: held-out real frames" in told
    assert "after: held-out real frames" in told
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    assert not list((tmp_path / "run").glob("*/00000.safetensors"))


def test_same_seed_same_decoder_and_other_seed_other_decoder(endless_path: Path, data: Path, tmp_path: Path) -> None:
    one, same, other = (train(endless_path, data, tmp_path / name, f"loop.seed={seed}") for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    key = "decoder.0.weight"
    assert torch.equal(one.tokenizer.state_dict()[key], same.tokenizer.state_dict()[key])
    assert not torch.equal(one.tokenizer.state_dict()[key], other.tokenizer.state_dict()[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("coarse=17", "coarse=17 must be at most the frames' shorter side, 16 pixels"),
        ("coarse=0", "coarse=0 must be 1 or more"),
        ("horizon=1", "horizon=1 must be 2 or more steps: successive frames are judged together"),
        ("texture=0", "texture=0.0 must be a weight above 0: without it no detail is asked for"),
        ("texture=inf", "texture=inf must be a weight above 0"),
        ("segments=0", "segments=0 must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(endless_path: Path, data: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(endless_path, data, tmp_path / "run", change)
    assert not (tmp_path / "run").exists()


def test_data_without_held_out_episodes_are_refused(endless_path: Path, tmp_path: Path) -> None:
    space = WorldModel.from_pretrained(endless_path).spec.action_space
    write_dataset(tmp_path / "one", [episode(0)], name="toy", fps=25.0, action_space=space, state_names=("a", "b"))
    with pytest.raises(ValueError, match="has no held-out episode to measure on: record at least two episodes"):
        train(endless_path, tmp_path / "one", tmp_path / "run")


def test_training_that_is_killed_goes_on_to_the_same_decoder(
    endless_path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(endless_path, data, tmp_path / "whole", "loop.save_every=1")
    forward, calls = DecoderLoss.forward, [0]

    def killed(self: DecoderLoss, batch: DecoderBatch) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(DecoderLoss, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        train(endless_path, data, tmp_path / "cut", "loop.save_every=1")
    resumed = train(endless_path, data, tmp_path / "cut", "loop.save_every=1")
    assert calls[0] == 4
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(("command", "run"), [("train_decoder", train_decoder), ("train_uncertainty", train_uncertainty)])
def test_data_of_other_actions_are_refused(endless_path: Path, tmp_path: Path, command: str, run: Callable[[DictConfig], object]) -> None:
    steps = [episode(seed) for seed in range(4)]
    others = [replace(one, actions=np.zeros(len(one), np.int64)) for one in steps]
    write_dataset(tmp_path / "other", others, name="other", fps=25.0, action_space=spaces.Discrete(2), state_names=("a", "b"))
    with pytest.raises(
        ValueError, match=r"dataset 'other' has actions Discrete\(2\), world 'tiny' takes Box\(.*: use data of its own source"
    ):
        run(
            compose(
                command, [f"world={endless_path}", f"data.path={tmp_path / 'other'}", f"out={tmp_path / 'run'}", "context=4", "horizon=5"]
            )
        )
