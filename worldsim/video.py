"""Writing frames as a video file that players and browsers show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def write_video(frames: Iterable[NDArray[np.uint8]], path: Path | str, fps: float) -> Path:
    """Write frames ``(H, W, 3)`` as a video; an odd last row or column is left out, as H.264 needs even sides.

    Args:
        frames: At least one.
        path: ``.mp4`` (H.264) or ``.gif`` file.
        fps: Frames per second.

    Returns:
        The file; a ``.gif`` beside ``path`` where no H.264 encoder is to be had.
    """
    path = Path(path)
    even = (np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]) for frame in frames)
    if path.suffix == ".gif" or not _has_encoder():
        return _write_gif(even, path.with_suffix(".gif"), fps)
    return _write_mp4(even, path, fps)


def _has_encoder() -> bool:
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        return False
    try:
        av.Codec("libx264", "w")
    except FFmpegError:
        return False
    return True


def _write_gif(frames: Iterator[NDArray[np.uint8]], path: Path, fps: float) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=max(20, round(1000 / fps)), loop=0)
    return path


def _write_mp4(frames: Iterator[NDArray[np.uint8]], path: Path, fps: float) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "20", "preset": "veryfast"})
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
