"""Open a dataset for training."""

from __future__ import annotations

from pathlib import Path

from worldsim.datasets.reader import EpisodeReader


def open_store(path: Path | str) -> EpisodeReader:
    """Open the dataset at ``path``.

    Raises:
        ValueError: The folder is no dataset of a version that can be read.
    """
    return EpisodeReader(path)
