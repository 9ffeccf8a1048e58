"""Where datasets lie, a folder or an object store: the operations that the two do in ways of their own."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar

from worldsim.datasets.errors import DatasetError
from worldsim.datasets.objects import StorePath

Root: TypeAlias = Path | StorePath
"""A dataset, or a file of one."""
T = TypeVar("T")
R = TypeVar("R")
_URL = re.compile(r"([a-z][a-z0-9]+):/{1,2}(.*)", re.DOTALL)
LARGE = 4
"""How many whole episodes or shards are in memory at a time."""


def place(path: Root | str) -> Root:
    """Return a folder, or for ``s3://bucket/name`` (``gs://``, ``az://``) a place in an object store.

    Raises:
        DatasetError: The address of a store lacks the bucket or the name.
    """
    if isinstance(path, StorePath):
        return path
    url = _URL.fullmatch(str(path))  # pathlib makes one slash of two
    return StorePath.parse(f"{url[1]}://{url[2]}") if url else Path(path)


# ---------------------------------------------------------------- writing


def write_bytes(path: Root, data: bytes) -> None:
    """Write a file all the way to the disk; after any crash it is either the old one, the new one, or absent."""
    if isinstance(path, StorePath):
        path.write_bytes(data)
        return
    temporary = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def is_there(path: Root, data: bytes, *, keep: Callable[[], bool]) -> bool:
    """Put what a store may lack: whether a file has these bytes now. For a folder, which one job holds, nothing is done.

    Args:
        path: The file.
        data: Its bytes.
        keep: Whether other bytes that may be there already count.

    Raises:
        DatasetError: There are other bytes, and they count.
    """
    if isinstance(path, Path):
        return False
    if path.create(data) is not None or path.read_bytes() == data:
        return True
    if keep():
        raise DatasetError(f"{path} was written by another worker with other content, and committed: record on machines of one kind")
    return False


def write_group(folder: Root, store: Mapping[str, Any]) -> None:
    """Write the files of a Zarr group that was made in memory, one after another, in place of what lies there."""
    remove_tree(folder)
    for name, data in sorted(store.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, data.to_bytes())


def copy(source: Root, target: Root) -> None:
    """Copy a file."""
    if isinstance(source, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, source.read_bytes())


def remove_tree(root: Root) -> None:
    """Remove a folder with all that is in it; there need be none."""
    if isinstance(root, StorePath):
        root.remove_all()
    elif root.exists():
        shutil.rmtree(root)


@contextmanager
def building(root: Root) -> Iterator[Root]:
    """Give a place to make a dataset in; a folder appears as ``root`` when all went well, an object store is swept when it did not."""
    if isinstance(root, StorePath):
        root.remove_all()
        try:
            yield root
        except BaseException:
            root.remove_all()
            raise
        return
    fresh = root.with_name(f".{root.name}.new")  # one job a dataset: worldsim.datasets.lock
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if root.exists():
            root.rmdir()
        fresh.rename(root)
        sync_folder(root.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def local_file(path: Root) -> Iterator[Path]:
    """Give a file for one to write who only knows files; what is in its folder then goes where ``path`` is."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, path.name)
        for file in Path(folder).iterdir():
            path.with_name(file.name).write_bytes(file.read_bytes())


def sync_file(path: Path) -> None:
    """Have the disk take a file's bytes now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Root) -> None:
    """Have the disk take a folder's entries now; systems that cannot sync folders do so by themselves."""
    if os.name == "posix" and isinstance(path, Path):
        sync_file(path)


# ---------------------------------------------------------------- reading


def sizes(root: Root) -> dict[str, int]:
    """Return the bytes of every file below a folder, by their names from there on, sorted; none where there is no folder."""
    if isinstance(root, StorePath):
        return root.sizes()
    return dict(sorted(_walk(str(root), ""))) if root.is_dir() else {}


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry.stat().st_size


def name_in(root: Root, file: Root) -> str:
    """Return the names of a file below ``root``, with ``/`` between them."""
    if isinstance(root, Path) and isinstance(file, Path):
        return file.relative_to(root).as_posix()
    return str(file).removeprefix(f"{root}/")


def digest(path: Root) -> tuple[int, str]:
    """Return size and hex sha256 of a file."""
    if isinstance(path, StorePath):
        data = path.read_bytes()
        return len(data), hashlib.sha256(data).hexdigest()
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Root) -> Any:
    """Return what is another once a file was written again."""
    if isinstance(path, StorePath):
        return path.tag()
    known = path.stat()
    return known.st_mtime_ns, known.st_size, known.st_ino


def each(root: Root, function: Callable[[T], R], items: Iterable[T], *, at_once: int = 32) -> list[R]:
    """Apply a function that reads below ``root``; ``at_once`` where each waits for a store."""
    return list(eagerly(root, function, items, at_once=at_once))


def eagerly(root: Root, function: Callable[[T], R], items: Iterable[T], *, at_once: int = 32) -> Iterator[R]:
    """Do as ``each`` does, and give each result as soon as it is there, in order."""
    if isinstance(root, Path):
        yield from map(function, items)
        return
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(function, items)


class Reading(Protocol):
    """A file, open to read pieces of it."""

    def whole(self) -> bytes:
        """Read all of it."""
        ...

    def tail(self, length: int) -> bytes:
        """Read its last bytes, fewer where there are not so many."""
        ...

    def pieces(self, places: Sequence[tuple[int, int]]) -> Iterable[bytes]:
        """Read the bytes at each offset and length, fewer where there are not so many."""
        ...


class _File:
    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle

    def whole(self) -> bytes:
        return self._handle.read()

    def tail(self, length: int) -> bytes:
        self._handle.seek(max(self._handle.seek(0, 2) - length, 0))
        return self._handle.read()

    def pieces(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for offset, length in places:
            self._handle.seek(offset)
            yield self._handle.read(length)


class _Object:
    def __init__(self, path: StorePath) -> None:
        self.whole, self.tail, self.pieces = path.read_bytes, path.read_tail, path.read_ranges


@contextmanager
def opened(path: Root) -> Iterator[Reading]:
    """Open a file to read pieces of it.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read.
    """
    if isinstance(path, StorePath):
        yield _Object(path)
        return
    with path.open("rb") as handle:
        yield _File(handle)
