"""Devices by name."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def find_device(device: str | torch.device) -> torch.device:
    """Return the device that is named.

    Raises:
        ValueError: There is no such kind, or torch sees none here.
    """
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {str(device)!r} is unknown: use 'cpu' or 'cuda'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees no GPU here: use device='cpu'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees GPUs 0..{torch.cuda.device_count() - 1}")
    return place


def send(value: Tensor, device: torch.device) -> Tensor:
    """Move to a device; to a GPU without waiting for what it is doing."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def resident(values: NDArray[np.generic], device: torch.device, *, share: float = 0.25) -> Tensor | None:
    """Copy an array into a GPU's memory to draw from it there; None on CPUs, and where it takes more than a share of what is free."""
    if device.type != "cuda" or values.nbytes > share * torch.cuda.mem_get_info(device)[0]:
        return None
    return torch.from_numpy(np.array(values)).to(device)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw standard normal noise on a device, from a generator of the CPU; a GPU draws its own from a seed of that one."""
    if device.type != "cuda":
        return torch.randn(shape, generator=generator).to(device)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
