"""Labels beside pixels: sources draw them, datasets keep them, worlds learn to tell them, and evaluation says how well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvCreator
from numpy.typing import NDArray
from rich.console import Console

import worldsim  # noqa: F401  registers the environments
from worldsim.checkpoint import content_hash, load_component
from worldsim.config import compose
from worldsim.datasets.collect import collect
from worldsim.datasets.errors import DatasetError
from worldsim.datasets.generate import generate
from worldsim.datasets.layout import SEGMENTATION, array_path
from worldsim.datasets.merge import merge
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.regenerate import regenerate
from worldsim.datasets.torch_dataset import ClipDataset, EpisodeDataset
from worldsim.datasets.verify import verify
from worldsim.datasets.work import Recipe
from worldsim.datasets.writer import write_dataset
from worldsim.envs.sources.carracing_labels import CLASSES
from worldsim.episode import Episode
from worldsim.evaluation.labels import confusion, iou_by_class, mean_iou
from worldsim.evaluation.report import to_markdown
from worldsim.evaluation.run import Protocol, evaluate
from worldsim.labeller import Labeller
from worldsim.model import WorldModel
from worldsim.rollout import reset
from worldsim.training.labels import Labelled, class_weights, fit, measure, train_labels

MakeWorld = Callable[..., WorldModel]
NAMES = ("low", "high")
QUIET = Console(quiet=True)


class ToyLabelled(gym.Env[NDArray[np.uint8], NDArray[np.float32]]):
    """A bright block on a dark ground, which it tells apart where asked to; the action moves the block."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))

    def __init__(self, *, labels: bool = False, render_mode: str | None = None) -> None:
        self.labels, self.render_mode = labels, render_mode
        self.metadata = {**self.metadata, **({"labels": {"segmentation": NAMES}} if labels else {})}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(0, 12))
        return self._tell()

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.place = (self.place + round(float(action[0]) * 3)) % 12
        frame, info = self._tell()
        return frame, 0.0, False, False, info

    def _tell(self) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        block = np.zeros((16, 16), np.uint8)
        block[4:12, self.place : self.place + 4] = 1
        frame = np.repeat(np.where(block, 220, 20).astype(np.uint8)[..., None], 3, axis=-1)
        state = {"speed": float(self.place), "offset": 0.0}
        return frame, {"state": state, **({"segmentation": block} if self.labels else {})}


gym.register("ToyLabelled-v0", entry_point=cast("EnvCreator", ToyLabelled))


def episode(seed: int, steps: int = 24) -> Episode:
    """Record the toy under random actions."""
    env, random = ToyLabelled(labels=True), np.random.default_rng(seed)
    actions = random.uniform(0, 1, (steps, 3)).astype(np.float32)
    seen = [env.reset(seed=seed), *(env.step(action)[::4] for action in actions)]
    return Episode(
        frames=np.stack([frame for frame, _ in seen]),
        actions=actions,
        rewards=np.zeros(steps, np.float32),
        terminated=np.zeros(steps, np.bool_),
        truncated=np.zeros(steps, np.bool_),
        state=np.array([list(info["state"].values()) for _, info in seen], np.float32),
        seed=seed,
        labels={"segmentation": np.stack([info["segmentation"] for _, info in seen])},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of the toy, with its segmentation."""
    path = tmp_path_factory.mktemp("labelled") / "toy.worldsim"
    described: dict[str, Any] = {"action_space": ToyLabelled.action_space, "state_names": ("speed", "offset"), "fps": 25.0}
    write_dataset(path, [episode(seed) for seed in range(20)], name="toy", labels={"segmentation": NAMES}, **described)
    return path


@pytest.fixture(scope="module")
def taught_path(endless_path: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny world that was taught to tell the toy's classes."""
    place = tmp_path_factory.mktemp("taught") / "tiny"
    WorldModel.from_pretrained(endless_path).save_pretrained(place)
    settings = [f"world={place}", f"data.path={data}", "steps=40", "batch_size=16", "model.widths=[16,16]"]
    assert train_labels(compose("train_labels", settings)) > 0.6
    return place


# ---------------------------------------------------------------- the source


def test_carracing_tells_the_class_of_each_pixel_and_frames_stay_as_they_are() -> None:
    env, bare = gym.make("worldsim/CarRacing-v0", labels=True, size=64), gym.make("worldsim/CarRacing-v0", size=64)
    assert env.metadata["labels"] == {"segmentation": CLASSES}
    assert "labels" not in bare.metadata
    (frame, info), (other, nothing) = env.reset(seed=1), bare.reset(seed=1)
    action = np.array([0.1, 0.3, 0.0], np.float32)
    for _ in range(4):
        np.testing.assert_array_equal(frame, other)
        assert "segmentation" not in nothing
        assert info["segmentation"].shape == (64, 64)
        assert info["segmentation"].dtype == np.uint8
        frame, _, _, _, info = env.step(action)
        other, _, _, _, nothing = bare.step(action)


def test_classes_lie_where_the_picture_shows_them() -> None:
    env: Any = gym.make("worldsim/CarRacing-v0", labels=True, size=96).unwrapped
    for seed in range(3):
        frame, info = env.reset(seed=seed)
        seen = info["segmentation"]
        of = {name: frame[seen == number].astype(float) for number, name in enumerate(CLASSES)}
        assert set(np.flatnonzero((seen == CLASSES.index("panel")).any(1))) == set(range(84, 96))
        middle = seen[70:80, 44:52]
        assert (middle == CLASSES.index("car")).sum() > 10
        for name, color in (("ground", env.core.bg_color), ("patch", env.core.grass_color), ("road", env.core.road_color)):
            assert np.abs(np.median(of[name], axis=0) - color).max() < 12, name
        striped = of["kerb"]
        assert not len(striped) or np.median(striped[:, 0]) > 200  # red or white


# ---------------------------------------------------------------- datasets


def test_recording_keeps_labels_where_asked_and_leaves_all_else_alone(tmp_path: Path) -> None:
    with_labels, without = (record(tmp_path / name, labels=labels) for name, labels in (("a", True), ("b", False)))
    assert with_labels.attributes["version"] == "1.1"
    assert without.attributes["version"] == "1.0"
    assert with_labels.info.labels == {"segmentation": NAMES}
    assert not without.info.labels
    one, other = with_labels[0], without[0]
    np.testing.assert_array_equal(one.frames, other.frames)
    np.testing.assert_array_equal(one.labels["segmentation"], one.frames[..., 0] > 100)
    assert not other.labels
    assert with_labels.attributes["source"] == without.attributes["source"]
    assert not verify(tmp_path / "a")
    assert regenerate(tmp_path / "a", 0).equal


def test_a_source_that_tells_no_labels_is_refused_in_a_sentence(tmp_path: Path) -> None:
    settings = ["source=gym", "source.id=CartPole-v1", "policy=random", "frames=20", "horizon=10", "record.labels=true"]
    with pytest.raises(DatasetError, match="labels"):
        collect(plain(compose("collect", [*settings, f"out={tmp_path / 'x'}"])), console=QUIET)
    assert not (tmp_path / "x").exists()


def test_a_plan_without_labels_is_what_it_was_before_there_were_any() -> None:
    assert "labels" not in Recipe("E").to_json()
    assert Recipe.from_json(Recipe("E", labels=True).to_json()).labels
    assert not Recipe.from_json(Recipe("E").to_json()).labels


def test_a_damaged_segmentation_is_found_and_never_read(data: Path, tmp_path: Path) -> None:
    record(tmp_path / "a", labels=True)
    shard = next(array_path(tmp_path / "a", 0, SEGMENTATION).glob("c.0.*"))
    content = bytearray(shard.read_bytes())
    content[5] ^= 255
    shard.write_bytes(content)
    assert [SEGMENTATION in problem.file for problem in verify(tmp_path / "a")] == [True]
    with pytest.raises(DatasetError, match="segmentation"):
        EpisodeReader(tmp_path / "a")[0]


def test_clips_and_merged_datasets_carry_it(tmp_path: Path) -> None:
    for name, seed, labels in (("a", 0, True), ("b", 1, True), ("c", 2, False)):
        record(tmp_path / name, labels=labels, seed=seed)
    merge(tmp_path / "ab", [tmp_path / "a", tmp_path / "b"])
    both = EpisodeReader(tmp_path / "ab")
    assert both.info.labels == {"segmentation": NAMES}
    np.testing.assert_array_equal(both[0].labels["segmentation"], EpisodeReader(tmp_path / "a")[0].labels["segmentation"])
    with pytest.raises(DatasetError, match="labels"):
        merge(tmp_path / "ac", [tmp_path / "a", tmp_path / "c"])
    clip = ClipDataset(tmp_path / "ab", frames=3, split=None)[0]
    assert clip["segmentation"].shape == (3, 16, 16)
    assert torch.equal(clip["segmentation"], (clip["frames"][:, 0] > 100).to(torch.uint8))
    assert "segmentation" not in EpisodeDataset(tmp_path / "c", split=None)[0]


def record(path: Path, *, labels: bool, seed: int = 0) -> EpisodeReader:
    """Record two short episodes of the toy."""
    cfg = plain(compose("collect", ["policy=random", "frames=14", "horizon=6", "workers=1", f"seed={seed}", f"out={path}"]))
    source = {"name": "toy", "env": "ToyLabelled-v0", "licence": "CC0-1.0"}
    return collect({**cfg, "source": source, "watch": None, "writer": {}, "record": {"labels": labels}}, console=QUIET)


def plain(cfg: Any) -> dict[str, Any]:
    """Turn a composed configuration into plain types."""
    from omegaconf import OmegaConf

    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


# ---------------------------------------------------------------- the labeller


def test_a_labeller_that_learned_tells_classes_and_a_fresh_one_does_not(data: Path) -> None:
    torch.manual_seed(0)
    known, unseen = toy(0), toy(1)
    taught, fresh = (Labeller(latent_shape=(4, 4, 4), frame_size=(16, 16), classes=NAMES, widths=(16,)) for _ in range(2))
    fit(taught, known, steps=60, batch_size=16, noise=0.1, lr=1e-2, seed=0)
    assert mean_iou(measure(taught, unseen)) > 0.9
    assert mean_iou(measure(fresh.eval(), unseen)) < 0.6


def test_the_same_seed_fits_the_same_labeller_and_another_seed_another() -> None:
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        labeller = Labeller(latent_shape=(4, 4, 4), frame_size=(16, 16), classes=NAMES, widths=(16,))
        fit(labeller, toy(0), steps=3, batch_size=4, noise=0.1, lr=1e-2, seed=seed)
        weights.append(labeller.state_dict())
    one, same, other = weights
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


def toy(seed: int, count: int = 200) -> Labelled:
    """Latents whose first channel is the class of the 4x4 pixels that it stands for, but for noise."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (count, 4, 4), generator=generator)
    latents = torch.randn(count, 4, 4, 4, generator=generator)
    latents[:, 0] = 2.0 * classes - 1
    return Labelled(latents.half(), classes.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8))


def test_rare_classes_weigh_more_and_the_mean_pixel_weighs_one() -> None:
    classes = torch.zeros(1, 10, 10, dtype=torch.uint8)
    classes[0, 0, :4] = 1
    weight = class_weights(classes, 3)
    assert weight[1] / weight[0] == pytest.approx((96 / 4) ** 0.5)
    assert weight[0] * 0.96 + weight[1] * 0.04 == pytest.approx(1.0)
    assert torch.isfinite(weight).all()


def test_labellers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="times a power of two"):
        Labeller(latent_shape=(4, 5, 5), frame_size=(16, 16), classes=NAMES)
    with pytest.raises(ValueError, match="2 or more"):
        Labeller(latent_shape=(4, 4, 4), frame_size=(16, 16), classes=("all",))


def test_a_world_keeps_its_labeller_on_disk(taught_path: Path, endless_path: Path, tmp_path: Path) -> None:
    world = WorldModel.from_pretrained(taught_path)
    assert world.labeller is not None
    assert world.labeller.classes == NAMES
    assert WorldModel.from_pretrained(endless_path).labeller is None
    assert world.fingerprint != WorldModel.from_pretrained(endless_path).fingerprint
    world.save_pretrained(tmp_path)
    assert content_hash(tmp_path) == world.fingerprint
    own = load_component(Labeller, tmp_path / "labels")
    assert own.classes == NAMES


def test_a_labeller_for_other_latents_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world()
    world.labeller = Labeller(latent_shape=(4, 8, 8), frame_size=(32, 32), classes=NAMES).eval()
    world.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="latent shape and frame size of labels and tokenizer"):
        WorldModel.from_pretrained(tmp_path)


def test_training_on_data_without_segmentation_is_refused_in_a_sentence(endless_path: Path, tmp_path: Path) -> None:
    bare = [replace(episode(seed, 6), labels={}) for seed in range(3)]
    write_dataset(tmp_path / "bare", bare, name="bare", fps=25.0, action_space=ToyLabelled.action_space, state_names=("speed", "offset"))
    with pytest.raises(ValueError, match="holds no segmentation"):
        train_labels(compose("train_labels", [f"world={endless_path}", f"data.path={tmp_path / 'bare'}"]))


# ---------------------------------------------------------------- environments


def test_environments_tell_it_where_asked_and_frames_stay_as_they_are(taught_path: Path) -> None:
    env, bare = gym.make("WorldSim-v0", world=str(taught_path), labels=True), gym.make("WorldSim-v0", world=str(taught_path))
    assert env.metadata["labels"] == {"segmentation": NAMES}
    (frame, info), (other, nothing) = env.reset(seed=0), bare.reset(seed=0)
    for _ in range(3):
        np.testing.assert_array_equal(frame, other)
        assert info["segmentation"].shape == (16, 16)
        assert info["segmentation"].dtype == np.uint8
        assert "segmentation" not in nothing
        assert "latent" not in info
        action = env.action_space.sample()
        frame, _, _, _, info = env.step(action)
        other, _, _, _, nothing = bare.step(action)


def test_what_is_told_is_read_from_the_latents_of_the_frame(taught_path: Path) -> None:
    world = WorldModel.from_pretrained(taught_path)
    env = gym.make("WorldSim-v0", world=str(taught_path), labels=True, latents=True)
    env.reset(seed=0)
    info = env.step(env.action_space.sample())[4]
    assert world.labeller is not None
    np.testing.assert_array_equal(info["segmentation"], world.labeller.classify(torch.from_numpy(info["latent"])[None])[0].numpy())


def test_rows_of_a_batch_tell_what_single_environments_tell(taught_path: Path) -> None:
    many = gym.make_vec("WorldSim-v0", num_envs=2, vectorization_mode="vector_entry_point", world=str(taught_path), labels=True)
    one = gym.make("WorldSim-v0", world=str(taught_path), labels=True)
    infos = reset(many, seeds=[7, 8])[1]
    assert infos["_segmentation"].tolist() == [True, True]
    np.testing.assert_array_equal(infos["segmentation"][1], one.reset(seed=8)[1]["segmentation"])
    action = np.array([0.3, 0.5, 0.1], np.float32)
    together = many.step(np.stack([action, action]))[4]["segmentation"]
    assert (together[1] == one.step(action)[4]["segmentation"]).mean() > 0.99


def test_a_world_without_a_labeller_says_so_in_a_sentence(endless_path: Path) -> None:
    with pytest.raises(ValueError, match=r"world 'tiny' does not tell what pixels show.*worldsim train labels"):
        gym.make("WorldSim-v0", world=str(endless_path), labels=True)


def test_generated_datasets_hold_it(taught_path: Path, tmp_path: Path) -> None:
    settings = ["scenario=[aimless]", "horizon=5", "count=2", "batch=2", "writer.preview=false", f"world={taught_path}"]
    paths = []
    for name, labels in (("a", "true"), ("b", "false")):
        cfg = plain(compose("generate", [*settings, f"record.labels={labels}", f"out={tmp_path / name}"]))
        paths.append(generate(cfg, console=QUIET))
    told, bare = paths
    assert told.info.labels == {"segmentation": NAMES}
    assert told[0].labels["segmentation"].shape == told[0].frames.shape[:3]
    assert not bare[0].labels
    np.testing.assert_array_equal(told[0].frames, bare[0].frames)
    assert regenerate(tmp_path / "a", 1).equal


# ---------------------------------------------------------------- evaluation


def test_intersection_over_union_counts_right_missed_and_made_up_pixels() -> None:
    truth, read = np.array([0, 0, 0, 1], np.uint8), np.array([0, 0, 1, 1], np.uint8)
    matrix = confusion(truth, read, 3)
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert iou_by_class(matrix) == [pytest.approx(2 / 3), 0.5, None]
    assert mean_iou(matrix) == pytest.approx((2 / 3 + 0.5) / 2)
    assert mean_iou(confusion(truth, truth, 3)) == 1.0


def test_evaluation_reports_it_for_worlds_that_tell_it(taught_path: Path, endless_path: Path, data: Path) -> None:
    protocol = Protocol(context=4, horizon=4, segments=4, per_episode=2, batch=2, pairs=0)
    said: list[str] = []
    taught, _ = evaluate(WorldModel.from_pretrained(taught_path), EpisodeReader(data), protocol, say=said.append)
    part = taught["labels"]
    assert part["classes"] == list(NAMES)
    assert part["steps"] == [1, 4]
    assert part["tokenizer"]["mean"][0] > 0.6
    assert all(0 <= value <= 1 for name in ("tokenizer", "world", "copy_last") for value in part[name]["mean"])
    assert "Labels beside pixels" in to_markdown(taught)
    assert not any("segmentation" in line for line in said)
    bare, _ = evaluate(WorldModel.from_pretrained(endless_path), EpisodeReader(data), protocol, say=said.append)
    assert "labels" not in bare
    assert any("teach it with 'worldsim train labels'" in line for line in said)


def test_evaluation_refuses_classes_of_another_source(taught_path: Path, data: Path, tmp_path: Path) -> None:
    described: dict[str, Any] = {"action_space": ToyLabelled.action_space, "state_names": ("speed", "offset"), "fps": 25.0}
    write_dataset(tmp_path / "x", [episode(seed) for seed in range(3)], name="x", labels={"segmentation": ("one", "two")}, **described)
    with pytest.raises(ValueError, match=r"tells pixels apart by \('one', 'two'\)"):
        evaluate(WorldModel.from_pretrained(taught_path), EpisodeReader(tmp_path / "x"), Protocol(horizon=4))
