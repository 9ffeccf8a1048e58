"""Export to plain NumPy: ``episodes/000000.npz`` each, and ``dataset.json``. Nothing is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldsim.datasets.exports.common import Export, about_episode
from worldsim.datasets.layout import canonical_json


def write(export: Export, target: Path) -> str:
    """Write one compressed npz an episode, with the arrays of ``worldsim.episode.Episode``; T + 1 frames, T actions.

    Returns:
        How to open it.
    """
    (target / "episodes").mkdir()
    listed = []
    for number, (episode, split) in enumerate(zip(export.read(), export.splits, strict=True)):
        file = f"episodes/{number:06d}.npz"
        np.savez_compressed(
            target / file,
            frames=episode.frames,
            actions=episode.actions,
            rewards=episode.rewards,
            terminated=episode.terminated,
            truncated=episode.truncated,
            state=episode.state,
        )
        listed.append({"file": file, **about_episode(episode, split)})
    (target / "dataset.json").write_text(canonical_json({**export.about(), "episodes": listed}), encoding="utf-8")
    return "np.load('episodes/000000.npz', allow_pickle=False); T + 1 frames around T actions, exact"
