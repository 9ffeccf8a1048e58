"""The networks of a world as a simulator runs them: in which precision, compiled or not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from worldsim.model import WorldModel
from worldsim.streaming_decoder import StreamingDecoder
from worldsim.streaming_dit import StreamingDiT
from worldsim.streaming_heads import StreamingHeads, Told
from worldsim.tokenizer import FrameAutoencoder

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Networks:
    """What a step of a rollout calls.

    Attributes:
        dtype: What they compute in.
        dit: The dynamics.
        heads: Tell what last tokens ``(B, N, D)`` say, and the state of the frames before ``(B, S)`` where it is known.
        decode: Maps latents ``(B, C, h, w)`` of ``dtype`` to frames ``(B, 3, H, W)``.
    """

    dtype: torch.dtype
    dit: StreamingDiT
    heads: Callable[[Tensor, Tensor | None], Told]
    decode: Callable[[Tensor], Tensor]


_SHARED: WeakKeyDictionary[WorldModel, dict[tuple[torch.dtype, torch.device], Networks]] = WeakKeyDictionary()
"""Networks of worlds that were loaded from files, whose weights nobody changes."""


def networks_of(world: WorldModel, precision: str) -> Networks:
    """Return the networks of a world, with the weights as they are now.

    Simulators of a world that was loaded from files share them.

    Args:
        world: The world.
        precision: ``fp32``, in fact the type of the world's own weights, or ``bf16``.

    Raises:
        ValueError: The precision is unknown.
    """
    check_precision(precision)
    dtype = torch.bfloat16 if precision == "bf16" else world.dtype
    if not world.fingerprint:
        return _build(world, dtype)
    kept = _SHARED.setdefault(world, {})
    key = (dtype, world.device)
    if key not in kept:
        kept[key] = _build(world, dtype)
    return kept[key]


def check_precision(given: object) -> None:
    """Refuse what is no precision.

    Raises:
        ValueError: It is unknown.
    """
    if given not in PRECISIONS:
        raise ValueError(f"precision={given!r} is unknown: use {' or '.join(repr(one) for one in PRECISIONS)}")


def check_compile(given: object, device: torch.device) -> None:
    """Refuse to compile where that cannot work.

    Raises:
        ValueError: It is no bool, or there is no C++ compiler for a world on the CPU.
    """
    if not isinstance(given, bool):
        raise ValueError(f"compile={given!r} must be True or False")
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if given and device.type == "cpu" and shutil.which(name) is None:
        raise ValueError(
            f"compile=True needs a C++ compiler and {name!r} is not there: install it, name another in CXX, or leave compile out"
        )


def _build(world: WorldModel, dtype: torch.dtype) -> Networks:
    heads = StreamingHeads(world.heads, mean=world.spec.state_mean, std=world.spec.state_std, dtype=dtype)
    return Networks(dtype, StreamingDiT(world.dynamics, dtype=dtype), heads, _decoder(world.tokenizer, dtype))


def _decoder(tokenizer: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    if isinstance(tokenizer, FrameAutoencoder):
        return StreamingDecoder(tokenizer, dtype=dtype)
    if next(tokenizer.parameters()).dtype != dtype:
        tokenizer = deepcopy(tokenizer)
        nn.Module.to(tokenizer, dtype)  # diffusers' own ``to`` tells of parts kept in float32 even where there are none
        convert_conv2d_weight_memory_format(tokenizer, torch.channels_last)
    decode: Callable[[Tensor], Tensor] = tokenizer.decode
    return decode
