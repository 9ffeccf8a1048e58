"""Exports: each opened as the other side opens it, action t between frames t and t + 1, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.config import compose
from worldsim.datasets.exporting import FORMATS, export, main
from worldsim.datasets.exports import mp4
from worldsim.datasets.imports.decode import decode
from worldsim.datasets.layout import FRAMES, shard_path
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Conditioning, Episode

LENGTHS = (12, 5, 17)
TOLD = Conditioning(("wet",), {"grip": 0.5}, "a wet night")


def shown(steps: int, seed: int, **kwargs: Any) -> Episode:
    """An episode whose frame t + 1 is painted with action t, and frame 0 with 0."""
    actions = np.random.default_rng(seed).integers(1, 250, (steps, 1)).astype(np.float32)
    frames = np.zeros((steps + 1, 32, 48, 3), np.uint8)
    frames[1:] = actions[:, :, None, None]
    flags = np.arange(steps) == steps - 1
    state = np.stack([np.arange(steps + 1.0), np.full(steps + 1, seed)], axis=1).astype(np.float32)
    rewards = (np.arange(steps) / 7).astype(np.float32)
    return Episode(frames, actions, rewards, flags & (seed % 2 == 0), flags & (seed % 2 == 1), state, seed=seed, **kwargs)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shown") / "shown"
    episodes = [shown(steps, i, scenario="calm", conditioning=TOLD, params={"i": i}) for i, steps in enumerate(LENGTHS)]
    episodes.insert(1, replace(shown(4, 99), status="rejected", reason="dark"))
    write_dataset(path, episodes, name="shown", fps=10.0, action_space=spaces.Box(0, 250, (1,)), state_names=("t", "seed"))
    return path


@pytest.fixture(scope="module")
def given(path: Path) -> list[Episode]:
    """The episodes in the order that exports have: those held out come last."""
    reader = EpisodeReader(path)
    return [reader[i] for name in ("train", "heldout") for i in reader.split(name)]


def painted(frames: NDArray[Any]) -> NDArray[np.float32]:
    """The action that each frame shows."""
    shades: NDArray[np.float32] = frames[:, 16, 24].mean(axis=-1).astype(np.float32)
    return shades


# ---------------------------------------------------------------- formats


def test_numpy_has_everything(path: Path, given: list[Episode], tmp_path: Path) -> None:
    export(path, tmp_path / "out", format="numpy")
    told = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (told["fps"], told["state_names"], len(told["episodes"])) == (10.0, ["t", "seed"], 3)
    for one, episode in zip(told["episodes"], given, strict=True):
        with np.load(tmp_path / "out" / one["file"], allow_pickle=False) as arrays:
            for name in ("frames", "actions", "rewards", "terminated", "truncated", "state"):
                np.testing.assert_array_equal(arrays[name], getattr(episode, name))
            np.testing.assert_array_equal(painted(arrays["frames"])[1:], arrays["actions"][:, 0])
        assert (one["seed"], one["params"], one["scenario"]) == (episode.seed, episode.params, "calm")
        assert Conditioning.from_json(one["conditioning"]) == TOLD
    assert [one["split"] for one in told["episodes"]] == ["train", "train", "heldout"]


@pytest.mark.parametrize(("lossless", "error"), [(True, 0), (False, 3)])
def test_mp4_plays_beside_its_actions(path: Path, given: list[Episode], tmp_path: Path, lossless: bool, error: int) -> None:
    export(path, tmp_path / "out", format="mp4", lossless=lossless)
    for i, episode in enumerate(given):
        frames = np.stack([frame for _, frame in decode(tmp_path / "out" / "episodes" / f"{i:06d}.mp4")])
        assert frames.shape == episode.frames.shape
        assert np.abs(frames.astype(int) - episode.frames).max() <= error
        told = json.loads((tmp_path / "out" / "episodes" / f"{i:06d}.json").read_text())
        np.testing.assert_array_equal(np.array(told["rewards"], np.float32), episode.rewards)
        np.testing.assert_allclose(painted(frames)[1:], np.array(told["actions"])[:, 0], atol=error)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["pixel_error"]["max"] <= error


@pytest.mark.parametrize("last_frame", ["drop", "keep"])
def test_diffusion_policy_has_one_row_a_frame(path: Path, given: list[Episode], tmp_path: Path, last_frame: str) -> None:
    export(path, tmp_path / "out", format="diffusion_policy", last_frame=last_frame)
    group: Any = zarr.open_group(tmp_path / "out", mode="r", zarr_format=2)
    ends = group["meta/episode_ends"][:]
    extra = int(last_frame == "keep")
    assert ends.dtype == np.int64
    assert ends.tolist() == np.cumsum([len(e) + extra for e in given]).tolist()
    for name in group["data"]:
        assert group["data"][name].shape[0] == ends[-1]
        assert json.loads((tmp_path / "out" / "data" / name / ".zarray").read_text())["compressor"]["id"] == "blosc"
    assert (group["data/img"].dtype, group["data/action"].dtype) == (np.uint8, np.float32)
    for start, end, episode in zip([0, *ends], ends, given, strict=False):
        image, action = group["data/img"][start:end], group["data/action"][start:end]
        np.testing.assert_array_equal(image, episode.frames[: len(image)])
        np.testing.assert_array_equal(painted(image)[1:], action[:-1, 0])
        np.testing.assert_array_equal(action[: len(episode)], episode.actions)
        np.testing.assert_array_equal(group["data/reward"][start:end][: len(episode)], episode.rewards)
    assert group.attrs["worldsim"]["last_frame"] == last_frame
    assert [one["seed"] for one in group.attrs["worldsim"]["episodes"]] == [e.seed for e in given]


def test_minari_opens_it(path: Path, given: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py")
    minari = pytest.importorskip("minari")
    export(path, tmp_path / "out", format="minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    data = minari.load_dataset("worldsim/shown-v0")
    assert (data.total_episodes, data.total_steps, data.action_space) == (3, sum(LENGTHS), spaces.Box(0, 250, (1,)))
    for read, episode in zip(data.iterate_episodes(), given, strict=True):
        np.testing.assert_array_equal(read.observations["image"], episode.frames)
        np.testing.assert_array_equal(read.observations["state"], episode.state)
        np.testing.assert_array_equal(painted(read.observations["image"])[1:], read.actions[:, 0])
        for theirs, ours in (("rewards", "rewards"), ("terminations", "terminated"), ("truncations", "truncated")):
            np.testing.assert_array_equal(getattr(read, theirs), getattr(episode, ours))


def test_minari_needs_no_jpeg(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("minari")
    h5py = pytest.importorskip("h5py")
    export(path, tmp_path / "out", format="minari")
    folder = tmp_path / "out" / "worldsim" / "shown-v0" / "data"
    assert json.loads((folder / "metadata.json").read_text())["jpeg_encoding"] is False
    with h5py.File(folder / "main_data.hdf5") as file:
        assert file["episode_0/observations/image"].shape[1:] == (32, 48, 3)
        assert json.loads(file["episode_0"].attrs["worldsim"])["conditioning"]["text"] == "a wet night"


@pytest.mark.parametrize("last_frame", ["drop", "keep"])
def test_lerobot_has_its_exact_fields(path: Path, given: list[Episode], tmp_path: Path, last_frame: str) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    out = export(path, tmp_path / "out", format="lerobot", last_frame=last_frame, lossless=True)
    rows = [len(e) + (last_frame == "keep") for e in given]
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"], info["fps"]) == ("v3.0", 3, sum(rows), 10)
    assert info["splits"] == {"train": "0:2", "heldout": "2:3"}
    assert info["features"]["observation.images.main"]["shape"] == [32, 48, 3]
    assert info["features"]["observation.state"] == {"dtype": "float32", "shape": [2], "names": ["t", "seed"]}
    episodes = parquet.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    ends = np.cumsum(rows).tolist()
    assert [(e["dataset_from_index"], e["dataset_to_index"], e["length"]) for e in episodes] == list(
        zip([0, *ends], ends, rows, strict=False)
    )
    assert [e["tasks"] for e in episodes] == [["a wet night"]] * 3
    assert parquet.ParquetFile(out / "data/chunk-000/file-000.parquet").num_row_groups == 3
    table = parquet.read_table(out / "data/chunk-000/file-000.parquet").to_pydict()
    frames = np.stack([frame for _, frame in decode(out / "videos/observation.images.main/chunk-000/file-000.mp4")])
    assert len(frames) == len(table["index"]) == sum(rows)
    assert table["index"] == list(range(sum(rows)))
    for number, (one, episode) in enumerate(zip(episodes, given, strict=True)):
        own = slice(one["dataset_from_index"], one["dataset_to_index"])
        assert one["videos/observation.images.main/from_timestamp"] == pytest.approx(own.start / 10)
        np.testing.assert_array_equal(frames[own], episode.frames[: one["length"]])
        np.testing.assert_array_equal(painted(frames[own])[1:], table["action"][own][:-1])
        assert table["episode_index"][own] == [number] * one["length"]
        np.testing.assert_allclose(table["timestamp"][own], np.arange(one["length"]) / 10, rtol=1e-6)
        np.testing.assert_array_equal(np.array(table["next.reward"][own], np.float32)[: len(episode)], episode.rewards)
        assert table["next.done"][own][-1] is True
    stats = json.loads((out / "meta/stats.json").read_text())
    assert np.shape(stats["observation.images.main"]["mean"]) == (3, 1, 1)
    assert set(stats["action"]) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    assert stats["action"]["max"] == [max(float(e.actions.max()) for e in given)]


def test_lerobot_tasks_are_what_pandas_reads(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pandas: Any = pytest.importorskip("pandas")
    out = export(path, tmp_path / "out", format="lerobot")
    assert pandas.read_parquet(out / "meta/tasks.parquet").to_dict() == {"task_index": {"a wet night": 0}}


def test_lerobot_itself_opens_it(path: Path, given: list[Episode], tmp_path: Path) -> None:
    lerobot: Any = pytest.importorskip("lerobot.datasets.lerobot_dataset", exc_type=ImportError)
    out = export(path, tmp_path / "out", format="lerobot", lossless=True)
    data = lerobot.LeRobotDataset("worldsim/shown", root=out, delta_timestamps={"action": [0, 0.1]})
    assert (data.num_episodes, len(data)) == (3, sum(LENGTHS))
    assert data[0]["action"][0] == given[0].actions[0]


# ---------------------------------------------------------------- what is promised for all


def missing(format: str) -> str | None:
    return {"lerobot": "pyarrow", "minari": "minari"}.get(format)


@pytest.mark.parametrize("format", FORMATS)
def test_command_writes_a_split(path: Path, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    if package := missing(format):
        pytest.importorskip(package)
    main(compose("data_export", [f"dataset={path}", f"format={format}", f"out={tmp_path / 'out'}", "split=heldout"]))
    assert "1 episodes" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_existing_target_is_left_alone(path: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="out exists: choose another 'out', or remove it"):
        export(path, tmp_path / "out", format="numpy")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("format", ["numpy", "mp4", "diffusion_policy", "lerobot", "minari"])
def test_a_damaged_episode_leaves_nothing_behind(path: Path, tmp_path: Path, format: str) -> None:
    if package := missing(format):
        pytest.importorskip(package)
    copy = shutil.copytree(path, tmp_path / "copy")
    shard_path(copy, 0, FRAMES, 3, 5).write_bytes(b"no shard")
    with pytest.raises(ValueError, match=r"episode 3: .* is damaged"):
        export(copy, tmp_path / "out", format=format)
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_a_stopped_export_leaves_nothing_behind(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(mp4, "video_error", stop)
    with pytest.raises(KeyboardInterrupt):
        export(path, tmp_path / "out", format="mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"format": "hdf4"}, "format=hdf4 is unknown: the formats are lerobot, minari"),
        ({"format": "numpy", "split": "test"}, "split 'test' does not exist"),
        ({"format": "numpy", "last_frame": "maybe"}, "last_frame=maybe must be drop or keep"),
    ],
)
def test_what_cannot_be_is_refused(path: Path, tmp_path: Path, wrong: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        export(path, tmp_path / "out", **wrong)  # type: ignore[arg-type]


def test_a_package_that_is_not_there_is_named(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pyarrow is not installed: run pip install 'worldsim-gym\[lerobot\]'"):
        export(path, tmp_path / "out", format="lerobot")
    assert not list(tmp_path.iterdir())
