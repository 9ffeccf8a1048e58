"""Going on from a world that knows less: what it knew keeps its meaning, what is new starts at nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.conditioning import Vocabulary, move_columns
from worldsim.config import compose
from worldsim.contexts import Context
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Conditioning, Episode
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import WorldSpec
from worldsim.starter import StartSampling, sample_starts
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.build import WorldBuilder
from worldsim.training.starter import train_starter
from worldsim.types import StoreInfo

SPACE = spaces.Box(-1, 1, (2,), np.float32)
SMALL = ["model.width=32", "model.depth=2", "model.heads=2", "model.temporal_every=2", "model.window=4", "clip=6", "batch_size=4"]
SMALL += ["context_frames=4", "contexts=3"]


def plain(i: int) -> Conditioning:
    return Conditioning(("dark",), {"red": i / 10}, "grey road")


def rich(i: int) -> Conditioning:
    return Conditioning(("dark", "a slope") if i % 2 else ("wet",), {"red": 0.5 + i / 10, "grip": i / 5, "blue": 0.1 * i}, "wet grey road")


class Store:
    """Six short episodes of random frames, told by ``conditioning``."""

    def __init__(self, conditioning: Any, *, shift: float = 0.0, names: tuple[str, ...] = ("speed",), space: spaces.Box = SPACE) -> None:
        random = np.random.default_rng(0)
        self.info = StoreInfo("toy", (16, 16), 25.0, space, names, {"id": "toy"}, "f" * 64, "CC0-1.0")
        self.episodes = [
            Episode(
                frames=random.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8),
                actions=random.uniform(-1, 1, (8, *space.shape)).astype(np.float32),
                rewards=np.arange(8, dtype=np.float32) + np.float32(shift),
                terminated=np.zeros(8, bool),
                truncated=np.zeros(8, bool),
                state=random.normal(5 + shift, 2, (9, len(names))).astype(np.float32),
                seed=i,
                conditioning=conditioning(i),
            )
            for i in range(6)
        ]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def split(self, name: str) -> list[int]:
        return list(range(5)) if name == "train" else [5]


def build(store: Store, folder: Path, *overrides: str) -> WorldBuilder:
    torch.manual_seed(0)
    tokenizer = FrameAutoencoder(frame_size=(16, 16), latent_channels=4, widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    tokenizer.half().float()  # as it is saved
    return WorldBuilder(store, tokenizer.eval(), compose("train_dynamics", [*SMALL, *overrides]), folder)


def grow(folder: Path, *overrides: str) -> tuple[WorldModel, WorldBuilder]:
    """A world of random weights, and the one that goes on from it by other settings."""
    builder = build(Store(plain), folder / "old")
    for parameter in [*builder.dynamics.parameters(), *builder.heads.parameters()]:
        torch.nn.init.normal_(parameter, std=0.08) if parameter.ndim > 1 else None
    builder.world().save_pretrained(folder / "world")
    return WorldModel.from_pretrained(folder / "world"), build(Store(plain), folder / "new", f"init={folder / 'world'}", *overrides)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    grow(folder)
    return folder / "world"


def outcome(world: WorldModel, context: Context) -> list[np.ndarray[Any, Any]]:
    simulator, made = Simulator(world), []
    state = simulator.start([context], [3])
    for _ in range(3):
        state, step = simulator.step(state, np.array([[0.3, -0.5]], np.float32))
        made += [step.latents.numpy(), step.frames, step.reward, step.end, step.state]
    return made


@pytest.mark.parametrize("told", [plain(2), Conditioning(("dark",)), Conditioning(numbers={"red": 0.9}), Conditioning()])
def test_a_grown_world_does_what_the_old_one_did(old: Path, tmp_path: Path, told: Conditioning) -> None:
    before = WorldModel.from_pretrained(old)
    after = build(Store(rich, shift=0.5), tmp_path, f"init={old}").world()
    assert after.spec.vocabulary.size > before.spec.vocabulary.size
    context = replace(before.contexts[0], conditioning=told)
    for one, other in zip(outcome(before, context), outcome(after, context), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_new_starts_at_nothing_and_can_be_learned(old: Path, tmp_path: Path) -> None:
    builder = build(Store(rich), tmp_path, f"init={old}")
    vocabulary, weight = builder.spec.vocabulary, builder.dynamics.condition_embed.weight
    assert vocabulary.tags == ("a slope", "dark", "wet")
    assert vocabulary.words == ("grey", "road", "wet")
    assert tuple(vocabulary.numbers) == ("blue", "grip", "red")
    assert vocabulary.numbers["red"] == WorldSpec.load(old).vocabulary.numbers["red"]
    new = [i for i, name in enumerate(vocabulary.columns()) if name in ("tag wet", "tag a slope", "word wet", "value grip", "known blue")]
    assert len(new) == 5
    assert (weight[:, new] == 0).all()
    assert weight.requires_grad
    assert (weight[:, vocabulary.columns().index("tag dark")] != 0).all()


def test_a_world_keeps_what_the_new_data_does_not_have(old: Path, tmp_path: Path) -> None:
    builder = build(Store(lambda i: Conditioning(("wet",), {"grip": i / 5})), tmp_path, f"init={old}")
    assert builder.spec.vocabulary.tags == ("dark", "wet")
    assert builder.spec.vocabulary.features(plain(1)).shape == (builder.spec.vocabulary.size,)


def test_rewards_and_labels_go_on_to_mean_the_same(old: Path, tmp_path: Path) -> None:
    before, after = WorldSpec.load(old), build(Store(rich, shift=50), tmp_path, f"init={old}").spec
    assert (after.state_mean, after.state_std) == (before.state_mean, before.state_std)
    fresh = build(Store(rich, shift=50), tmp_path / "fresh").spec
    assert fresh.state_mean != before.state_mean
    assert before.reward_range == (0.0, 7.0)
    assert after.reward_range == (0.0, 57.0)


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (4,), np.float32), spaces.Box(-2, 1, (2,), np.float32)])
def test_from_another_domain_the_network_goes_on_and_what_it_was_told_does_not(
    old: Path, tmp_path: Path, space: spaces.Box, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = build(Store(rich, names=("x", "y"), space=space), tmp_path, f"init={old}")
    assert "is a world of other actions: its network goes on" in capsys.readouterr().out
    before, alone = WorldModel.from_pretrained(old), build(Store(rich, names=("x", "y"), space=space), tmp_path / "alone")
    trained, fresh = before.dynamics.state_dict(), alone.dynamics.state_dict()
    kept = [key for key, value in builder.dynamics.state_dict().items() if key in trained and torch.equal(value, trained[key])]
    assert set(trained) - set(kept) <= {key for key in trained if key.startswith(("action_embed", "condition_embed"))}
    for key in ("action_embed.mlp.0.weight", "condition_embed.weight"):
        assert builder.dynamics.state_dict()[key].shape == fresh[key].shape
        assert key not in kept
    assert builder.spec.vocabulary == alone.spec.vocabulary
    assert (builder.spec.state_names, builder.spec.state_mean) == (("x", "y"), alone.spec.state_mean)
    assert builder.spec.reward_range == alone.spec.reward_range


@pytest.mark.parametrize("names", [("x",), ("x", "y")], ids=["another number", "two numbers"])
def test_from_another_labelled_state_all_but_the_heads_goes_on(
    old: Path, tmp_path: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    builder = build(Store(rich, names=names), tmp_path, f"init={old}")
    assert "is a world of another labelled state: its heads start afresh" in capsys.readouterr().out
    before = WorldModel.from_pretrained(old)
    key = "action_embed.mlp.0.weight"
    assert torch.equal(builder.dynamics.state_dict()[key], before.dynamics.state_dict()[key])
    assert not torch.equal(builder.heads.squeeze.weight, before.heads.squeeze.weight)
    assert builder.spec.state_names == names
    same = build(Store(rich), tmp_path / "same", f"init={old}")
    assert torch.equal(same.heads.squeeze.weight, before.heads.squeeze.weight)


def test_columns_are_named_once_and_move_by_name() -> None:
    small = Vocabulary(("dark",), ("road",), {"red": (0.5, 0.2)})
    large = small.grown(Vocabulary(("a", "wet"), ("big",), {"blue": (0.1, 0.2), "red": (9.0, 9.0)}))
    for vocabulary in (small, large):
        assert len(set(vocabulary.columns())) == vocabulary.size == len(vocabulary.features(Conditioning()))
    weight = torch.randn(3, small.size, generator=torch.Generator().manual_seed(0))
    told = Conditioning(("dark",), {"red": 0.8}, "road")
    moved = move_columns(weight, small, large)
    torch.testing.assert_close(moved @ large.features(told), weight @ small.features(told))
    assert torch.equal(move_columns(weight, small, small), weight)
    assert small.grown(small) == small


def test_a_vocabulary_that_lacks_something_or_counts_otherwise_is_refused() -> None:
    small = Vocabulary(("dark",), ("road",), {"red": (0.5, 0.2)})
    weight = torch.zeros(3, small.size)
    with pytest.raises(ValueError, match="knows what is unknown here, as 'tag dark'"):
        move_columns(weight, small, Vocabulary((), ("road",), {"red": (0.5, 0.2)}))
    with pytest.raises(ValueError, match="standardises red otherwise"):
        move_columns(weight, small, replace(small, numbers={"red": (0.4, 0.2)}))


def test_a_starter_goes_on_from_one_that_knew_less(old: Path, tmp_path: Path) -> None:
    settings = ["model.width=32", "model.depth=1", "model.heads=2", "batch_size=4", "loop.decay=0", "loop.warmup=1", "loop.sample_every=0"]

    def teach(place: Path, store: Store, out: str, *more: str) -> WorldModel:
        data = tmp_path / f"{out}.worldsim"
        info = store.info
        write_dataset(data, store.episodes, name="toy", fps=25.0, action_space=info.action_space, state_names=info.state_names)
        train_starter(compose("train_starter", [f"world={place}", f"data.path={data}", f"out={tmp_path / out}", *settings, *more]))
        return WorldModel.from_pretrained(place)

    first, second = tmp_path / "first", tmp_path / "second"
    WorldModel.from_pretrained(old).save_pretrained(first)
    before = teach(first, Store(plain), "one", "loop.steps=2")
    build(Store(rich), tmp_path, f"init={old}").world().save_pretrained(second)
    after = teach(second, Store(rich), "two", f"init={first}", "loop.steps=1", "loop.lr=0.0", "loop.weight_decay=0")
    starts = [
        sample_starts(world.starter, world.tokenizer, world.spec, [plain(1)], [0], sampling=StartSampling(steps=3))[0].frames
        for world in (before, after)
        if world.starter is not None
    ]
    np.testing.assert_array_equal(starts[0], starts[1])
