"""What is the same for equal data: a hash of a dataset's files, of its commit records all but what tells of their making."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldsim.datasets.layout import canonical_json, read_json

VOLATILE = ("worker", "started", "seconds", "committed", "attempt", "made", "seal")
"""Keys of a commit record that tell of its making: process, times, tries, machine and versions."""
DERIVED = ("index", "MANIFEST.json", "README.md", "croissant.json", "contact_sheet.png", "preview.mp4")
"""What finalize makes from the rest."""


def content(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a commit record without what tells of its making."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


def file_hashes(path: Path | str) -> dict[str, str]:
    """Return the sha256 of every file of a dataset that is no derived one; of ``zarr.json`` only what arrays mean, without dates."""
    root = Path(path)
    return dict(_hashes(root))


def dataset_hash(path: Path | str) -> str:
    """Return one sha256 over the plan, every array file and every commit: equal for equal data, however and wherever it was made."""
    return hashlib.sha256(canonical_json(sorted(file_hashes(path).items())).encode()).hexdigest()


def _hashes(root: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        name = file.relative_to(root).as_posix()
        if name.split("/", 1)[0] in DERIVED or name == "zarr.json":
            continue
        data = canonical_json(content(read_json(file))).encode() if name.startswith("commits/") else file.read_bytes()
        yield name, hashlib.sha256(data).hexdigest()
