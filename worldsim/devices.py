"""Devices by name."""

from __future__ import annotations

import torch


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
