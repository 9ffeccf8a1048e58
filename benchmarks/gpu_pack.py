"""Folders in few files of limited size, for machines that take and give little: whole datasets, worlds, reports.

Frames of datasets are kept as plain bytes in one solid LZMA stream, which is less than half of what their shards take, and less than
lossless video takes (H.264 in RGB, measured on frames of Meta-World and ViZDoom). Unpacking writes the same shards again, byte by byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.datasets.layout import FRAMES
from worldsim.datasets.shards import SlotLayout, slot_layout

MIB = 1 << 20
HEAD = "packed.json"
_ROWS = ".rows"
_DICTIONARY = 64 * MIB


def pack(folders: Sequence[Path], out: Path, *, limit_mib: float = 15.0, preset: int = 4, most: int | None = None) -> dict[str, Any]:
    """Write folders as ``packed.json`` and ``packed.00``, ``packed.01``, ... of at most ``limit_mib`` each.

    Args:
        folders: What to pack; each is found again under its own name.
        out: Where to.
        limit_mib: Largest part [MiB].
        preset: Of LZMA: 0 is fast, 9 small.
        most: Most parts; None for any number.

    Raises:
        ValueError: Two folders have one name, one is missing, or they take more than ``most`` parts.
    """
    names = [folder.resolve().name for folder in folders]
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent or len(set(names)) < len(names):
        raise ValueError(f"folders {absent or names} must be there, and each must have a name of its own")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("packed.*"):
        old.unlink()
    whole = out / "packed.whole"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": _DICTIONARY}]
    with lzma.open(whole, "wb", filters=filters) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name, folder in zip(names, folders, strict=True):
            for path, data in _members(folder):
                entry = tarfile.TarInfo(f"{name}/{path}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    parts = _split(whole, round(limit_mib * MIB))
    whole.unlink()
    head = {"folders": names, "parts": {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts}}
    (out / HEAD).write_text(json.dumps(head, indent=1), encoding="utf-8")
    if most is not None and len(parts) > most:
        raise ValueError(f"{names} take {len(parts)} parts of {limit_mib} MiB, {most} were allowed: pack fewer folders")
    return head


def unpack(places: Sequence[Path], out: Path) -> list[Path]:
    """Write packed folders to ``out`` again; parts may lie in several places.

    Raises:
        ValueError: A part is missing or damaged, or a shard does not come out as it was.
    """
    found = {file.name: file for place in places for file in place.glob("packed.*")}
    if HEAD not in found:
        raise ValueError(f"no {HEAD} in {', '.join(map(str, places))}: name the folder that 'pack' wrote")
    head = json.loads(found[HEAD].read_text(encoding="utf-8"))
    for name, wanted in head["parts"].items():
        if name not in found or hashlib.sha256(found[name].read_bytes()).hexdigest() != wanted:
            raise ValueError(f"part {name} is missing or damaged: copy it again")
    whole = out / "packed.whole"
    out.mkdir(parents=True, exist_ok=True)
    with whole.open("wb") as joined:
        for name in head["parts"]:
            joined.write(found[name].read_bytes())
    with lzma.open(whole, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            target = (out / entry.name).resolve()
            if out.resolve() not in target.parents or not entry.isfile():
                raise ValueError(f"packed entry {entry.name!r} is no file below {out}: not unpacked")
            target.parent.mkdir(parents=True, exist_ok=True)
            file = tar.extractfile(entry)
            assert file is not None
            _restore(target, file.read())
    whole.unlink()
    made = [out / name for name in head["folders"]]
    for folder in made:
        _check(folder)
    return made


def _split(whole: Path, limit: int) -> list[Path]:
    parts = []
    with whole.open("rb") as stream:
        while data := stream.read(limit):
            parts.append(whole.with_name(f"packed.{len(parts):02d}"))
            parts[-1].write_bytes(data)
    return parts


def _members(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a folder; a dataset's shards of frames as plain rows, ahead of them the layout that they need."""
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: (file.name != "zarr.json", file))
    for file in files:
        layout = _layout(file)
        path = file.relative_to(folder).as_posix()
        if layout is None:
            yield path, file.read_bytes()
            continue
        record = folder / "commits" / path.split("/")[1] / f"{int(file.name.split('.')[1]):06d}.json"
        rows = layout.read(file, 0, int(json.loads(record.read_text(encoding="utf-8"))["frames"]))
        same = layout.encode(rows) == file.read_bytes()
        yield (path + _ROWS, rows.tobytes()) if same else (path, file.read_bytes())


def _layout(file: Path) -> SlotLayout | None:
    """Return how a shard of frames lies in its file; None where it is none."""
    head = file.parent / "zarr.json"
    if not file.name.startswith("c.") or not file.parent.as_posix().endswith(FRAMES) or not head.exists():
        return None
    return slot_layout(json.loads(head.read_text(encoding="utf-8")))


def _restore(target: Path, data: bytes) -> None:
    if target.suffix != _ROWS:
        target.write_bytes(data)
        return
    file = target.with_suffix("")
    layout = _layout(file)
    assert layout is not None, f"{file.parent}/zarr.json comes before the rows"
    file.write_bytes(layout.encode(np.frombuffer(data, layout.dtype).reshape(-1, *layout.row)))


def _check(folder: Path) -> None:
    """Compare a dataset with its manifest."""
    manifest = folder / "MANIFEST.json"
    if not manifest.exists():
        return
    for name, told in json.loads(manifest.read_text(encoding="utf-8"))["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != told["sha256"]:
            raise ValueError(f"{folder / name} did not come out as it was: use the numcodecs that it was packed with")
