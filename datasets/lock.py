"""One job a dataset: a lock beside its folder that ends with the process that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from worldsim.datasets.layout import DatasetError


@contextmanager
def job_lock(root: Path) -> Iterator[None]:
    """Hold the right to run jobs in the dataset ``root``; a process that dies, however it dies, holds it no longer.

    Raises:
        DatasetError: Another process holds it.
        OSError: The folder that the dataset lies in cannot be written.
    """
    root = root.absolute()
    root.parent.mkdir(parents=True, exist_ok=True)
    path = root.with_name(f".{root.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DatasetError(
            f"another job runs in {root}: wait for it, follow it by 'worldsim data status {root}', or end it; nothing was changed"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: one who has opened it already notices, and opens the next one
        lock.release()
