"""Weights stored as what has changed since older ones: an update of a world in a third of the bytes.

A component's folder then holds ``base.safetensors``, the older weights, and ``changes.safetensors`` in place of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BASE = "base.safetensors"
CHANGES = "changes.safetensors"
LEVELS = 15
"""Largest number stored. Some 6% of a change is rounded away, root mean square: of weights that changed by a sixth, 1%."""
_SCALE = ".scale"


def find_changes(new: Mapping[str, Tensor], base: Mapping[str, Tensor], *, levels: int = LEVELS) -> dict[str, Tensor]:
    """Return what leads from ``base`` to ``new``.

    Args:
        new: Weights.
        base: Older ones, of the same network or one that lacked some inputs.
        levels: Largest number stored, 1 to 127: fewer take fewer bytes once they are compressed.

    Returns:
        Tensors by the names of ``new``. Matrices and kernels that the base has too: int8 ``(rows, ...)``, and under ``NAME.scale``
        float16 ``(rows,)``, by which a row's numbers are multiplied. All others: their values as float16.

    Raises:
        ValueError: ``levels`` is out of range.
    """
    if not 1 <= levels <= 127:
        raise ValueError(f"levels={levels} must be 1 to 127, which is what an int8 holds")
    told = dict[str, Tensor]()
    for name, value in new.items():
        old = base.get(name)
        if old is None or old.shape != value.shape or value.ndim < 2 or not value.is_floating_point():
            told[name] = value.half() if value.dtype == torch.float32 else value
            continue
        change = (value.float() - old.float()).flatten(1)  # (rows, columns)
        scale = (change.abs().amax(1) / levels).half()  # (rows,)
        steps = torch.where(scale[:, None] > 0, change / scale[:, None].float(), 0.0)  # (rows, columns)
        told[name] = steps.round().clamp(-levels, levels).to(torch.int8).reshape(value.shape)
        told[name + _SCALE] = scale
    return told


def apply_changes(changes: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that ``changes`` lead to from ``base``, those that changed as float32.

    Raises:
        ValueError: They are changes of other weights.
    """
    new = dict[str, Tensor]()
    for name, value in changes.items():
        scale = changes.get(name + _SCALE)
        if scale is None:
            if not name.endswith(_SCALE):
                new[name] = value
            continue
        old = base.get(name)
        if old is None or old.shape != value.shape or len(scale) != len(value):
            there = "nothing" if old is None else f"shape {tuple(old.shape)}"
            raise ValueError(f"changes of {name}, shape {tuple(value.shape)}, do not fit the base, which has {there} there")
        new[name] = old.float() + value.float() * scale.float().reshape(-1, *[1] * (value.ndim - 1))
    return new
