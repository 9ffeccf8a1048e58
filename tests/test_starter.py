"""Generated starts: what is told shows, the same seed gives the same start, and the network travels with its world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.checkpoint import content_hash
from worldsim.conditioning import Vocabulary
from worldsim.config import compose
from worldsim.datasets.writer import write_dataset
from worldsim.dit import VideoDiT
from worldsim.episode import Conditioning, Episode
from worldsim.model import WorldModel
from worldsim.starter import FRAMES, StartSampling, sample_starts, starter_shape
from worldsim.training.starter import train_starter

MakeWorld = Callable[..., WorldModel]
DARK, WET = Conditioning(("dark",)), Conditioning(("wet",))


def build_starter(world: WorldModel, *, seed: int = 0) -> VideoDiT:
    """Build an untrained starter whose every weight is random, so that conditioning and noise show."""
    torch.manual_seed(seed)
    network: VideoDiT = VideoDiT(
        latent_shape=starter_shape(world.tokenizer.latent_shape),
        action_features=3,
        condition_features=world.spec.vocabulary.size,
        width=32,
        depth=2,
        heads=2,
        temporal_every=3,
        window=1,
        history=0,
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    network.eval().requires_grad_(False)
    return network


@pytest.fixture(scope="module")
def world(make_world: MakeWorld) -> WorldModel:
    made = make_world(end_logit=-50.0)
    made.starter = build_starter(made)
    return made


@pytest.fixture(scope="module")
def path(world: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starting") / "tiny"
    world.save_pretrained(folder)
    return folder


def frames(world: WorldModel, told: Conditioning, seed: int, sampling: StartSampling | None = None) -> np.ndarray:
    assert world.starter is not None
    (made,) = sample_starts(world.starter, world.tokenizer, world.spec, [told], [seed], sampling=sampling or StartSampling(steps=3))
    assert made.frames.shape == (FRAMES, 16, 16, 3)
    assert made.actions.shape == (FRAMES - 1, 3)
    return made.frames


def test_a_start_follows_its_seed_and_what_it_is_told(world: WorldModel) -> None:
    first = frames(world, DARK, 0)
    np.testing.assert_array_equal(first, frames(world, DARK, 0))
    assert (first != frames(world, DARK, 1)).any()
    assert (first != frames(world, WET, 0)).any()


def test_guidance_of_nothing_leaves_out_what_was_told(world: WorldModel) -> None:
    free = StartSampling(steps=3, guidance=0.0)
    np.testing.assert_array_equal(frames(world, DARK, 0, free), frames(world, WET, 0, free))


def test_a_start_does_not_depend_on_the_others(world: WorldModel) -> None:
    assert world.starter is not None
    both = sample_starts(world.starter, world.tokenizer, world.spec, [WET, DARK], [3, 4], sampling=StartSampling(steps=3))
    np.testing.assert_array_equal(both[1].frames, frames(world, DARK, 4))


def test_an_environment_starts_from_what_it_is_told(path: Path) -> None:
    env = gym.make("WorldSim-v0", world=str(path), context="generate")
    told = {"conditioning": {"tags": ["dark"]}}
    first, info = env.reset(seed=0, options=told)
    assert list(info["conditioning"]["tags"]) == ["dark"]
    np.testing.assert_array_equal(first, env.reset(seed=0, options=told)[0])
    assert (first != env.reset(seed=1, options=told)[0]).any()
    assert (first != env.reset(seed=0, options={"conditioning": {"tags": ["wet"]}})[0]).any()
    assert env.step(env.action_space.sample())[0].shape == (16, 16, 3)


def test_a_world_without_a_starter_says_so(endless_path: Path) -> None:
    env = gym.make("WorldSim-v0", world=str(endless_path), context="generate")
    with pytest.raises(ValueError, match="world 'tiny' cannot generate starts: give another context, or teach it by 'worldsim train"):
        env.reset(seed=0)


def test_a_world_keeps_its_starter_on_disk(world: WorldModel, path: Path, endless_path: Path, tmp_path: Path) -> None:
    loaded = WorldModel.from_pretrained(path)
    assert loaded.starter is not None
    loaded.save_pretrained(tmp_path)
    assert content_hash(tmp_path) == content_hash(path) != content_hash(endless_path)
    assert WorldModel.from_pretrained(endless_path).starter is None


def test_a_starter_for_other_latents_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    made = make_world()
    made.starter = VideoDiT(
        latent_shape=(4, 4, 4), condition_features=made.spec.vocabulary.size, width=32, depth=1, heads=2, history=0, window=1
    )
    made.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"latent shape of starter and its frames are \(4, 4, 4\) and \(8, 4, 4\)"):
        WorldModel.from_pretrained(tmp_path)


def test_thinning_blanks_each_part_alone_and_keeps_what_tells_of_presence_true() -> None:
    words = Vocabulary(tags=("dark", "wet"), words=("grey", "road"), numbers={"red": (0.5, 0.2)})
    told = words.features(Conditioning(("dark", "wet"), {"red": 0.9}, "grey road")).repeat(4000, 1)
    thin = words.thin(told, torch.Generator().manual_seed(0))
    tags, present, number = thin[:, :2], thin[:, 6], thin[:, 4:6]
    torch.testing.assert_close(present, tags.any(1).float())
    torch.testing.assert_close(thin[:, 7], thin[:, 2:4].any(1).float())
    assert set(number[:, 1].tolist()) == {0.0, 1.0}
    torch.testing.assert_close(number[:, 0], 2.0 * number[:, 1])
    one_alone = ((tags.sum(1) == 1).float()).mean()
    nothing = (thin == 0).all(1).float().mean()
    assert 0.1 < float(one_alone) < 0.5
    assert 0.1 < float(nothing) < 0.5
    assert torch.equal(thin, words.thin(told, torch.Generator().manual_seed(0)))
    assert not torch.equal(thin, words.thin(told, torch.Generator().manual_seed(1)))


def test_thinning_tells_each_kind_alone_in_full_and_a_pair_with_both_its_words_only() -> None:
    words = Vocabulary(tags=("dark", "wet"), words=("grey", "on", "road"), pairs=("grey road", "road on"), numbers={"red": (0.5, 0.2)})
    told = words.features(Conditioning(("dark", "wet"), {"red": 0.9}, "grey road on")).repeat(4000, 1)
    thin = words.thin(told, torch.Generator().manual_seed(0))
    tags, single, pairs, number = thin[:, :2], thin[:, 2:5], thin[:, 5:7], thin[:, 8]
    alone = [tags.all(1) & ~thin[:, 2:9].any(1), single.all(1) & ~tags.any(1) & (number == 0), (number == 1) & ~thin[:, :7].any(1)]
    assert all(0.03 < float(kind.float().mean()) < 0.3 for kind in alone)
    assert torch.equal(pairs[:, 0], single[:, 0] * single[:, 2])
    assert torch.equal(pairs[:, 1], single[:, 1] * single[:, 2])


def test_texts_of_the_same_words_in_another_order_differ() -> None:
    told = [Conditioning(text=text) for text in ("red road on blue grass", "blue road on red grass")]
    known = Vocabulary.build(told)
    assert known.pairs == ("blue grass", "blue road", "on blue", "on red", "red grass", "red road", "road on")
    one, other = (known.features(one) for one in told)
    words = slice(0, len(known.words))
    assert torch.equal(one[words], other[words])
    assert not torch.equal(one, other)
    assert Vocabulary.from_json(known.to_json()) == known
    assert Vocabulary.from_json({**known.to_json(), "pairs": []}).size == known.size - 7


def test_unknown_words_are_left_out_with_a_warning_and_known_ones_without() -> None:
    words = Vocabulary(tags=("dark",), words=("grey", "road"))
    plain = words.features(Conditioning(text="grey road"))
    with pytest.warns(UserWarning, match="conditioning words a, wide are unknown to this world and left out: it knows grey, road"):
        told = words.features(Conditioning(text="a wide, grey road"))
    torch.testing.assert_close(told, plain)


def test_training_saves_a_starter_into_the_world(endless_path: Path, tmp_path: Path) -> None:
    place, data = tmp_path / "world", tmp_path / "toy.worldsim"
    WorldModel.from_pretrained(endless_path).save_pretrained(place)
    space = WorldModel.from_pretrained(place).spec.action_space
    random = np.random.default_rng(0)
    episodes = [
        Episode(
            random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8),
            random.uniform(0, 1, (5, 3)).astype(np.float32),
            np.zeros(5, np.float32),
            np.zeros(5, np.bool_),
            np.zeros(5, np.bool_),
            np.zeros((6, 2), np.float32),
            seed=seed,
            conditioning=Conditioning(("dark",), {"red": 0.4}, "grey road"),
        )
        for seed in range(4)
    ]
    write_dataset(data, episodes, name="toy", fps=25.0, action_space=space, state_names=("speed", "offset"))
    small = ["model.width=32", "model.depth=1", "model.heads=2", "batch_size=4", "loop.steps=2", "loop.decay=0", "loop.sample_every=2"]
    train_starter(compose("train_starter", [f"world={place}", f"data.path={data}", f"out={tmp_path / 'run'}", *small]))
    taught = WorldModel.from_pretrained(place)
    assert taught.starter is not None
    assert (tmp_path / "run" / "samples" / "0000002.png").is_file()
