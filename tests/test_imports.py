"""Imports: what was exported comes back, logs of other people come in, and action t lies between frames t and t + 1."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.config import compose
from worldsim.datasets.exporting import export
from worldsim.datasets.exports.encode import VideoFile
from worldsim.datasets.importing import import_dataset, main
from worldsim.datasets.imports.common import resize, rgb, space_of
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.verify import verify
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Conditioning, Episode

LENGTHS = (12, 5, 17)
TOLD = Conditioning(("wet",), {"grip": 0.5}, "a wet night")
NEEDS = {"lerobot": "pyarrow", "minari": "minari"}


def paint(actions: NDArray[Any]) -> NDArray[np.uint8]:
    """Frames of which t + 1 is painted with the first number of action t, and frame 0 with 0."""
    frames = np.zeros((len(actions) + 1, 32, 48, 3), np.uint8)
    frames[1:] = actions[:, :1, None, None]
    return frames


def shown(actions: NDArray[Any], seed: int, **kwargs: Any) -> Episode:
    steps = len(actions)
    flags = np.arange(steps) == steps - 1
    state = np.stack([np.arange(steps + 1.0), np.full(steps + 1, seed)], axis=1).astype(np.float32)
    rewards = (np.arange(steps) / 7).astype(np.float32)
    ends = flags & (seed % 2 == 0)
    return Episode(paint(actions), actions, rewards, ends, flags & ~ends, state, seed=seed, **kwargs)


def numbers(steps: int, seed: int, width: int = 1) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(1, 250, (steps, width))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shown") / "shown"
    told: dict[str, Any] = {"scenario": "calm", "policy": "dice", "conditioning": TOLD, "params": {"lap": 3}}
    episodes = [shown(numbers(steps, i).astype(np.float32), i, **told) for i, steps in enumerate(LENGTHS)]
    about: dict[str, Any] = {"source": {"id": "Toy-v0"}, "licence": "CC0-1.0"}
    write_dataset(path, episodes, name="shown", fps=12.5, action_space=spaces.Box(0, 250, (1,)), state_names=("t", "seed"), **about)
    return path


def aligned(reader: EpisodeReader, error: float = 0) -> None:
    for i in range(len(reader)):
        episode = reader[i]
        assert len(episode.frames) == len(episode.actions) + 1
        shades = episode.frames[:, episode.frames.shape[1] // 2, episode.frames.shape[2] // 2].mean(axis=-1)
        np.testing.assert_allclose(shades[1:], episode.actions[:, 0], atol=error)
        assert abs(shades[0]) <= error


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize(("format", "below"), [("lerobot", ""), ("minari", "worldsim/shown-v0"), ("video", "")])
def test_export_then_import_gives_it_back(path: Path, tmp_path: Path, format: str, below: str, lossless: bool) -> None:
    if format in NEEDS:
        pytest.importorskip(NEEDS[format])
    written = "mp4" if format == "video" else format
    export(path, tmp_path / "there", format=written, lossless=lossless, last_frame="keep")
    back = import_dataset(str(tmp_path / "there" / below), tmp_path / "back", format=format)
    given = EpisodeReader(path)
    originals = {given[i].seed: given[i] for i in range(len(given))}
    assert len(back) == len(given)
    for i in range(len(back)):
        read, one = back[i], originals[back[i].seed]
        for name in ("actions", "rewards", "terminated", "truncated", "state"):
            np.testing.assert_array_equal(getattr(read, name), getattr(one, name))
            assert getattr(read, name).dtype == getattr(one, name).dtype
        for name in ("scenario", "policy", "conditioning", "params"):
            assert getattr(read, name) == getattr(one, name)
        off = np.abs(read.frames.astype(int) - one.frames)
        assert off.max() == 0 if lossless or format == "minari" else off.mean() < 3
    assert {back[i].seed for i in back.split("heldout")} == {given[i].seed for i in given.split("heldout")}
    for name in ("name", "fps", "frame_size", "action_space", "state_names", "source", "licence"):
        assert getattr(back.info, name) == getattr(given.info, name)
    assert verify(tmp_path / "back") == []
    aligned(back, 0 if lossless else 3)


def test_lerobot_without_last_frames_lacks_one_step(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    export(path, tmp_path / "there", format="lerobot", lossless=True, last_frame="drop")
    back = import_dataset(str(tmp_path / "there"), tmp_path / "back", format="lerobot")
    assert sorted(back.lengths()) == sorted(steps - 1 for steps in LENGTHS)
    assert all(back[i].truncated[-1] and not back[i].terminated.any() for i in range(3))
    aligned(back)


SPACES: list[Space[Any]] = [
    spaces.Discrete(7, start=2),
    spaces.MultiDiscrete([3, 5]),
    spaces.Box(-1, 1, (2, 2), np.float32),
    spaces.Dict({"go": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(3)}),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("format", ["minari", "lerobot", "video"])
def test_action_spaces_come_back(tmp_path: Path, space: Space[Any], format: str) -> None:
    from worldsim.spaces import to_row

    if format in NEEDS:
        pytest.importorskip(NEEDS[format])
    space.seed(3)
    actions = np.stack([to_row(space, space.sample()) for _ in range(6)])
    flags, state = np.zeros(6, np.bool_), np.zeros((7, 0), np.float32)
    one = Episode(np.zeros((7, 32, 32, 3), np.uint8), actions, np.zeros(6, np.float32), flags, flags, state)
    write_dataset(tmp_path / "one", [one], name="one", fps=5.0, action_space=space)
    export(tmp_path / "one", tmp_path / "there", format="mp4" if format == "video" else format, last_frame="keep")
    below = "worldsim/one-v0" if format == "minari" else ""
    back = import_dataset(str(tmp_path / "there" / below), tmp_path / "back", format=format)
    assert back.info.action_space == space
    np.testing.assert_array_equal(back[0].actions, actions)


# ---------------------------------------------------------------- other people's logs


def film(folder: Path, name: str, frames: NDArray[np.uint8], fps: float = 10) -> Path:
    folder.mkdir(exist_ok=True)
    height, width = frames.shape[1:3]
    with VideoFile(folder / f"{name}.mp4", (height, width), fps, lossless=True) as video:
        video.add(frames)
    return folder / f"{name}.mp4"


@pytest.mark.parametrize(("how", "extra"), [("between", 0), ("before", 1), ("after", 1)])
@pytest.mark.parametrize("kind", ["json", "npz", "npy", "csv"])
def test_actions_beside_a_video(tmp_path: Path, kind: str, how: str, extra: int) -> None:
    actions = numbers(9, 0, 2)
    film(tmp_path / "logs", "a", paint(actions))
    pad = np.full((extra, 2), 77)
    rows = np.concatenate((actions, pad) if how == "before" else (pad, actions))
    file = tmp_path / "logs" / f"a.{kind}"
    if kind == "json":
        file.write_text(json.dumps(rows.tolist()))
    elif kind == "npz":
        np.savez(file, actions=rows)
    elif kind == "npy":
        np.save(file, rows)
    else:
        with file.open("w", newline="") as handle:
            csv.writer(handle).writerows([["steer", "gas", "reward"], *[[*row, t / 2] for t, row in enumerate(rows.tolist())]])
    told = "before" if how == "between" else how
    back = import_dataset(str(tmp_path / "logs"), tmp_path / "back", format="video", actions=told)
    np.testing.assert_array_equal(back[0].actions, actions)
    aligned(back)
    assert back.info.fps == 10
    assert back[0].truncated.tolist() == [False] * 8 + [True]
    if kind == "csv":
        assert back[0].rewards[0] == (0.5 if how == "after" else 0)


def test_minari_of_others_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    from minari.data_collector.episode_buffer import EpisodeBuffer  # type: ignore[import-not-found, unused-ignore]

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    actions = [numbers(steps, i)[:, 0] for i, steps in enumerate(LENGTHS)]
    ends = [np.arange(steps) == steps - 1 for steps in LENGTHS]
    buffers = [
        EpisodeBuffer(id=i, observations=paint(a[:, None]), actions=a, rewards=np.ones(len(a)), terminations=e, truncations=0 * e)
        for i, (a, e) in enumerate(zip(actions, ends, strict=True))
    ]
    settings: dict[str, Any] = {"observation_space": spaces.Box(0, 255, (32, 48, 3), np.uint8), "action_space": spaces.Discrete(250)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("other/logs-v0", buffers, data_format="hdf5", jpeg_encoding=False, **settings)
    with pytest.raises(ValueError, match="does not say how many frames a second it has: give fps="):
        import_dataset("other/logs-v0", tmp_path / "back", format="minari")
    back = import_dataset("other/logs-v0", tmp_path / "back", format="minari", fps=20)
    assert [e.tolist() for e in (back[0].terminated, back[0].rewards)] == [ends[0].tolist(), [1.0] * 12]
    assert (back.info.fps, back.info.action_space, back[2].seed) == (20, spaces.Discrete(250), 2)
    aligned(back)


def test_lerobot_of_others_comes_in(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    there = export(path, tmp_path / "there", format="lerobot", lossless=True)
    (there / "meta" / "worldsim.json").unlink()  # as a dataset that somebody else wrote
    back = import_dataset(str(there), tmp_path / "back", format="lerobot", name="mine", licence="MIT")
    assert (back.info.name, back.info.licence, back.info.state_names) == ("mine", "MIT", ("t", "seed"))
    assert isinstance(back.info.action_space, spaces.Box)
    every = np.concatenate([back[i].actions for i in range(3)])
    assert back.info.action_space.low <= every.min() < every.max() <= back.info.action_space.high
    assert back[0].conditioning.text == "a wet night"
    aligned(back)


def test_lerobot_pictures_in_parquet_come_in(path: Path, tmp_path: Path) -> None:
    pyarrow: Any = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    import io

    from PIL import Image

    from worldsim.datasets.imports.decode import decode

    there = export(path, tmp_path / "there", format="lerobot", lossless=True)
    camera = "observation.images.main"
    cells = []
    for _, frame in decode(there / f"videos/{camera}/chunk-000/file-000.mp4"):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    file = there / "data/chunk-000/file-000.parquet"
    parquet.write_table(parquet.read_table(file).append_column(camera, pyarrow.array(cells)), file)
    info = json.loads((there / "meta/info.json").read_text())
    info["features"][camera]["dtype"] = "image"
    (there / "meta/info.json").write_text(json.dumps(info))
    aligned(import_dataset(str(there), tmp_path / "back", format="lerobot"))


# ---------------------------------------------------------------- parts and refusals


def test_command_resizes_by_area(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(path, tmp_path / "there", format="mp4", lossless=True)
    settings = [f"source={tmp_path / 'there'}", f"out={tmp_path / 'back'}", "from=video", "size=16", "fps=30"]
    main(compose("data_import", settings))
    back = EpisodeReader(tmp_path / "back")
    assert (back.info.frame_size, back.info.fps) == ((16, 16), 30)
    aligned(back)
    assert "3 episodes, 37 frames" in capsys.readouterr().out
    main(compose("data_import", [*settings[:1], f"out={tmp_path / 'wide'}", "from=video", "size=[8,24]"]))
    assert EpisodeReader(tmp_path / "wide").info.frame_size == (8, 24)


def test_resize_takes_the_mean_of_areas() -> None:
    frame = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    small = resize([frame], (2, 3))[0]
    assert np.abs(small - frame.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))).max() <= 0.5


@pytest.mark.parametrize("shape", [(5, 8, 9), (5, 8, 9, 1), (5, 8, 9, 3), (5, 8, 9, 4), (5, 3, 8, 9), (5, 1, 8, 9)])
def test_pictures_of_all_layouts_become_rgb(shape: tuple[int, ...]) -> None:
    assert rgb(np.zeros(shape, np.uint8)).shape == (5, 8, 9, 3)


def test_space_is_what_actions_span() -> None:
    assert space_of([np.array([[0], [3]])]) == spaces.Discrete(4)
    assert space_of([np.array([[0, 1]]), np.array([[2, 0]])]) == spaces.MultiDiscrete([3, 2])
    box = space_of([np.array([[0.5, -2]], np.float32), np.array([[1, 3]], np.float32)])
    assert box == spaces.Box(np.array([0.5, -2], np.float32), np.array([1, 3], np.float32))
    with pytest.raises(ValueError, match="the least action is -1"):
        space_of([np.array([[-1]])])


def test_wrong_number_of_actions_is_refused(tmp_path: Path) -> None:
    film(tmp_path / "logs", "a", paint(numbers(9, 0)))
    np.save(tmp_path / "logs" / "a.npy", np.zeros((7, 1)))
    with pytest.raises(ValueError, match=r"a\.mp4 has 10 frames and 7 actions: give one action between two frames \(9\)"):
        import_dataset(str(tmp_path / "logs"), tmp_path / "back", format="video")
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


def test_video_without_actions_is_refused(tmp_path: Path) -> None:
    film(tmp_path / "logs", "a", paint(numbers(4, 0)))
    with pytest.raises(ValueError, match=r"a\.mp4 has no actions beside it: add a\.json, \.npz"):
        import_dataset(str(tmp_path / "logs"), tmp_path / "back", format="video")
    np.savez(tmp_path / "logs" / "a.npz", act=np.zeros(4))
    with pytest.raises(ValueError, match=r"a\.npz has no actions: it has act"):
        import_dataset(str(tmp_path / "logs"), tmp_path / "back", format="video")


def test_pickled_actions_are_not_read(tmp_path: Path) -> None:
    film(tmp_path / "logs", "a", paint(numbers(4, 0)))
    np.save(tmp_path / "logs" / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read \(Object arrays cannot be loaded"):
        import_dataset(str(tmp_path / "logs"), tmp_path / "back", format="video")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"format": "rlds"}, "from=rlds is unknown: the formats are minari, lerobot, video"),
        ({"format": "video"}, "has no videos"),
        ({"format": "video", "actions": "later"}, "actions=later must be before or after"),
        ({"format": "video", "fps": -1.0}, "fps=-1.0 must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        import_dataset(str(tmp_path), tmp_path / "back", **wrong)


@pytest.mark.parametrize("size", ["0", "wide", "[1,2,3]"])
def test_wrong_size_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(ValueError, match="must be a number of pixels, as 64, or height and width"):
        main(compose("data_import", [f"source={tmp_path}", f"out={tmp_path / 'back'}", "from=video", f"size={size}"]))


def test_older_lerobot_format_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v2.1", "features": {}}))
    with pytest.raises(ValueError, match=r"has LeRobot format v2\.1: v3\.x is read"):
        import_dataset(str(tmp_path), tmp_path / "back", format="lerobot")


def test_broken_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    np.save(tmp_path / "a.npy", np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        import_dataset(str(tmp_path), tmp_path / "back", format="video")
