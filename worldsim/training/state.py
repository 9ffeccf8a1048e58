"""Training state on disk: safetensors and JSON, written whole or not at all, so that a killed run goes on exactly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from worldsim.files import save_tensors

META = "meta.json"


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of ``optimizer``'s state under the names ``{parameter number}.{slot}``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{slot}": torch.as_tensor(value) for i, slots in state.items() for slot, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo ``flatten_optimizer``; hyper-parameters stay the optimizer's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        i, slot = name.split(".", 1)
        state.setdefault(int(i), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def save_state(
    folder: Path, *, model: nn.Module, ema: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, meta: Mapping[str, Any]
) -> None:
    """Write a training state to ``folder``, replacing an older one by a rename.

    Raises:
        ValueError: The disk is full or refuses; the older one stays.
    """
    fresh, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    parts = {"model": model.state_dict(), "ema": ema, "optimizer": flatten_optimizer(optimizer)}
    for name, tensors in parts.items():
        save_tensors(tensors, fresh / f"{name}.safetensors")
    (fresh / META).write_text(json.dumps(dict(meta), indent=1))
    for file in fresh.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find_state(folder: Path) -> Path | None:
    """Return where a whole training state lies: ``folder``, or its predecessor if a kill hit between two renames."""
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / META).exists():
            return candidate
    return None


def load_state(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a training state.

    Returns:
        Tensors of ``model``, ``ema`` and ``optimizer``, and the meta data.

    Raises:
        ValueError: A file of it is missing or damaged.
    """
    try:
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}
        return tensors, json.loads((folder / META).read_text())
    except Exception as error:
        raise ValueError(f"training state {folder} is damaged ({error}): remove the folder to start afresh") from error
