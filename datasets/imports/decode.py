"""Frames out of video files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.datasets.layout import DatasetError


def decode(path: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield time in seconds since the first frame, and frame ``(H, W, 3)``, of a video's frames in order of display.

    Raises:
        DatasetError: The file is missing or no video.
    """
    import av
    from av.error import FFmpegError

    first: float | None = None
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                time = 0.0 if frame.time is None else float(frame.time)
                first = time if first is None else first
                yield time - first, frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    except (FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path} cannot be read as a video ({error})") from error


def video_fps(path: Path) -> float | None:
    """Return a video's average frames a second, or None where it does not say.

    Raises:
        DatasetError: The file is missing or no video.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
    except (FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path} cannot be read as a video ({error})") from error
    return None if rate is None else float(rate)
