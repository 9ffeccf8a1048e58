"""Export to MP4: ``episodes/000000.mp4`` beside ``000000.json`` with actions, rewards and flags."""

from __future__ import annotations

import json
from pathlib import Path

from worldsim.datasets.exports.common import Export, about_episode
from worldsim.datasets.exports.encode import VideoFile, video_error
from worldsim.datasets.layout import canonical_json


def write(export: Export, target: Path) -> str:
    """Write a video and a JSON file an episode: T + 1 frames, T actions; numbers in JSON are exact.

    Returns:
        How to open it, and what the pixels lost.
    """
    info = export.reader.info
    (target / "episodes").mkdir()
    error = (0.0, 0)
    for number, (episode, split) in enumerate(zip(export.read(), export.splits, strict=True)):
        file = target / "episodes" / f"{number:06d}.mp4"
        with VideoFile(file, info.frame_size, info.fps, lossless=export.lossless) as video:
            video.add(episode.frames)
        if number == 0:
            error = video_error(file, episode.frames)
        steps = {
            "actions": episode.actions.tolist(),
            "rewards": episode.rewards.tolist(),
            "terminated": episode.terminated.tolist(),
            "truncated": episode.truncated.tolist(),
            "state": episode.state.tolist(),
        }
        file.with_suffix(".json").write_text(json.dumps({**about_episode(episode, split), **steps}), encoding="utf-8")
    about = {**export.about(), "pixel_error": {"mean": round(error[0], 3), "max": error[1]}}
    (target / "dataset.json").write_text(canonical_json(about), encoding="utf-8")
    return (
        f"any player; actions beside each video; pixels off by {error[0]:.2f} of 255 on average, {error[1]} at most, in the first episode"
    )
