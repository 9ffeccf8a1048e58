"""Rollouts of a finished world beside recorded episodes, to teach it something more, kept on disk until that is done."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from worldsim.checkpoint import content_hash, resolve
from worldsim.evaluation.openloop import Segment
from worldsim.files import save_tensors
from worldsim.model import WorldModel
from worldsim.simulator import Simulator

Roll = Callable[[Simulator, Sequence[Segment]], dict[str, Tensor]]
"""Rolls B segments out and gives tensors whose first axis is as long as wanted."""


class Kept:
    """Batches of rollouts on disk, so that training that is killed rolls none out again.

    Args:
        cfg: ``out``, the folder they are in, ``world``, and the settings in ``names``: what is kept by others is not read.
        fingerprint: Of the dataset.
        names: Of the settings that rollouts depend on.
    """

    def __init__(self, cfg: DictConfig, fingerprint: str, names: Sequence[str]) -> None:
        told = json.dumps([content_hash(resolve(cfg.world)), fingerprint, {name: cfg[name] for name in names}])
        self.folder = Path(cfg.out) / hashlib.sha256(told.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, number: int) -> dict[str, Tensor] | None:
        """Return what was kept by this number."""
        file = self._file(number)
        return load_file(file) if file.exists() else None

    def keep(self, number: int, made: dict[str, Tensor]) -> None:
        """Write it down."""
        save_tensors(made, self._file(number))

    def forget(self) -> None:
        """Remove all."""
        shutil.rmtree(self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"


def roll_out(world: WorldModel, parts: Sequence[Sequence[Segment]], roll: Roll, *, batch: int, kept: Kept) -> list[dict[str, Tensor]]:
    """Roll out several lists of segments, ``batch`` together, and say how it goes; an empty list gives no tensors."""
    simulator, found = Simulator(world, in_place=True), [list[dict[str, Tensor]]() for _ in parts]
    total, count, fresh, begun = sum(map(len, parts)), 0, 0, time.monotonic()
    batches = [(own, part[i : i + batch]) for own, part in zip(found, parts, strict=True) for i in range(0, len(part), batch)]
    for number, (own, some) in enumerate(batches):
        made = kept.read(number)
        if made is None:
            made, fresh = roll(simulator, some), fresh + len(some)
            kept.keep(number, made)
        own.append(made)
        count += len(some)
        left = (time.monotonic() - begun) / max(fresh, 1) * (total - count)
        print(f"rolled out {count}/{total} segments, {left:.0f} s left", flush=True)
    return [_join(own) for own in found]


def _join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Lay parts end to end."""
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
