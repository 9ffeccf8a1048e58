"""Dataset layout v1: what is written is what is read, and damage is never read as data."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from gymnasium import spaces

from worldsim.datasets import writer as writing
from worldsim.datasets.clips import open_store
from worldsim.datasets.finalize import finalize
from worldsim.datasets.layout import FRAMES, canonical_json, commit_path, sha256_array, shard_path
from worldsim.datasets.plan import make_plan, plan_from_json
from worldsim.datasets.reader import EpisodeReader, heldout
from worldsim.datasets.verify import verify
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec, write_dataset
from worldsim.episode import Conditioning, Episode
from worldsim.rollout import EpisodeJob
from worldsim.types import EpisodeStore

ACTIONS = spaces.Box(-1, 1, (3,), np.float32)
ARRAYS = ("frames", "actions", "rewards", "terminated", "truncated", "state")


def episode(steps: int, seed: int, **kwargs: Any) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        frames=rng.integers(0, 255, (steps + 1, 16, 24, 3), dtype=np.uint8),
        actions=rng.random((steps, 3)).astype(np.float32),
        rewards=rng.random(steps).astype(np.float32),
        terminated=np.zeros(steps, np.bool_),
        truncated=np.arange(steps) == steps - 1,
        state=rng.random((steps + 1, 2)).astype(np.float32),
        **{"seed": seed, "scenario": "calm", "policy": "dice", **kwargs},
    )


def write(path: Path, episodes: list[Episode], **kwargs: Any) -> EpisodeReader:
    write_dataset(path, episodes, **{"name": "toy", "fps": 10.0, "action_space": ACTIONS, "state_names": ("x", "y"), **kwargs})
    return EpisodeReader(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "toy"
    write(path, [episode(20, 0), episode(7, 1), episode(20, 2)])
    return path


@pytest.fixture
def store(written: Path, tmp_path: Path) -> EpisodeReader:
    return EpisodeReader(shutil.copytree(written, tmp_path / "toy"))


def folder(store: EpisodeReader) -> Path:
    assert isinstance(store.path, Path)
    return store.path


def test_round_trip_is_exact(tmp_path: Path) -> None:
    told = Conditioning(("night", "wet"), {"grip": 0.5}, "a wet night")
    given = [episode(20, 0, conditioning=told, params={"context": 3}), episode(1, 5), episode(9, 1 << 60)]
    store: EpisodeStore = write(tmp_path / "toy", given, source={"id": "Toy-v0"}, licence="CC0-1.0")
    assert len(store) == 3
    for i, one in enumerate(given):
        read = store[i]
        for name in ARRAYS:
            assert getattr(read, name).dtype == getattr(one, name).dtype
            np.testing.assert_array_equal(getattr(read, name), getattr(one, name))
        for name in ("seed", "scenario", "policy", "conditioning", "params"):
            assert getattr(read, name) == getattr(one, name)
        assert len(read.frames) == len(read.actions) + 1
    info = store.info
    assert (info.name, info.frame_size, info.fps, info.action_space, info.state_names) == ("toy", (16, 24), 10.0, ACTIONS, ("x", "y"))
    assert (info.source, info.licence) == ({"id": "Toy-v0"}, "CC0-1.0")


def test_all_zero_episode_reads_back_and_its_loss_is_noticed(tmp_path: Path) -> None:
    frames, flags, state = np.zeros((6, 16, 16, 3), np.uint8), np.zeros(5, np.bool_), np.zeros((6, 0), np.float32)
    blank = Episode(frames, np.zeros((5, 1), np.int64), np.zeros(5, np.float32), flags, flags, state)
    store = write(tmp_path / "toy", [blank], action_space=spaces.Discrete(3), state_names=())
    read = store[0]
    assert (read.frames.shape, read.actions.dtype, read.state.shape) == ((6, 16, 16, 3), np.dtype(np.int64), (6, 0))
    assert not read.frames.any()
    shard_path(tmp_path / "toy", 0, "reward", 0, 2).unlink()
    with pytest.raises(ValueError, match=r"episode 0: .*reward.* is missing"):
        store[0]


def test_frames_of_a_range(store: EpisodeReader) -> None:
    np.testing.assert_array_equal(store.frames(0, 3, 19), store[0].frames[3:19])
    np.testing.assert_array_equal(store.frames(1), store[1].frames)
    assert store.frames(0, 4, 4).shape == (0, 16, 24, 3)
    with pytest.raises(ValueError, match="episode 1: it has frames 0:8"):
        store.frames(1, 0, 9)


def test_reader_survives_pickling_with_open_arrays(store: EpisodeReader) -> None:
    frames = store.frames(0, 0, 5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).frames(0, 0, 5), frames)


def test_one_episode_is_one_file_an_array(store: EpisodeReader) -> None:
    files = [path.name for path in (folder(store) / "parts/p00000" / FRAMES).iterdir()]
    assert sorted(files) == ["c.0.0.0.0.0", "c.1.0.0.0.0", "c.2.0.0.0.0", "zarr.json"]


def test_plain_zarr_reads_the_arrays_and_the_index(store: EpisodeReader) -> None:
    group = zarr.open_group(store.path, mode="r")
    frames: Any = group[f"parts/p00000/{FRAMES}"]
    np.testing.assert_array_equal(frames[2, :21], store[2].frames)
    index: Any = group["index"]
    assert index["episode_ends"][:].tolist() == [20, 27, 47]
    assert index["episode_slot"][:].tolist() == [0, 1, 2]
    assert index["split"][:].tolist() == [int(i in store.split("heldout")) for i in range(3)]


def test_splits_cover_all(store: EpisodeReader) -> None:
    assert sorted(store.split("train") + store.split("heldout")) == [0, 1, 2]
    with pytest.raises(ValueError, match="train and heldout"):
        store.split("test")


def test_split_follows_the_seed_and_stays_when_episodes_are_added() -> None:
    records = [{"seed": seed, "episode": i} for i, seed in enumerate([*range(500), *range(500)])]
    held = heldout(records)
    assert 0.02 < held.mean() < 0.08
    assert held[:500].tolist() == held[500:].tolist() == heldout(records[:500]).tolist()


@pytest.mark.parametrize("seeds", [[4, 9], [5, 5], [5, 5, 5]])
def test_small_datasets_have_both_splits(seeds: list[int]) -> None:
    assert heldout([{"seed": seed, "episode": i} for i, seed in enumerate(seeds)]).sum() == 1
    assert not heldout([{"seed": 4, "episode": 0}]).any()


def test_fingerprint_is_the_contents(tmp_path: Path, store: EpisodeReader) -> None:
    same = write(tmp_path / "elsewhere", [episode(20, 0), episode(7, 1), episode(20, 2)])
    other = write(tmp_path / "other", [episode(20, 0), episode(7, 1), episode(20, 3)])
    assert same.info.fingerprint == store.info.fingerprint != other.info.fingerprint


# ---------------------------------------------------------------- damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], None]] = {"flip": flip, "truncate": halve, "delete": Path.unlink}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(("name", "dims"), [(FRAMES, 5), ("observation/state", 3), ("action", 3), ("terminated", 2)])
def test_damaged_shard_is_never_read(store: EpisodeReader, how: str, name: str, dims: int) -> None:
    file = shard_path(folder(store), 0, name, 1, dims)
    DAMAGE[how](file)
    with pytest.raises(ValueError, match=f"episode 1: {file} is (missing|damaged|not what)"):
        store[1]
    assert len(store[0]) == 20
    assert any(problem.episode == 1 and str(file) in problem.message for problem in verify(store.path))


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_damaged_frames_are_not_read_by_range(store: EpisodeReader, how: str) -> None:
    DAMAGE[how](shard_path(folder(store), 0, FRAMES, 0, 5))
    with pytest.raises(ValueError, match="episode 0"):
        [store.frames(0, start, start + 4) for start in range(0, 20, 4)]


def test_another_episodes_shard_is_not_read(store: EpisodeReader) -> None:
    shard_path(folder(store), 0, FRAMES, 2, 5).replace(shard_path(folder(store), 0, FRAMES, 0, 5))
    with pytest.raises(ValueError, match="not what was committed"):
        store[0]


def test_verify_finds_a_flip_in_any_file(store: EpisodeReader) -> None:
    assert verify(store.path) == []
    files = [path for path in sorted(folder(store).rglob("*")) if path.is_file()]
    assert len(files) > 30
    for file in files:
        before = file.read_bytes()
        flip(file)
        assert verify(store.path), file
        file.write_bytes(before)
    assert verify(store.path) == []


def test_verify_finds_any_lost_file(store: EpisodeReader) -> None:
    for file in [path for path in sorted(folder(store).rglob("*")) if path.is_file() and path.name != "MANIFEST.json"]:
        before = file.read_bytes()
        file.unlink()
        assert verify(store.path), file
        file.write_bytes(before)


def test_slot_without_commit_record_does_not_exist(store: EpisodeReader) -> None:
    commit_path(store.path, 0, 1).unlink()
    again = EpisodeReader(store.path)
    assert len(again) == 2
    np.testing.assert_array_equal(again[1].frames, store[2].frames)


def test_rejected_and_failed_episodes_are_kept_but_not_read(tmp_path: Path) -> None:
    bad = [replace(episode(3, 1), status="rejected", reason="dark"), replace(episode(3, 2), status="failed", reason="nan")]
    store = write(tmp_path / "toy", [episode(3, 0), *bad])
    assert len(store) == 1
    assert json.loads((tmp_path / "toy/MANIFEST.json").read_text())["rejected"] == 1
    assert verify(tmp_path / "toy") == []


def version(path: Path, value: str) -> None:
    data = json.loads((path / "zarr.json").read_text())
    data["attributes"]["worldsim"]["version"] = value
    (path / "zarr.json").write_text(json.dumps(data))


def test_newer_minor_version_is_read_and_newer_major_is_refused(store: EpisodeReader) -> None:
    version(folder(store), "1.9")
    assert len(EpisodeReader(store.path)) == 3
    version(folder(store), "2.0")
    with pytest.raises(ValueError, match=r"version 2\.0, this release reads 1\.x: update worldsim"):
        EpisodeReader(store.path)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist: record one"):
        open_store(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"zarr\.json is missing"):
        open_store(tmp_path)
    zarr.create_group(tmp_path / "plain")
    with pytest.raises(ValueError, match="is no worldsim dataset"):
        open_store(tmp_path / "plain")


def test_damaged_commit_record_names_its_file(store: EpisodeReader) -> None:
    halve(commit_path(folder(store), 0, 1))
    with pytest.raises(ValueError, match=r"000001\.json cannot be read as JSON"):
        EpisodeReader(store.path)


# ---------------------------------------------------------------- writing


def jobs(count: int, horizon: int = 9) -> list[EpisodeJob]:
    return [EpisodeJob(i, i, horizon, "calm", "dice") for i in range(count)]


def spec(**kwargs: Any) -> Any:
    return make_spec(**{"name": "toy", "frame_size": (16, 24), "fps": 10.0, "action_space": ACTIONS, "state_names": ("x", "y"), **kwargs})


def test_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    stores = []
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        create_dataset(tmp_path / name, spec(), make_plan(jobs(3)))
        writer = EpisodeWriter(tmp_path / name)
        for i in order:
            writer.write(jobs(3)[i], episode(9 - i, i))
        stores.append(EpisodeReader(tmp_path / name))
    assert stores[0].info.fingerprint == stores[1].info.fingerprint
    frames = [shard_path(tmp_path / name, 0, FRAMES, 1, 5).read_bytes() for name in "ab"]
    assert frames[0] == frames[1]


def test_writing_a_slot_again_leaves_nothing_of_before(tmp_path: Path) -> None:
    for name, first in (("a", True), ("b", False)):
        create_dataset(tmp_path / name, spec(), make_plan(jobs(1)))
        if first:
            EpisodeWriter(tmp_path / name).write(jobs(1)[0], episode(9, 4))
        EpisodeWriter(tmp_path / name).write(jobs(1)[0], episode(2, 0))
    assert shard_path(tmp_path / "a", 0, FRAMES, 0, 5).read_bytes() == shard_path(tmp_path / "b", 0, FRAMES, 0, 5).read_bytes()


def test_same_plan_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    create_dataset(tmp_path / "toy", spec(), make_plan(jobs(3)))
    EpisodeWriter(tmp_path / "toy").write(jobs(3)[0], episode(9, 0))
    create_dataset(tmp_path / "toy", spec(), make_plan(jobs(3)))
    assert len(EpisodeReader(tmp_path / "toy")) == 1
    with pytest.raises(ValueError, match=r"another plan \(different: episodes\).*choose another 'out'"):
        create_dataset(tmp_path / "toy", spec(), make_plan(jobs(3, horizon=8)))
    with pytest.raises(ValueError, match=r"another plan \(different: fps\)"):
        create_dataset(tmp_path / "toy", spec(fps=5.0), make_plan(jobs(3)))


def test_a_longer_plan_adds_parts(tmp_path: Path) -> None:
    plan = make_plan(jobs(3))
    create_dataset(tmp_path / "toy", spec(), plan)
    longer = plan.extended(jobs(5, horizon=4)[3:])
    create_dataset(tmp_path / "toy", spec(), longer)
    writer = EpisodeWriter(tmp_path / "toy")
    for job in longer.jobs:
        writer.write(job, episode(4, job.seed))
    finalize(tmp_path / "toy")
    assert [record["part"] for record in EpisodeReader(tmp_path / "toy").records] == [0, 0, 0, 1, 1]
    assert verify(tmp_path / "toy") == []
    create_dataset(tmp_path / "toy", spec(), plan)
    assert len(EpisodeWriter(tmp_path / "toy").plan.jobs) == 5


def test_plan_text_is_canonical_and_read_back() -> None:
    plan = make_plan([EpisodeJob(0, 5, 9, "a", "b", {"context": 1}, Conditioning(("x",), {"n": 1.0}, "t"), {"k": 2})], scenarios={"a": {}})
    assert plan_from_json(json.loads(plan.text())).text() == plan.text()
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'
    with pytest.raises(ValueError, match="at least one episode"):
        make_plan([])


def test_groups_do_not_cross_parts() -> None:
    plan = make_plan(jobs(300), batch=7)
    groups = plan.groups()
    assert sum(map(len, groups)) == 300
    assert all(len({plan.place(job.id)[0] for job in group}) == 1 for group in groups)


def test_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is no worldsim dataset: choose another 'out'"):
        create_dataset(tmp_path, spec(), make_plan(jobs(1)))
    assert (tmp_path / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system"), (errno.EIO, "Input/output error")],
)
@pytest.mark.parametrize("call", ["write_bytes", "write_atomic"])
def test_a_disk_that_refuses_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, call: str
) -> None:
    create_dataset(tmp_path / "toy", spec(), make_plan(jobs(2)))
    writer = EpisodeWriter(tmp_path / "toy")
    writer.write(jobs(2)[0], episode(9, 0))

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(writing, call, refuse)
        with pytest.raises(ValueError, match=f"cannot write to dataset .*toy: {words}; free space or choose another 'out'"):
            writer.write(jobs(2)[1], episode(9, 1))
    assert len(EpisodeReader(tmp_path / "toy")) == 1
    EpisodeWriter(tmp_path / "toy").write(jobs(2)[1], episode(9, 1))
    assert len(EpisodeReader(tmp_path / "toy")) == 2


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to dataset .*: Not a directory"):
        create_dataset(tmp_path / "file" / "toy", spec(), make_plan(jobs(1)))


def test_hash_is_of_the_values_not_of_the_memory() -> None:
    plain = np.arange(12, dtype=np.int64).reshape(3, 4)
    assert sha256_array(plain) == sha256_array(plain.astype(">i8")) == sha256_array(np.asfortranarray(plain))
    assert sha256_array(plain) != sha256_array(plain + 1)
