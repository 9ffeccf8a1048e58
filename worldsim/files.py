"""Tensors on disk: a file is written whole or not at all, and a disk that refuses is one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], file: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors beside ``file`` and rename them to it, so that an older one stays until the new one is whole.

    Raises:
        ValueError: The disk is full or refuses; names the file.
    """
    part = file.with_name(file.name + ".part")
    try:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, part, metadata=None if metadata is None else dict(metadata))
        part.replace(file)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ValueError(
            f"{file} cannot be written ({error}): free space or choose another place, then run the same command again; "
            "what was there before is untouched"
        ) from error
