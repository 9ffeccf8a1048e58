"""What is the same for equal data: a hash of a dataset's files, of its commit records all but what tells of their making."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from worldsim.datasets.layout import canonical_json, read_json
from worldsim.datasets.storage import LARGE, Root, each, place, sizes

VOLATILE = ("worker", "started", "seconds", "committed", "attempt", "made", "seal")
"""Keys of a commit record that tell of its making: process, times, tries, machine and versions."""
DERIVED = ("index", "MANIFEST.json", "README.md", "croissant.json", "contact_sheet.png", "preview.mp4")
"""What finalize makes from the rest."""


def content(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a commit record without what tells of its making."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


def file_hashes(path: Root | str) -> dict[str, str]:
    """Return the sha256 of every file of a dataset that is no derived one; of ``zarr.json`` only what arrays mean, without dates."""
    root = place(path)
    names = [name for name in sizes(root) if name.split("/", 1)[0] not in DERIVED and name != "zarr.json"]
    return dict(zip(names, each(root, lambda name: _hash(root, name), names, at_once=LARGE), strict=True))


def dataset_hash(path: Root | str) -> str:
    """Return one sha256 over the plan, every array file and every commit: equal for equal data, however and wherever it was made."""
    return hashlib.sha256(canonical_json(sorted(file_hashes(path).items())).encode()).hexdigest()


def _hash(root: Root, name: str) -> str:
    file = root / name
    data = canonical_json(content(read_json(file))).encode() if name.startswith("commits/") else file.read_bytes()
    return hashlib.sha256(data).hexdigest()
