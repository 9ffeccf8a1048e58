"""Episodes and clips for PyTorch, and the lazy xarray view: right values, right alignment, in any kind of process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.datasets.layout import FRAMES, shard_path
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.torch_dataset import STREAMS, ClipDataset, EpisodeDataset, clip_loader
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode

LENGTHS = (20, 7, 33, 16)


def shown(steps: int, seed: int) -> Episode:
    """An episode whose frame t + 1 is painted with action t, and frame 0 with 0."""
    actions = np.random.default_rng(seed).integers(1, 250, (steps, 1))
    frames = np.zeros((steps + 1, 8, 12, 3), np.uint8)
    frames[1:] = actions[:, :, None, None]
    flags = np.arange(steps) == steps - 1
    state = np.stack([np.arange(steps + 1.0), np.full(steps + 1, seed)], axis=1).astype(np.float32)
    return Episode(frames, actions, np.arange(steps, dtype=np.float32), flags & (seed % 2 == 0), flags & (seed % 2 == 1), state, seed=seed)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shown") / "shown"
    episodes = [shown(steps, i) for i, steps in enumerate(LENGTHS)]
    write_dataset(path, episodes, name="shown", fps=10.0, action_space=spaces.Discrete(250), state_names=("t", "seed"))
    return path


def test_an_item_is_an_episode(path: Path) -> None:
    data = EpisodeDataset(path, split=None)
    assert len(data) == 4
    one, given = data[2], shown(33, 2)
    assert {name: tuple(value.shape) for name, value in one.items() if name in STREAMS} == {
        "frames": (34, 3, 8, 12),
        "actions": (33, 1),
        "rewards": (33,),
        "terminated": (33,),
        "truncated": (33,),
        "state": (34, 2),
    }
    assert [one[n].dtype for n in ("frames", "actions", "rewards", "terminated")] == [torch.uint8, torch.int64, torch.float32, torch.bool]
    np.testing.assert_array_equal(one["frames"].permute(0, 2, 3, 1).numpy(), given.frames)
    np.testing.assert_array_equal(one["actions"].numpy(), given.actions)
    assert int(one["episode"]) == 2


def test_splits_are_the_readers(path: Path) -> None:
    reader = EpisodeReader(path)
    for split in ("train", "heldout"):
        assert EpisodeDataset(path, split=split).episodes == reader.split(split)
        assert {ClipDataset(path, frames=2, split=split).place(0)[0]} <= set(reader.split(split))


@pytest.mark.parametrize(("stride", "align"), [(1, "any"), (3, "any"), (1, "chunk"), (2, "chunk")])
def test_action_takes_its_frame_to_the_next(path: Path, stride: int, align: str) -> None:
    clips = ClipDataset(path, frames=5, stride=stride, align=align, split=None)
    for i in range(len(clips)):
        clip = clips[i]
        led = clip["actions"][stride - 1 :: stride, 0]  # the step that ends in frame k + 1
        torch.testing.assert_close(clip["frames"][1:, 0, 0, 0].long(), led)
        assert clip["rewards"].tolist() == list(range(int(clip["start"]), int(clip["start"]) + 4 * stride))
        assert clip["state"][:, 0].tolist() == [int(clip["start"]) + k * stride for k in range(5)]


def test_every_place_is_an_item_once(path: Path) -> None:
    clips = ClipDataset(path, frames=8, split=None)
    places = [clips.place(i) for i in range(len(clips))]
    assert places == [(i, s) for i, steps in enumerate(LENGTHS) for s in range(steps + 1 - 7)]
    aligned = ClipDataset(path, frames=8, align="chunk", split=None)
    assert [aligned.place(i) for i in range(len(aligned))] == [place for place in places if place[1] % 8 == 0]
    assert clips.place(-1) == places[-1]
    with pytest.raises(IndexError):
        clips.place(len(clips))


def test_streams_are_chosen(path: Path) -> None:
    assert set(ClipDataset(path, frames=4, streams=("frames",))[0]) == {"frames", "episode", "start"}
    with pytest.raises(ValueError, match=r"stream 'sound' is not in .*: it has frames, actions"):
        ClipDataset(path, streams=("sound",))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"frames": 0}, "frames=0 and stride=1 must be"),
        ({"align": "left"}, "'any' or 'chunk'"),
        ({"frames": 99}, "the longest episode has 34"),
    ],
)
def test_what_cannot_be_is_refused(path: Path, wrong: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClipDataset(path, split=None, **wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cut_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of which two were cut, under a plan that says that some may be."""
    path = tmp_path_factory.mktemp("cut") / "cut"
    cuts: tuple[dict[str, Any], ...] = ({}, {"cuts": [3]}, {"cuts": [17, 17, 0, 25]}, {})
    episodes = [replace(shown(steps, i), params=told) for i, (steps, told) in enumerate(zip(LENGTHS, cuts, strict=True))]
    write_dataset(path, episodes, name="cut", fps=10.0, action_space=spaces.Discrete(250), state_names=("t", "seed"))
    return path


@pytest.mark.parametrize(("frames", "stride", "align"), [(2, 1, "any"), (5, 1, "any"), (3, 2, "any"), (4, 1, "chunk"), (1, 1, "any")])
def test_clips_do_not_reach_across_cuts_unless_asked_to(cut_path: Path, frames: int, stride: int, align: str) -> None:
    how: dict[str, Any] = {"frames": frames, "stride": stride, "align": align, "split": None}
    data, all_of_them = ClipDataset(cut_path, **how), ClipDataset(cut_path, across_cuts=True, **how)
    cuts = {1: [3], 2: [17, 25]}
    assert data.reader.cuts() == cuts

    def whole(episode: int, start: int) -> bool:
        return not any(start < cut <= start + (frames - 1) * stride for cut in cuts.get(episode, ()))

    every = [all_of_them.place(i) for i in range(len(all_of_them))]
    assert [data.place(i) for i in range(len(data))] == [place for place in every if whole(*place)]
    assert (len(data) < len(every)) == (frames > 1)


def order(path: Path, seed: int, workers: int = 0, start_method: str | None = None) -> list[list[tuple[int, int]]]:
    loader = clip_loader(ClipDataset(path, frames=9, split=None), batch=4, seed=seed, workers=workers, start_method=start_method)
    return [
        [(int(e), int(s)) for e, s in zip(batch["episode"], batch["start"], strict=True)]
        for _ in range(2)
        for batch in loader
        if bool((batch["frames"][:, 1:, 0, 0, 0].long() == batch["actions"][:, :, 0]).all())
    ]


def test_order_follows_the_seed(path: Path) -> None:
    first = order(path, 3)
    clips = len(ClipDataset(path, frames=9, split=None)) // 4
    assert len(first) == 2 * clips
    assert first == order(path, 3) != order(path, 4)
    assert first[:clips] != first[clips:]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
@pytest.mark.parametrize(("start_method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_what_one_process_reads(path: Path, start_method: str, workers: int) -> None:
    EpisodeReader(path)[0]  # arrays are open, and threads of their library run, before workers start
    assert order(path, 3, workers=workers, start_method=start_method) == order(path, 3)


def test_damage_is_raised_in_a_clip(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(path, tmp_path / "copy")
    shard_path(copy, 0, FRAMES, 0, 5).unlink()
    with pytest.raises(ValueError, match=r"episode 0: .* is missing"):
        ClipDataset(copy, frames=4, split=None)[0]


def test_xarray_reads_lazily_and_aligned(path: Path) -> None:
    pytest.importorskip("xarray")
    from worldsim.datasets.xarray_view import open_xarray

    view = open_xarray(path)
    assert dict(view.sizes) == {
        "frame": sum(LENGTHS) + 4,
        "height": 8,
        "width": 12,
        "channel": 3,
        "label": 2,
        "step": sum(LENGTHS),
        "number": 1,
    }
    frames = view["frames"].isel(frame=slice(15, 40, 2), channel=0)
    np.testing.assert_array_equal(frames.values, np.concatenate([shown(n, i).frames for i, n in enumerate(LENGTHS)])[15:40:2, :, :, 0])
    own = view.isel(frame=view["frame_episode"].values == 2, step=view["step_episode"].values == 2)
    np.testing.assert_array_equal(own["frames"].values[1:, 0, 0, 0], own["action"].values[:, 0])
    assert own["frame_time"].values.tolist() == list(range(34))
    assert view["state"].sel(label="seed").values.tolist() == [float(i) for i, n in enumerate(LENGTHS) for _ in range(n + 1)]
    assert float(view["reward"][-1]) == 15.0
