"""Video files for other programs: H.264 that plays everywhere, or H.264 that loses nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.datasets.layout import DatasetError

_LOSSY = {"crf": "18", "preset": "veryfast", "g": "2", "bf": "0"}  # g=2: any frame is at most one frame from a key frame
_LOSSLESS = {"qp": "0", "preset": "veryfast", "g": "2", "bf": "0"}


class VideoFile:
    """An MP4 that episodes are appended to.

    Args:
        path: File to write.
        size: Height and width in pixels.
        fps: Frames a second.
        lossless: H.264 High 4:4:4 in RGB, exact, which browsers do not show; else yuv420p (yuv444p for odd sizes).

    Raises:
        DatasetError: The encoder is not there.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, *, lossless: bool) -> None:
        import av
        from av.error import FFmpegError

        self.frames = 0
        self.format = pixel_format(size, lossless=lossless)
        codec = "libx264rgb" if lossless else "libx264"
        self._container: Any = av.open(str(path), "w", format="mp4")
        try:
            rate = Fraction(fps).limit_denominator(1001)
            stream: Any = self._container.add_stream(codec, rate=rate, options=_LOSSLESS if lossless else _LOSSY)
        except (FFmpegError, ValueError) as error:
            self._container.close()
            raise DatasetError(f"this build of PyAV has no encoder {codec}: install the 'av' wheel from PyPI") from error
        self._stream = stream
        stream.height, stream.width, stream.pix_fmt = *size, self.format

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Append frames ``(T, H, W, 3)``."""
        import av

        for frame in frames:
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        self.frames += len(frames)

    def __enter__(self) -> VideoFile:
        """Open for appending."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write what is left and close."""
        if kind is None and self.frames:
            self._container.mux(self._stream.encode())
        self._container.close()


def pixel_format(size: tuple[int, int], *, lossless: bool) -> str:
    """Return how pixels are stored."""
    if lossless:
        return "rgb24"
    return "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"


def video_error(path: Path, frames: NDArray[np.uint8]) -> tuple[float, int]:
    """Return the mean and the largest absolute error of a file's first frames, in steps of 255."""
    import av

    errors = []
    with av.open(str(path)) as container:
        for frame, decoded in zip(frames, container.decode(video=0), strict=False):
            errors.append(np.abs(decoded.to_ndarray(format="rgb24").astype(np.int16) - frame))
    return (float(np.mean(errors)), int(np.max(errors))) if errors else (0.0, 0)
