"""Hashes that prove a file: of all its bytes, or as a seal inside a JSON record, so that one changed bit shows in the record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.datasets.layout import DatasetError, canonical_json, sha256_text
from worldsim.datasets.storage import Root, digest

SEAL = "seal"


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its seal: the sha256 of its canonical JSON, under the key ``seal``."""
    plain = {key: value for key, value in record.items() if key != SEAL}
    return {**plain, SEAL: sha256_text(canonical_json(plain))}


def check_seal(record: Mapping[str, Any], file: Root) -> None:
    """Compare a record with its seal; one without, as releases before seals wrote it, passes.

    Args:
        record: What was read.
        file: Where from, for the message.

    Raises:
        DatasetError: The record is not what was sealed.
    """
    if SEAL in record and seal(record)[SEAL] != record[SEAL]:
        raise DatasetError(f"{file} is not what was written: a part of it has changed; restore it from a copy of the dataset")


def file_sha256(path: Root) -> str:
    """Return the hex sha256 of a file."""
    return digest(path)[1]
