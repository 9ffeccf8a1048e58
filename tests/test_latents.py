"""Latents beside frames or instead of them: recorded, read, decoded, checked, merged and made again."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from omegaconf import OmegaConf

from worldsim.config import compose
from worldsim.datasets.clips import open_store
from worldsim.datasets.exporting import export
from worldsim.datasets.generate import generate
from worldsim.datasets.layout import LATENTS, canonical_json, commit_path, read_json, shard_path, write_atomic
from worldsim.datasets.merge import merge
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.regenerate import regenerate
from worldsim.datasets.seal import seal
from worldsim.datasets.torch_dataset import ClipDataset, EpisodeDataset, clip_loader
from worldsim.datasets.verify import verify
from worldsim.datasets.writer import read_plan
from worldsim.decoding import FrameDecoder
from worldsim.envs.vector import WorldSimVectorEnv
from worldsim.envs.world import WorldSimEnv
from worldsim.model import WorldModel
from worldsim.policies.random import RandomPolicy
from worldsim.rollout import EpisodeJob, rollout
from worldsim.simulator import Simulator, State
from worldsim.types import Observation

FREE = {"policy": {"_target_": "worldsim.policies.random.RandomPolicy"}}


class Watcher(RandomPolicy):
    """Looks at the middle of the frame before it acts at random."""

    def act(self, observation: Observation) -> Any:
        """Act."""
        assert observation.frames[:, 8, 8].mean() >= 0
        return super().act(observation)


def made(path: Path, world: Path, latents: str, *more: str, scenario: Mapping[str, Any] = FREE) -> EpisodeReader:
    """Generate four episodes of six steps."""
    settings = ["scenario=[]", f"world={world}", "horizon=6", "count=4", "batch=2", "writer.preview=false", f"record.latents={latents}"]
    cfg: Any = OmegaConf.to_container(compose("generate", [*settings, f"out={path}", *more]), resolve=True)
    return generate({**cfg, "scenario": {"free": scenario}})


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, endless_path: Path) -> dict[str, Path]:
    """Return the same episodes without latents, with them beside frames, and instead of them."""
    folder = tmp_path_factory.mktemp("latents")
    for latents in ("none", "beside", "instead"):
        made(folder / latents, endless_path, latents)
    return {latents: folder / latents for latents in ("none", "beside", "instead")}


def files(path: Path) -> set[str]:
    """Return the folders of arrays that hold episodes."""
    return {str(file.parent.relative_to(path / "parts/p00000")) for file in path.glob("parts/p00000/**/c.*")}


def test_the_episodes_are_the_same(stores: dict[str, Path]) -> None:
    plain, beside, instead = (EpisodeReader(stores[name], decode=False) for name in ("none", "beside", "instead"))
    for i in range(4):
        one, two, three = plain[i], beside[i], instead[i]
        np.testing.assert_array_equal(one.frames, two.frames)
        for name in ("actions", "rewards", "state"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            np.testing.assert_array_equal(getattr(two, name), getattr(three, name))
        assert one.latents is None
        assert two.latents is not None
        assert three.latents is not None
        assert (two.latents.shape, str(two.latents.dtype)) == ((7, 4, 4, 4), "float16")
        np.testing.assert_array_equal(two.latents, three.latents)
        assert three.frames.shape == (7, 0, 0, 3)
    assert not np.array_equal(beside[0].latents, beside[1].latents)  # type: ignore[arg-type]


def test_decoded_latents_are_the_recorded_frames(stores: dict[str, Path], endless_path: Path) -> None:
    beside, decoder = EpisodeReader(stores["beside"]), FrameDecoder.open(str(endless_path))
    for i in range(len(beside)):
        episode = beside[i]
        assert episode.latents is not None
        decoded = decoder(episode.latents)
        assert np.abs(decoded[1:].astype(int) - episode.frames[1:].astype(int)).max() <= 1
        start = torch.from_numpy(episode.frames[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
        encoded = decoder.world.tokenizer.encode(start).numpy()
        np.testing.assert_allclose(episode.latents[0], encoded[0], atol=2e-3)


def test_frames_are_decoded_on_request(stores: dict[str, Path]) -> None:
    beside, instead = EpisodeReader(stores["beside"]), EpisodeReader(stores["instead"])
    for i in range(4):
        for one, two in ((beside[i].frames, instead[i].frames), (beside.frames(i, 2, 5), instead.frames(i, 2, 5))):
            assert one.shape == two.shape
            assert np.abs(one.astype(int) - two.astype(int))[2:].max() <= 1
    again: EpisodeReader = pickle.loads(pickle.dumps(instead))
    np.testing.assert_array_equal(again.frames(0, 1, 3), instead.frames(0, 1, 3))
    with pytest.raises(ValueError, match="holds latents instead of frames: open it without decode=False"):
        EpisodeReader(stores["instead"], decode=False).frames(0, 0, 2)


def test_nothing_is_decoded_when_latents_are_recorded_instead(tmp_path: Path, endless_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[bool] = set()
    step = Simulator.step_tensors

    def noting(self: Simulator, state: State, features: torch.Tensor, *, decode: bool = True) -> Any:
        asked.add(decode)
        return step(self, state, features, decode=decode)

    monkeypatch.setattr(Simulator, "step_tensors", noting)
    made(tmp_path / "instead", endless_path, "instead")
    assert asked == {False}
    made(tmp_path / "beside", endless_path, "beside")
    assert asked == {False, True}


def test_training_opens_latents_as_frames(stores: dict[str, Path]) -> None:
    assert open_store(stores["instead"])[0].frames.shape == (7, 16, 16, 3)


def test_what_lies_on_disk(stores: dict[str, Path]) -> None:
    common = {"action", "reward", "terminated", "truncated", "observation/state"}
    frames, latents = {"observation/images/main"}, {"observation/latent"}
    assert files(stores["none"]) == common | frames
    assert files(stores["beside"]) == common | frames | latents
    assert files(stores["instead"]) == common | latents
    told = {name: read_json(path / "zarr.json")["attributes"]["worldsim"] for name, path in stores.items()}
    assert {name: one["version"] for name, one in told.items()} == {"none": "1.0", "beside": "1.1", "instead": "1.1"}
    assert told["instead"]["latents"] == {"kept": "instead", "shape": [4, 4, 4]}
    hashes = {name: read_plan(path).sha256() for name, path in stores.items()}
    assert len(set(hashes.values())) == 3
    assert "latents" not in read_plan(stores["none"]).recipe
    assert all(verify(path) == [] for path in stores.values())


@pytest.mark.parametrize("kept", ["beside", "instead"])
def test_a_flipped_bit_is_found(stores: dict[str, Path], tmp_path: Path, kept: str) -> None:
    path = Path(shutil.copytree(stores[kept], tmp_path / "copy"))
    file = shard_path(path, 0, LATENTS, 2, 5)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)
    (found,) = verify(path)
    assert (found.episode, found.file) == (2, str(file.relative_to(path)))
    with pytest.raises(ValueError, match=r"episode 2: .*observation/latent.* is damaged"):
        EpisodeReader(path)[2]
    file.unlink()
    (found,) = verify(path)
    assert (found.episode, found.kind) == (2, "missing")


def test_a_dataset_of_a_newer_minor_version_is_read(stores: dict[str, Path], tmp_path: Path) -> None:
    """It may hold arrays that this release does not know."""
    path = Path(shutil.copytree(stores["beside"], tmp_path / "newer"))
    about = json.loads((path / "zarr.json").read_text())
    about["attributes"]["worldsim"] |= {"version": "1.7", "depth": {"unit": "m"}}
    write_atomic(path / "zarr.json", json.dumps(about))
    for record in read_commits(path):
        told = {key: value for key, value in record.items() if key != "seal"}
        told["sha256"] = {**told["sha256"], "observation/depth": "0" * 64}
        write_atomic(commit_path(path, record["part"], record["slot"]), canonical_json(seal(told)))
    newer, known = EpisodeReader(path), EpisodeReader(stores["beside"])
    np.testing.assert_array_equal(newer[1].latents, known[1].latents)
    np.testing.assert_array_equal(newer[1].frames, known[1].frames)


def test_an_episode_is_made_again(stores: dict[str, Path]) -> None:
    for kept in ("beside", "instead"):
        assert regenerate(stores[kept], 3).equal
    other = regenerate(stores["beside"], 1)
    assert other.equal
    assert not other.streams


def test_datasets_with_latents_are_merged_with_their_like_alone(stores: dict[str, Path], tmp_path: Path, endless_path: Path) -> None:
    other = made(tmp_path / "other", endless_path, "instead", "seed=90").path
    merge(tmp_path / "both", [stores["instead"], Path(str(other))])
    assert verify(tmp_path / "both") == []
    both, own = EpisodeReader(tmp_path / "both"), EpisodeReader(other)
    np.testing.assert_array_equal(both[5].latents, own[1].latents)
    assert both.frames(5).shape == (7, 16, 16, 3)
    with pytest.raises(ValueError, match="latents is"):
        merge(tmp_path / "mixed", [stores["instead"], stores["none"]])


def test_latents_of_two_worlds_are_not_merged(stores: dict[str, Path], tmp_path: Path, make_world: Any) -> None:
    make_world(end_logit=-50.0, seed=5).save_pretrained(tmp_path / "world")
    other = made(tmp_path / "other", tmp_path / "world", "instead").path
    with pytest.raises(ValueError, match=r"source\.checkpoint is"):
        merge(tmp_path / "both", [stores["instead"], other])


def test_clips_of_latents(stores: dict[str, Path]) -> None:
    for kept in ("beside", "instead"):
        clips = ClipDataset(stores[kept], frames=3, stride=2, split=None, streams=("latents", "actions"))
        batch = next(iter(clip_loader(clips, batch=2, seed=1)))
        assert (batch["latents"].shape, batch["latents"].dtype) == ((2, 3, 4, 4, 4), torch.float16)
        episode, start = int(batch["episode"][0]), int(batch["start"][0])
        latents = EpisodeReader(stores[kept], decode=False)[episode].latents
        assert latents is not None
        np.testing.assert_array_equal(batch["latents"][0].numpy(), latents[start : start + 5 : 2])
    assert set(EpisodeDataset(stores["instead"])[0]) >= {"latents", "actions"}
    assert "frames" not in EpisodeDataset(stores["instead"])[0]
    with pytest.raises(ValueError, match="stream 'latents' is not in"):
        EpisodeDataset(stores["none"], streams=("latents",))
    with pytest.raises(ValueError, match="stream 'frames' is not in"):
        ClipDataset(stores["instead"], frames=2, streams=("frames",))


def test_exports_and_previews_decode(stores: dict[str, Path], tmp_path: Path, endless_path: Path) -> None:
    export(stores["instead"], tmp_path / "decoded", format="numpy")
    export(stores["beside"], tmp_path / "recorded", format="numpy")
    names = sorted(file.name for file in (tmp_path / "recorded").rglob("*.npz"))
    assert len(names) == 4
    for name in names:
        one, two = (np.load(next((tmp_path / which).rglob(name)))["frames"] for which in ("decoded", "recorded"))
        assert np.abs(one.astype(int) - two.astype(int))[1:].max() <= 1
    made(tmp_path / "drawn", endless_path, "instead", "writer.preview=true")
    assert (tmp_path / "drawn" / "contact_sheet.png").stat().st_size > 1000


def test_a_world_that_is_gone_or_another_one_is_told(tmp_path: Path, endless_path: Path, make_world: Any) -> None:
    world = Path(shutil.copytree(endless_path, tmp_path / "world"))
    path = made(tmp_path / "data", world, "instead").path
    shutil.rmtree(world)
    with pytest.raises(ValueError, match=r"holds latents instead of frames, and they cannot be decoded: .*open the dataset by decode="):
        EpisodeReader(path).frames(0)
    assert EpisodeReader(path, decode=False)[0].latents is not None
    assert verify(path) == []
    elsewhere = EpisodeReader(path, decode=FrameDecoder.open(str(endless_path)))
    assert elsewhere.frames(0).shape == (7, 16, 16, 3)
    make_world(seed=9).save_pretrained(world)
    with pytest.raises(ValueError, match="is not the one that made the latents"):
        EpisodeReader(path).frames(0)


def test_a_policy_that_needs_frames_is_refused_when_planned(tmp_path: Path, endless_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDSIM_TRUST", __name__.partition(".")[0])
    watching = {"policy": {"_target_": f"{__name__}.Watcher"}}
    with pytest.raises(ValueError, match=r"scenario 'free': its policy cannot act without frames .*: use record\.latents=beside"):
        made(tmp_path / "a", endless_path, "instead", scenario=watching)
    assert not (tmp_path / "a").exists()
    assert len(made(tmp_path / "b", endless_path, "beside", scenario=watching)) == 4


def test_other_values_are_refused(tmp_path: Path, endless_path: Path) -> None:
    with pytest.raises(ValueError, match=r"record\.latents=both must be one of none, beside, instead"):
        made(tmp_path / "a", endless_path, "both")


def test_a_decoder_refuses_latents_of_another_shape(endless_path: Path) -> None:
    decoder = FrameDecoder(WorldModel.from_pretrained(endless_path))
    with pytest.raises(ValueError, match=r"latents of shape \(2, 4, 8, 8\) are not of this world"):
        decoder(np.zeros((2, 4, 8, 8), np.float16))
    assert decoder(np.zeros((0, 4, 4, 4), np.float16)).shape == (0, 16, 16, 3)


class Loud(VectorEnv[Any, Any, Any]):
    """Latents that grow by a factor of 100 a step."""

    def __init__(self) -> None:
        self.num_envs, self.size = 2, 1.0
        self.single_action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.size = 1.0
        return np.ones((2, 1, 2, 2), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.size *= 100
        none = np.zeros(2, np.bool_)
        return np.full((2, 1, 2, 2), self.size, np.float32), np.zeros(2), none, none, {}


def test_latents_that_do_not_fit_in_half_precision_fail_the_episode() -> None:
    env = Loud()
    policy = RandomPolicy(env.single_action_space)
    (whole,) = rollout(env, policy, [EpisodeJob(0, 0, 2)], latents="instead")
    (failed,) = rollout(env, policy, [EpisodeJob(0, 0, 9)], latents="instead")
    assert (whole.status, len(whole)) == ("ok", 2)
    assert (failed.status, failed.reason) == ("failed", "latent as float16 is not finite at step 3")


def test_an_environment_without_latents_is_told() -> None:
    env = Loud()
    policy = RandomPolicy(env.single_action_space)
    with pytest.raises(ValueError, match=r"observations are float32 .* not frames"):
        rollout(env, policy, [EpisodeJob(0, 0, 2)])
    with pytest.raises(ValueError, match="latents='both' is unknown: use none, beside, instead"):
        rollout(env, policy, [EpisodeJob(0, 0, 2)], latents="both")
    env.reset = lambda **_: (np.zeros((2, 4, 4, 3), np.uint8), {})  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"latents are NoneType, not .*: only a learned world has them"):
        rollout(env, policy, [EpisodeJob(0, 0, 2)], latents="beside")


def test_infos_hold_the_latents_of_frames(endless_path: Path) -> None:
    batch = WorldSimVectorEnv(2, world=str(endless_path), latents=True)
    bare = WorldSimVectorEnv(2, world=str(endless_path), observation="latent")
    single = WorldSimEnv(str(endless_path), latents=True)
    action = np.full(3, 0.5, np.float32)
    infos, latents, info = batch.reset(seed=4)[1], bare.reset(seed=4)[0], single.reset(seed=5)[1]
    for _ in range(3):
        np.testing.assert_array_equal(infos["latent"], latents)
        np.testing.assert_allclose(infos["latent"][1], info["latent"], atol=1e-4)
        infos, latents, info = batch.step(np.stack([action] * 2))[4], bare.step(np.stack([action] * 2))[0], single.step(action)[4]
    kept = batch.clone_state([1])
    batch.restore_state(kept, [0])
    assert batch.step(np.stack([action] * 2))[4]["latent"].shape == (2, 4, 4, 4)
    assert "latent" not in WorldSimEnv(str(endless_path)).reset(seed=5)[1]
