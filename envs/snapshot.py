"""WorldSnapshot: everything that rows of an environment need to go on from where they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.engine import World
from worldsim.simulator import State
from worldsim.snapshot import Snapshot, from_bytes, to_bytes

VERSION = "1"


@dataclass(frozen=True)
class WorldSnapshot:
    """n rows of an environment. It is a value: restoring it changes nothing in it.

    Attributes:
        world: The world that it is of.
        latent: Whether observations are latents.
        state: The simulator's n rows.
        observations: ``(n, ...)`` newest observations.
        labels: ``(n, S)`` newest labelled state.
        elapsed: ``(n,)`` int64, steps of the episodes so far.
        over: ``(n,)`` bool, True where no episode is running.
        generators: State of each row's generator, which later starts are drawn from; None where it was left out.
    """

    world: World = field(repr=False)
    latent: bool
    state: State = field(repr=False)
    observations: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    elapsed: Tensor
    over: NDArray[np.bool_]
    generators: tuple[Mapping[str, Any] | None, ...] = field(repr=False)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.over)

    def take(self, row: int) -> WorldSnapshot:
        """Return a snapshot of one row of it."""
        arrays = {name: getattr(self, name)[row : row + 1] for name in ("observations", "labels", "elapsed")}
        return replace(self, state=self.state.take([row]), over=self.over[[row]], generators=(self.generators[row],), **arrays)

    def check(self, world: World, *, latent: bool) -> None:
        """Refuse to be restored where it does not belong.

        Raises:
            ValueError: The checkpoint, the device or the kind of observation is another.
        """
        _same_checkpoint(self.world.spec.name, self.world.fingerprint, world)
        if self.world.device != world.device:
            raise ValueError(f"snapshot is on {self.world.device}, the environment on {world.device}: restore snapshot.to_bytes() instead")
        _same_observation(self.latent, latent)

    def to_bytes(self) -> bytes:
        """Lay it out as safetensors, for a file or another process; see ``worldsim.snapshot``."""
        arrays = {name: getattr(self, name).cpu().numpy() for name in ("observations", "labels", "elapsed")}
        notes = {"environment": VERSION, "name": self.world.spec.name, "latent": self.latent, "generators": self.generators}
        return to_bytes(Snapshot(self.state, {**arrays, "over": self.over}, notes), self.world)

    @staticmethod
    def from_bytes(data: bytes, world: World) -> WorldSnapshot:
        """Build the snapshot that ``to_bytes`` laid out, for ``world``.

        Raises:
            ValueError: It is no snapshot of an environment, damaged, of another format version or of another checkpoint.
        """
        found = from_bytes(data, world)
        version = found.notes.get("environment")
        if version != VERSION:
            kind = "a simulator's alone" if version is None else f"of an environment's version {version!r}, this release reads {VERSION!r}"
            raise ValueError(f"snapshot is {kind}: give what clone_state().to_bytes() gave in this release")
        arrays = {name: torch.from_numpy(found.arrays[name]).to(world.device) for name in ("observations", "labels", "elapsed")}
        generators = tuple(found.notes["generators"])
        return WorldSnapshot(
            world=world, latent=found.notes["latent"], state=found.state, over=found.arrays["over"], generators=generators, **arrays
        )


def generator_from(bits: Mapping[str, Any]) -> np.random.Generator:
    """Build the generator whose state was kept."""
    generator = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = dict(bits)
    return generator


def as_snapshot(given: Any, world: World) -> WorldSnapshot:
    """Return a snapshot, from its bytes if need be.

    Raises:
        ValueError: It is neither, or does not fit the world.
    """
    if isinstance(given, bytes):
        return WorldSnapshot.from_bytes(given, world)
    if not isinstance(given, WorldSnapshot):
        raise ValueError(f"snapshot {type(given).__name__} is none: give what clone_state() gave, or its to_bytes()")
    return given


def _same_checkpoint(name: str, fingerprint: str, world: World) -> None:
    if fingerprint != world.fingerprint:
        raise ValueError(
            f"snapshot is of world {name!r} (sha256 {fingerprint[:12]}), the environment runs {world.spec.name!r} "
            f"(sha256 {world.fingerprint[:12]}): restore it where the same checkpoint runs"
        )


def _same_observation(own: bool, wanted: bool) -> None:
    if own != wanted:
        kind, other = ("latent", "frame") if own else ("frame", "latent")
        raise ValueError(f"snapshot holds observations of kind {kind!r}, the environment gives {other!r}: use observation={kind!r} there")
