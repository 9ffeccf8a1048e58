"""What ``verify`` checks at a time, in any process: some files, and the episode that they hold."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from worldsim.datasets.bar import Bar
from worldsim.datasets.layout import EVERY_FRAME, DatasetError, array_path, shard_path
from worldsim.datasets.places import Places
from worldsim.datasets.reader import open_array, read_slot
from worldsim.datasets.storage import LARGE, Root, digest, eagerly, name_in

RESTORE = "restore it from a copy of the dataset"
_CHUNK = 8  # units that a process takes at a time


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: The file, relative to the dataset.
        episode: The episode it belongs to, or None where it belongs to several.
        message: What is wrong and what to do.
        affects: The episodes that need the file, in words: ``episode 7``, ``episodes 0 to 255`` or ``all episodes``.
        kind: ``missing``, ``extra``, ``truncated``, ``altered`` or ``stale``.
    """

    file: str
    episode: int | None
    message: str
    affects: str = "all episodes"
    kind: str = "altered"

    def line(self) -> str:
        """Say it in one line."""
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in f"{self.affects}: {self.message}")


@dataclass(frozen=True)
class Unit:
    """What one process checks at a time: some files, and the episode that they hold where its record is whole."""

    files: tuple[str, ...]
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Frame:
    """What every unit is checked against."""

    root: Root
    told: Mapping[str, Mapping[str, Any]] | None
    places: Places


def run(frame: Frame, units: Sequence[Unit], workers: int, console: Console | None) -> Iterator[Problem]:
    """Check all units, in several processes where that pays, and show how it goes."""
    with Bar("verifying", len(units), console=console) as bar:
        for problems in _results(frame, units, workers):
            bar.step()
            yield from problems


def _results(frame: Frame, units: Sequence[Unit], workers: int) -> Iterator[list[Problem]]:
    check: Callable[[Unit], list[Problem]] = partial(_check_unit, frame)
    if min(workers, len(units) // _CHUNK) <= 1:
        yield from eagerly(frame.root, check, units, at_once=LARGE)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _keep, (frame,)) as pool:
        yield from pool.map(_check_kept, units, chunksize=_CHUNK)


_kept: list[Frame] = []


def _keep(frame: Frame) -> None:
    _kept[:] = [frame]


def _check_kept(unit: Unit) -> list[Problem]:
    return _check_unit(_kept[0], unit)


def _check_unit(frame: Frame, unit: Unit) -> list[Problem]:
    found = [problem for name in unit.files for problem in _check_file(frame, name)]
    named = {problem.file for problem in found}
    return found + [problem for problem in (_check_episode(frame, unit.record) if unit.record else ()) if problem.file not in named]


def _check_file(frame: Frame, name: str) -> Iterator[Problem]:
    """Compare a file with its line in the manifest."""
    if frame.told is None or name not in frame.told:
        return
    file, entry = frame.root / name, frame.told[name]
    kind, wrong = _difference(file, entry)
    if kind:
        yield Problem(name, frame.places.episode(name), f"{file} {wrong}: {RESTORE}", frame.places.affects(name), kind)


def _difference(file: Root, entry: Mapping[str, Any]) -> tuple[str, str]:
    try:
        size, sha256 = digest(file)
        if size < entry["size"]:
            return "truncated", f"is truncated, {size} of {entry['size']} bytes are left"
        if size > entry["size"]:
            return "altered", f"is altered, it has {size} bytes where {entry['size']} were written"
        return ("altered", "is altered, its bytes are not what was written") if sha256 != entry["sha256"] else ("", "")
    except FileNotFoundError:
        return "missing", "is missing"
    except OSError as error:
        return "altered", f"cannot be read ({error.strerror})"


def _check_episode(frame: Frame, record: Mapping[str, Any]) -> Iterator[Problem]:
    """Decode an episode's arrays and compare them with the hashes in its commit record."""
    part, slot, episode = int(record["part"]), int(record["slot"]), int(record["episode"])
    for name in record["sha256"]:
        file = array_path(frame.root, part, name) / "zarr.json"
        try:
            array = open_array(frame.root, part, name)
            file = shard_path(frame.root, part, name, slot, array.array.ndim)
            read_slot(frame.root, array, record, name, 0, int(record["length"]) + (name in EVERY_FRAME), check=True)
        except DatasetError as error:
            kind = "altered" if file.exists() else "missing"
            message = str(error).removeprefix(f"episode {episode}: ")
            yield Problem(name_in(frame.root, file), episode, message, f"episode {episode}", kind)
