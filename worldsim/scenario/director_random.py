"""Randomness of what happens in an episode: every number is drawn from (seed, name, step) alone."""

from __future__ import annotations

import copy
import hashlib
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium import Space


class _Source(threading.local):
    """A generator a thread, since to make one costs more than most draws; ``stream`` sets all of its state first."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.generator, self.fresh = np.random.Generator(self.bits), self.bits.state


_SOURCE = _Source()


def stream(seed: int, step: int, name: str) -> np.random.Generator:
    """Return the generator of what is called ``name`` at a step of the episode with ``seed``: equal for equal arguments.

    So what is drawn depends on no other draw, row or step, and episodes of one seed draw alike until they differ. The generator
    is good until the next call in the same thread.
    """
    source = _SOURCE
    state = source.fresh["state"]
    state["key"][:] = (seed % 2**64, _number(name))
    state["counter"][:] = (0, 0, 0, step)
    source.bits.state = source.fresh
    return source.generator


def derived_seed(seed: int, step: int, name: str) -> int:
    """Return another seed, in 0..2**62 - 1, drawn from ``stream(seed, step, name)``."""
    return int(stream(seed, step, name).integers(2**62))


def sample(space: Space[Any], generator: np.random.Generator) -> Any:
    """Sample a space by a generator rather than by its own randomness."""
    own = copy.deepcopy(space)
    own.seed(int(generator.integers(2**31)))
    return own.sample()


@lru_cache(maxsize=4096)
def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
