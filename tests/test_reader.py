"""The reader's quick ways: the index that opens large datasets, and slots read straight from their files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from gymnasium import spaces

from worldsim.datasets.layout import ACTION, FRAMES, commit_path, shard_path
from worldsim.datasets.reader import EpisodeReader, open_array
from worldsim.datasets.records import Records
from worldsim.datasets.seal import seal
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode


def episode(steps: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    flags = np.zeros(steps, np.bool_)
    frames = rng.integers(0, 255, (steps + 1, 16, 24, 3), dtype=np.uint8)
    state = rng.random((steps + 1, 2)).astype(np.float32)
    return Episode(frames, rng.random((steps, 3)).astype(np.float32), rng.random(steps).astype(np.float32), flags, flags, state, seed=seed)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "toy"
    rejected = replace(episode(5, 9), status="rejected", reason="dark")
    episodes = [episode(20, 0), rejected, episode(7, 1), episode(20, 2)]
    write_dataset(path, episodes, name="toy", fps=10.0, action_space=spaces.Box(-1, 1, (3,)), state_names=("x", "y"))
    return path


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "toy")


def same(a: EpisodeReader, b: EpisodeReader) -> None:
    assert (len(a), a.info, a.lengths().tolist()) == (len(b), b.info, b.lengths().tolist())
    assert list(a.records) == list(b.records)
    assert [a.split(name) for name in ("train", "heldout")] == [b.split(name) for name in ("train", "heldout")]


def test_index_and_records_tell_the_same(path: Path) -> None:
    indexed = EpisodeReader(path)
    assert isinstance(indexed.records, Records)
    (path / "MANIFEST.json").unlink()
    plain = EpisodeReader(path)
    assert isinstance(plain.records, list)
    same(indexed, plain)
    assert len(indexed) == 3


def drop_record(path: Path) -> None:
    commit_path(path, 0, 2).unlink()


def grow_record(path: Path) -> None:
    file = commit_path(path, 0, 2)
    file.write_text(json.dumps(seal({**json.loads(file.read_text()), "worker": 123456789})))


def flip_index(path: Path) -> None:
    file = path / "index" / "split" / "c" / "0"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def halve_manifest(path: Path) -> None:
    file = path / "MANIFEST.json"
    file.write_text(file.read_text()[:200])


@pytest.mark.parametrize("change", [drop_record, grow_record, flip_index, halve_manifest])
def test_an_index_that_is_not_true_is_not_used(path: Path, change: Any) -> None:
    change(path)
    reader = EpisodeReader(path)
    assert isinstance(reader.records, list)
    assert len(reader) == (2 if change is drop_record else 3)
    np.testing.assert_array_equal(reader[-1].frames, episode(20, 2).frames)


def test_a_record_that_is_not_the_indexed_one_is_refused(path: Path) -> None:
    reader = EpisodeReader(path)
    file = commit_path(path, 0, 2)
    file.write_text(file.read_text().replace('"length":7', '"length":6'))
    with pytest.raises(ValueError, match=r"000002\.json is not what was written"):
        EpisodeReader(path)[1]
    file.write_text(json.dumps(seal(json.loads(file.read_text())), separators=(",", ":")))
    with pytest.raises(ValueError, match=r"000002\.json is not the record that was indexed"):
        EpisodeReader(path)[1]
    assert len(reader[0]) == 20


def test_slots_are_read_as_zarr_reads_them(written: Path) -> None:
    reader = EpisodeReader(written)
    for name in reader.records[0]["sha256"]:
        opened = open_array(written, 0, name)
        assert opened.layout is not None
        for start, stop in ((0, 1), (0, 20), (3, 19), (8, 16), (19, 20), (5, 5)):
            rows = reader.rows(0, name, start, stop)
            np.testing.assert_array_equal(rows, opened.array[0, start:stop])
            assert rows.dtype == opened.array.dtype
            assert rows.shape == opened.array[0, start:stop].shape


def test_other_codecs_are_left_to_zarr(path: Path) -> None:
    group = zarr.open_group(path / "parts" / "p00000", mode="r+")
    old: Any = group[ACTION]
    values = old[...]
    settings = {"chunks": old.chunks, "dtype": old.dtype, "shape": old.shape, "chunk_key_encoding": {"name": "default", "separator": "."}}
    group.create_array(ACTION, overwrite=True, **settings)[...] = values
    assert open_array(path, 0, ACTION).layout is None
    np.testing.assert_array_equal(EpisodeReader(path)[0].actions, episode(20, 0).actions)


def test_a_chunk_that_is_not_in_its_shard_is_no_zeros(path: Path) -> None:
    array = zarr.open_array(path / "parts" / "p00000" / FRAMES, mode="r+")
    shard_path(path, 0, FRAMES, 0, 5).unlink()
    array[0, :8] = episode(20, 0).frames[:8]  # the first chunk alone
    reader = EpisodeReader(path)
    np.testing.assert_array_equal(reader.frames(0, 0, 8), episode(20, 0).frames[:8])
    with pytest.raises(ValueError, match=r"episode 0: .*a chunk is missing"):
        reader.frames(0, 4, 12)


def test_every_flipped_byte_of_a_shard_is_noticed(path: Path) -> None:
    reader = EpisodeReader(path)
    file = shard_path(path, 0, FRAMES, 2, 5)
    good = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(good), 60).tolist():
        data = bytearray(good)
        data[place] ^= 1 << (place % 8)
        file.write_bytes(data)
        with pytest.raises(ValueError, match="episode 2"):
            [reader.frames(1, start, start + 2) for start in range(0, 8, 2)]
    file.write_bytes(good)
    np.testing.assert_array_equal(reader.frames(1), episode(7, 1).frames)


def test_rows_of_what_is_not_there(written: Path) -> None:
    reader = EpisodeReader(written)
    with pytest.raises(ValueError, match=r"episode 0 has no array 'sound': it has .*observation/images/main"):
        reader.rows(0, "sound")
    with pytest.raises(ValueError, match="action 0:21 are not inside episode 0: it has action 0:20"):
        reader.rows(0, ACTION, 0, 21)


def test_a_lost_file_is_no_zeros_whoever_reads_it(path: Path) -> None:
    test_other_codecs_are_left_to_zarr(path)
    for name, dims in ((ACTION, 3), (FRAMES, 5)):
        shard_path(path, 0, name, 2, dims).unlink()
        with pytest.raises(ValueError, match=r"episode 2: .* is missing"):
            EpisodeReader(path).rows(1, name, 0, 2)
