"""Write-behind: rollouts go on while earlier groups are compressed, written and committed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

T = TypeVar("T")
DEPTH = 2  # groups that wait for the disk at most, the one being written included


class WriteBehind:
    """One thread that writes in the order in which it is asked; asking waits only while ``depth`` groups are not written yet.

    Args:
        depth: Groups held in memory at most, at least 1.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self._room = BoundedSemaphore(depth)
        self._thread = ThreadPoolExecutor(1, "writer")

    def submit(self, write: Callable[[], T]) -> Future[T]:
        """Have ``write`` done soon; its result or error is the future's."""
        self._room.acquire()
        future = self._thread.submit(write)
        future.add_done_callback(lambda _: self._room.release())
        return future

    def close(self) -> None:
        """Finish the group that is being written; those behind it are dropped, and not committed."""
        self._thread.shutdown(cancel_futures=True)
