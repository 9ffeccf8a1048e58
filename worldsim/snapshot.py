"""Snapshots: rows of a rollout as bytes that another process goes on from, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worldsim.engine import World
from worldsim.simulator import State

FORMAT = "worldsim-snapshot"
VERSION = "2.0"
_KEY = "worldsim"


@dataclass(frozen=True)
class Snapshot:
    """B rows of a rollout, and what their owner keeps beside them.

    Attributes:
        state: The rows.
        arrays: Further arrays, by name.
        notes: Anything that JSON can say.
    """

    state: State
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def to_bytes(snapshot: Snapshot, world: World) -> bytes:
    """Write a snapshot as one safetensors file, with the world's fingerprint and a checksum in its header.

    Raises:
        ValueError: The world was never saved, so nothing could tell it from another.
    """
    if not world.fingerprint:
        raise ValueError(f"world {world.spec.name!r} was not loaded from files: save it with save_pretrained and load it again first")
    tensors = {f"state.{f.name}": getattr(snapshot.state, f.name) for f in fields(State)}
    tensors |= {f"arrays.{name}": torch.from_numpy(np.ascontiguousarray(array)) for name, array in snapshot.arrays.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}
    notes = json.dumps(dict(snapshot.notes))
    header = {"format": FORMAT, "version": VERSION, "world": world.fingerprint, "notes": notes, "sha256": _digest(tensors, notes)}
    return save(tensors, metadata={_KEY: json.dumps(header)})  # one entry: safetensors keeps no order among several


def from_bytes(data: bytes, world: World) -> Snapshot:
    """Read what ``to_bytes`` wrote, for the same world.

    Raises:
        ValueError: The bytes are damaged, of a later major version, or belong to another world or to other weights' type.
    """
    try:
        tensors, header = load(data), _header(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"snapshot is damaged or no snapshot at all ({error}): take it from a copy") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"these {len(data):,} bytes are safetensors but no snapshot: give what to_bytes wrote")
    version = header.get("version", "")
    if version.partition(".")[0] != VERSION.partition(".")[0]:
        raise ValueError(f"snapshot has version {version}, this worldsim reads {VERSION}: open it with the worldsim that wrote it")
    if header.get("world") != world.fingerprint:
        theirs, ours = header.get("world", "")[:12], world.fingerprint[:12]
        raise ValueError(f"snapshot belongs to checkpoint {theirs}..., world {world.spec.name!r} is {ours}...: restore it in its own world")
    if header.get("sha256") != _digest(tensors, header.get("notes", "")):
        raise ValueError("snapshot is damaged: its checksum does not fit its content; take it from a copy")
    tensors.setdefault("state.told", torch.empty(len(tensors["state.seed"]), 0))  # written before there was recall, by a world without
    state = State(*(tensors[f"state.{f.name}"].to(world.device) for f in fields(State)))
    if state.keys.dtype != world.dtype:
        raise ValueError(f"snapshot holds {state.keys.dtype}, the world runs in {world.dtype}: load the world in that type")
    arrays = {name.removeprefix("arrays."): value.numpy() for name, value in tensors.items() if name.startswith("arrays.")}
    return Snapshot(state, arrays, json.loads(header["notes"]))


def _header(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    header: dict[str, str] = json.loads(metadata.get(_KEY, "{}"))
    return header


def _digest(tensors: Mapping[str, Tensor], notes: str) -> str:
    digest = hashlib.sha256(notes.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
