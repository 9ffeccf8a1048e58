"""One job a dataset: a lock beside its folder that ends with the process that holds it; in an object store, a lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from worldsim.datasets.layout import DatasetError
from worldsim.datasets.lease import store_lock
from worldsim.datasets.objects import StorePath
from worldsim.datasets.storage import Root


@contextmanager
def job_lock(root: Root) -> Iterator[None]:
    """Hold the right to run jobs in the dataset ``root``; a process that dies, however it dies, holds it no longer, or not for long.

    Raises:
        DatasetError: Another process holds it.
        OSError: The folder that the dataset lies in cannot be written.
    """
    with store_lock(root) if isinstance(root, StorePath) else _folder_lock(root.absolute()):
        yield


@contextmanager
def _folder_lock(root: Path) -> Iterator[None]:
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
