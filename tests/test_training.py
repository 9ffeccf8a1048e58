"""Training: killed and resumed equals uninterrupted, averages, levels, clips, and the whole path from episodes to a saved world."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from gymnasium import spaces
from omegaconf import OmegaConf

from worldsim.clips import load_episodes, state_statistics
from worldsim.conditioning import Vocabulary
from worldsim.config import compose
from worldsim.diffusion import corrupt, draw_context_levels, draw_target_levels
from worldsim.encoding import encode_episodes
from worldsim.episode import Conditioning, Episode
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.build import WorldBuilder
from worldsim.training.dynamics_task import DynamicsLoss
from worldsim.training.loop import LoopConfig, Trainer, step_generator
from worldsim.training.objective import Objective
from worldsim.training.state import find_state, load_state
from worldsim.training.tokenizer_task import TokenizerTask, draw_motion, interior, move
from worldsim.types import StoreInfo

SPACE = spaces.Box(-1, 1, (2,), np.float32)


class ToyStore:
    """Six short episodes of random frames, in memory."""

    def __init__(self, episodes: int = 6, steps: int = 11) -> None:
        random = np.random.default_rng(0)
        self.info = StoreInfo("toy", (16, 16), 25.0, SPACE, ("speed",), {"id": "toy"}, "f" * 64, "CC0-1.0")
        self.episodes = [
            Episode(
                frames=random.integers(0, 256, (steps + 1, 16, 16, 3), dtype=np.uint8),
                actions=random.uniform(-1, 1, (steps, 2)).astype(np.float32),
                rewards=np.arange(1, steps + 1, dtype=np.float32),
                terminated=np.arange(steps) == steps - 1,
                truncated=np.zeros(steps, bool),
                state=random.normal(5, 2, (steps + 1, 1)).astype(np.float32),
                seed=i,
                conditioning=Conditioning(("dark",), {"red": i / 10}, "grey road"),
            )
            for i in range(episodes)
        ]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def split(self, name: str) -> list[int]:
        return list(range(5)) if name == "train" else [5]


def tokenizer(seed: int = 0) -> FrameAutoencoder:
    torch.manual_seed(seed)
    made: FrameAutoencoder = FrameAutoencoder(
        frame_size=(16, 16), latent_channels=4, widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1)
    )
    return made


def dynamics_config(*overrides: str) -> Any:
    small = [
        "model.width=32",
        "model.depth=2",
        "model.heads=2",
        "model.temporal_every=2",
        "model.window=4",
        "clip=6",
        "batch_size=4",
        "context_frames=4",
        "contexts=3",
        "sample_horizon=3",
        "loop.steps=6",
        "loop.decay=2",
        "loop.warmup=2",
        "loop.log_every=1",
        "loop.save_every=3",
        "objective.shortcut=0.5",
        "objective.shortcut_from=2",
        "objective.self_context=0.5",
        "objective.self_from=2",
    ]
    return compose("train_dynamics", [*small, *overrides])


def dynamics_trainer(folder: Path, *overrides: str) -> tuple[Trainer, WorldBuilder]:
    cfg = dynamics_config(*overrides)
    torch.manual_seed(0)
    builder = WorldBuilder(ToyStore(), tokenizer().eval(), cfg, folder)
    fields: Any = OmegaConf.to_container(cfg.loop)
    return Trainer(builder.task, LoopConfig(**fields), folder), builder


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.task.module.state_dict(), **{f"ema.{k}": v for k, v in trainer.ema.tensors.items()}}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_killed_and_resumed_dynamics_equal_uninterrupted_ones(tmp_path: Path) -> None:
    whole, _ = dynamics_trainer(tmp_path / "whole")
    whole.run()
    first, _ = dynamics_trainer(tmp_path / "cut")
    first.run(stop_after=4)  # the state on disk is that of step 4; weights of steps 5 and 6 die with the process
    second, _ = dynamics_trainer(tmp_path / "cut")
    assert second.step == 4
    second.run()
    assert same(weights(whole), weights(second))


def test_another_seed_trains_another_model(tmp_path: Path) -> None:
    one, _ = dynamics_trainer(tmp_path / "one")
    two, _ = dynamics_trainer(tmp_path / "two", "loop.seed=1")
    one.run()
    two.run()
    assert not same(weights(one), weights(two))


def test_killed_and_resumed_tokenizer_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)

    def trainer(folder: Path) -> Trainer:
        task = TokenizerTask(tokenizer(), frames, frames, batch_size=4, edges=0.5)
        return Trainer(task, LoopConfig(steps=4, warmup=1, log_every=1, save_every=2, ema=0.9), folder)

    whole = trainer(tmp_path / "whole")
    whole.run()
    trainer(tmp_path / "cut").run(stop_after=2)
    second = trainer(tmp_path / "cut")
    second.run()
    assert second.step == 4
    assert same(weights(whole), weights(second))


def test_training_lowers_the_loss_of_the_tokenizer(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 16, dtype=np.uint8)[None, None, :, None], (8, 16, 1, 3))
    model = tokenizer()
    task = TokenizerTask(model, ramp, ramp, batch_size=8, edges=0.0)
    batch = task.batch(0, step_generator(0, 0, 0), torch.device("cpu"))
    before = float(task.module(batch)[0].detach())
    Trainer(task, LoopConfig(steps=40, warmup=1, lr=3e-3, log_every=20, save_every=100), tmp_path).run()
    assert float(task.module(batch)[0].detach()) < before / 2


def test_moved_latents_decode_to_moved_frames_once_trained_for(tmp_path: Path) -> None:
    """Equivariance is learned where it is asked for, and not where it is not."""
    random = np.random.default_rng(0)
    frames = np.kron(random.integers(0, 256, (16, 4, 4, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    moved = []
    for weight in (0.0, 1.0):
        task = TokenizerTask(tokenizer(), frames, frames, batch_size=8, edges=0.0, equivariance=weight)
        Trainer(task, LoopConfig(steps=150, warmup=1, lr=3e-3, log_every=50, save_every=200), tmp_path / str(weight)).run()
        probe = TokenizerTask(task.module.autoencoder, frames, frames, batch_size=16, edges=0.0, equivariance=1.0)
        moved.append(float(probe.module(probe.batch(0, step_generator(1, 0, 0), torch.device("cpu")))[1]["moved"]))
    assert moved[1] > moved[0] + 0.5


def test_motion_of_frames_is_what_it_says() -> None:
    frames = torch.arange(16.0).view(1, 1, 4, 4)
    still = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    right = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])  # half of a half frame: one column
    assert torch.allclose(move(frames, still), frames)
    assert torch.allclose(move(frames, right)[..., :3], frames[..., 1:])
    assert interior(right, torch.zeros(1, 3, 16, 16), border=4)[0, 0, 8].tolist() == [1.0] * 8 + [0.0] * 8
    turns = draw_motion(64, torch.Generator().manual_seed(0), turn=0.1, shift=0.2)
    assert turns.shape == (64, 2, 3)
    assert turns[:, :, 2].abs().max() <= 0.2
    assert torch.allclose(turns[:, 0, 0].square() + turns[:, 1, 0].square(), torch.ones(64))


def test_the_trained_world_is_saved_loads_and_steps(tmp_path: Path) -> None:
    trainer, builder = dynamics_trainer(tmp_path, "loop.sample_every=6")
    trainer.run()
    with trainer.averaged():
        builder.world().save_pretrained(tmp_path / "world")
    world = WorldModel.from_pretrained(tmp_path / "world")
    assert len(world.contexts) == 3
    assert world.spec.reward_range == (1.0, 11.0)
    assert world.spec.vocabulary.tags == ("dark",)
    simulator = Simulator(world)
    _, step = simulator.step(simulator.start([world.contexts[0]], [0]), np.zeros((1, 2), np.float32))
    assert step.finite.all()
    assert (tmp_path / "samples" / "0000006.png").exists()
    with av.open(str(tmp_path / "samples" / "0000006.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in frames] == [(2 * (2 * 16 + 4), 4 * 2 * (16 + 4), 3)] * 3


def test_training_goes_on_from_a_world_and_refuses_one_that_does_not_fit(tmp_path: Path) -> None:
    trainer, builder = dynamics_trainer(tmp_path / "first")
    trainer.run()
    builder.world().save_pretrained(tmp_path / "world")
    _, second = dynamics_trainer(tmp_path / "second", f"init={tmp_path / 'world'}")
    for name, value in second.dynamics.state_dict().items():
        assert torch.allclose(value, builder.dynamics.state_dict()[name], atol=1e-3), name
    with pytest.raises(ValueError, match=r"init=.* does not fit model: dynamics .* has shape .*; use its settings: model\.width=32$"):
        dynamics_trainer(tmp_path / "third", f"init={tmp_path / 'world'}", "model.width=64")
    _, builder = dynamics_trainer(tmp_path / "anchored", "model.anchor=true")
    builder.world().save_pretrained(tmp_path / "anchored_world")
    with pytest.raises(ValueError, match=r"use its settings: model\.anchor=true$"):
        dynamics_trainer(tmp_path / "fourth", f"init={tmp_path / 'anchored_world'}")


def test_a_pixel_loss_pulls_on_the_dynamics_and_leaves_the_tokenizer_alone(tmp_path: Path) -> None:
    plain, _ = dynamics_trainer(tmp_path / "plain", "objective.pixel_loss=0")
    weighed, builder = dynamics_trainer(tmp_path / "weighed", "objective.pixel_loss=3", "objective.pixel_frames=2")
    for trainer in (plain, weighed):
        trainer.run(stop_after=2)
    assert not same(weights(plain), weights(weighed))
    assert same(dict(builder.tokenizer.state_dict()), dict(tokenizer().state_dict()))
    assert not any(name.startswith("decode") for name in weighed.task.module.state_dict())
    draw = weighed.task.batch(0, step_generator(0, 0, 0), torch.device("cpu"))
    assert draw.looked.shape == (4, 2)
    assert float(weighed.task.module(draw)[1]["pixels"]) > 0
    assert "pixels" not in plain.task.module(draw)[1]
    with pytest.raises(ValueError, match=r"pixel_loss=3.0 needs a decoder"):
        DynamicsLoss(builder.dynamics, builder.heads, Objective(pixel_loss=3.0))


def test_a_state_half_replaced_is_found_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    trainer, _ = dynamics_trainer(tmp_path)
    trainer.run(stop_after=3)
    state = tmp_path / "state"
    state.rename(tmp_path / "state.old")  # killed between the two renames
    assert find_state(state) == tmp_path / "state.old"
    file = tmp_path / "state.old" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"training state .*state\.old is damaged.*remove the folder"):
        load_state(tmp_path / "state.old")


def test_clips_align_actions_rewards_and_ends_with_the_frame_they_lead_to() -> None:
    store, model = ToyStore(), tokenizer().eval()
    vocabulary = Vocabulary.build([e.conditioning for e in store.episodes])
    statistics = state_statistics(store.episodes, 1)
    episodes = load_episodes(store, "train", model, vocabulary=vocabulary, statistics=statistics)
    clip = episodes.cut(np.array([2]), np.array([episodes.starts[2]]), 12)
    episode = store[2]
    assert torch.equal(clip.actions[0, 1:], torch.from_numpy(episode.actions))
    assert torch.equal(clip.rewards[0, 1:], torch.from_numpy(episode.rewards))
    assert clip.known[0].tolist() == [False] + [True] * 11
    assert clip.ends[0].tolist() == [0.0] * 11 + [1.0]
    assert np.allclose(clip.state[0].numpy() * statistics[1] + statistics[0], episode.state, atol=1e-5)


def test_clips_never_cross_episodes_and_too_long_ones_are_refused() -> None:
    store = ToyStore()
    vocabulary = Vocabulary.build([e.conditioning for e in store.episodes])
    episodes = load_episodes(store, "train", tokenizer().eval(), vocabulary=vocabulary, statistics=state_statistics(store.episodes, 1))
    clip = episodes.draw(64, 6, torch.Generator().manual_seed(0))
    assert not clip.stepped[:, 1:].logical_not().any()  # a first frame is only ever first
    assert (clip.rewards[:, 1:].diff(dim=1) == 1).all()  # rewards count up inside one episode
    store.episodes = [replace(episode, params={"cuts": [5]}) for episode in store.episodes]
    apart = load_episodes(store, "train", tokenizer().eval(), vocabulary=vocabulary, statistics=state_statistics(store.episodes, 1))
    assert apart.starts.tolist() == sorted([*episodes.starts, *(episodes.starts[:-1] + 5)])  # what was cut counts as several
    assert len(apart.condition) == 2 * len(episodes.condition)
    with pytest.raises(ValueError, match="clips of 8 frames do not fit: the longest episode has 7"):
        apart.draw(1, 8, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="clips of 13 frames do not fit: the longest episode has 12"):
        episodes.draw(1, 13, torch.Generator().manual_seed(0))


def test_first_and_last_frames_are_drawn_as_often_as_others() -> None:
    store = ToyStore()
    vocabulary = Vocabulary.build([e.conditioning for e in store.episodes])
    episodes = load_episodes(store, "train", tokenizer().eval(), vocabulary=vocabulary, statistics=state_statistics(store.episodes, 1))
    clip = episodes.draw(4000, 6, torch.Generator().manual_seed(0))
    share = 1 / 12  # of one frame among an episode's
    assert abs(float((~clip.stepped).float().mean()) - share) < 0.04
    assert abs(float(clip.ends.mean()) - share * float(episodes.ends.sum()) / (len(episodes.starts) - 1)) < 0.04
    assert clip.ends.sum() > 0


def test_latents_are_cached_by_content(tmp_path: Path) -> None:
    store, statistics = ToyStore(), (np.zeros(1, np.float32), np.ones(1, np.float32))
    vocabulary = Vocabulary.build([e.conditioning for e in store.episodes])

    def load(seed: int) -> Sequence[Any]:
        load_episodes(store, "train", tokenizer(seed).eval(), vocabulary=vocabulary, statistics=statistics, cache=tmp_path)
        return list(tmp_path.glob("latents-*.npy"))

    assert len(load(0)) == 1
    assert len(load(0)) == 1
    assert len(load(1)) == 2


class KilledStore(ToyStore):
    """Reads no more than some episodes' frames, as if the process were killed there."""

    def __init__(self, reads: int) -> None:
        super().__init__()
        self.reads = reads

    def __getitem__(self, index: int) -> Episode:
        if self.reads == 0:
            raise KeyboardInterrupt
        self.reads -= 1
        return super().__getitem__(index)


@pytest.mark.parametrize("torn", [0, 7])
def test_encoding_goes_on_where_it_was_killed(tmp_path: Path, torn: int) -> None:
    def encode(store: ToyStore, cache: Path | None) -> Any:
        return encode_episodes(store, range(5), range(0, 72, 12), tokenizer().eval(), torch.device("cpu"), cache)

    with pytest.raises(KeyboardInterrupt):
        encode(KilledStore(reads=3), tmp_path)
    (partial,) = tmp_path.glob("*.partial")
    if torn:  # what was written last is of half a frame
        with partial.open("ab") as out:
            out.write(bytes(torn))
    whole = encode(KilledStore(reads=2), tmp_path)  # the other two alone
    np.testing.assert_array_equal(whole, encode(ToyStore(), None))
    np.testing.assert_array_equal(encode(KilledStore(reads=0), tmp_path), whole)
    assert not list(tmp_path.glob("*.partial"))


class CountingStore(ToyStore):
    """Gives each episode frames of its own, as a reader does, and counts how many of them are in memory at once."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[weakref.ref[Any]] = []
        self.most = 0

    def __getitem__(self, index: int) -> Episode:
        frames = self.episodes[index].frames.copy()
        self.given.append(weakref.ref(frames))
        self.most = max(self.most, sum(given() is not None for given in self.given))
        return replace(self.episodes[index], frames=frames)


def test_frames_of_a_dataset_are_never_in_memory_together(tmp_path: Path) -> None:
    store = CountingStore()
    WorldBuilder(store, tokenizer().eval(), dynamics_config(), tmp_path)
    assert len(store.given) >= 5  # of each training episode
    assert store.most <= 2  # the one that is read, and the one before until its name is given away


def test_levels_follow_their_pattern() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = draw_context_levels((64, 8), generator, forcing=0.0, lowest=0.6)
    assert (shared == shared[:, :1]).all()
    assert shared.min() >= 0.6
    own = draw_context_levels((64, 8), generator, forcing=1.0, lowest=0.6)
    assert (own != own[:, :1]).any()
    assert own.min() < 0.6
    level = draw_target_levels((64, 8), generator, from_noise=0.5)
    assert 0.4 < (level == 0).float().mean() < 0.6
    z, noise = torch.ones(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1)
    assert corrupt(z, noise, torch.tensor([[0.0, 0.25]])).flatten().tolist() == [0.0, 0.25]


def test_a_loop_that_cannot_run_is_refused() -> None:
    with pytest.raises(ValueError, match="precision 'fp8' is unknown: use auto, no"):
        LoopConfig(steps=1, precision="fp8")
    with pytest.raises(ValueError, match="decay=5 between 0 and steps"):
        LoopConfig(steps=4, decay=5)
