"""Pictures of a dataset."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from worldsim.datasets.preview import contact_sheet, pick_episodes, preview_video
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeReader:
    def episode(steps: int, color: int) -> Episode:
        frames = np.full((steps + 1, 20, 20, 3), color, np.uint8)
        flags = np.zeros(steps, bool)
        actions, state = np.ones((steps, 2), np.float32), np.zeros((steps + 1, 0), np.float32)
        return Episode(frames, actions, actions[:, 0], flags, flags, state, scenario="calm")

    path = tmp_path_factory.mktemp("pictures") / "toy"
    episodes = [episode(9, 40), episode(4, 200), episode(9, 120)]
    write_dataset(path, episodes, name="toy", fps=10.0, action_space=spaces.Box(-1, 1, (2,), np.float32))
    return EpisodeReader(path)


def test_contact_sheet_shows_the_frames(store: EpisodeReader, tmp_path: Path) -> None:
    image = np.asarray(Image.open(contact_sheet(store, tmp_path / "sheet.png", episodes=[0, 1], steps=[0, 4])))
    assert image.shape == (16 + 2 * (16 + 60 + 7 + 4), 2 * 64, 3)
    assert image[16 + 16 + 30, 30].tolist() == [40] * 3
    assert image[16 + 87 + 16 + 30, 64 + 30].tolist() == [200] * 3


def test_ended_episodes_are_darkened(store: EpisodeReader, tmp_path: Path) -> None:
    image = np.asarray(Image.open(contact_sheet(store, tmp_path / "sheet.png", episodes=[1], steps=[4, 9])))
    assert (image[62, 30, 0], image[62, 94, 0]) == (200, 200 // 3)


def test_video_has_all_steps_at_the_datasets_rate(store: EpisodeReader, tmp_path: Path) -> None:
    with av.open(str(preview_video(store, tmp_path / "preview.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, float(stream.average_rate or 0)) == ("h264", 10.0)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 10
    assert abs(int(frames[0][40, 30, 0]) - 40) < 6


def test_gif_by_name_or_where_there_is_no_encoder(store: EpisodeReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(preview_video(store, tmp_path / "a.gif")) as image:
        assert getattr(image, "n_frames", 1) > 1
    real = builtins.__import__

    def without_av(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError("no av")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert preview_video(store, tmp_path / "b.mp4") == tmp_path / "b.gif"


def test_picked_episodes_are_spread(store: EpisodeReader) -> None:
    assert pick_episodes(store, 2) == [0, 2]
    assert pick_episodes(store, 12) == [0, 1, 2]
