"""What is measured of a world: the protocol that all sections share, and the sections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import Space

from worldsim.evaluation.drift import Drift
from worldsim.evaluation.endings import Endings
from worldsim.evaluation.fidelity import Fidelity
from worldsim.evaluation.generalisation import Generalisation
from worldsim.evaluation.inverse import Inverse, draw_clips, train_inverse
from worldsim.evaluation.judge import Judge
from worldsim.evaluation.memory import Memory
from worldsim.evaluation.probe import Probe, draw_pairs, train_probe
from worldsim.evaluation.sight import share_out
from worldsim.types import EpisodeStore, Policy

_READER = {"_target_": "worldsim.datasets.reader.EpisodeReader"}


@dataclass(frozen=True)
class Protocol:
    """How a world is measured.

    Attributes:
        split: Split of the dataset.
        context: Real frames that rollouts start from.
        horizon: Steps of a rollout.
        segments: Most rollouts.
        per_episode: Rollouts that start in one episode.
        seed: For the places of rollouts, the noise, and the probe.
        batch: Rollouts that run together.
        pairs: Real pairs of frames that the probe learns from; 0 leaves the probe out.
        probe_steps: Its training steps.
    """

    split: str = "heldout"
    context: int = 8
    horizon: int = 64
    segments: int = 64
    per_episode: int = 4
    seed: int = 0
    batch: int = 16
    pairs: int = 8000
    probe_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        for name in ("context", "horizon", "segments", "per_episode", "batch", "probe_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"protocol.{name}={getattr(self, name)} must be 1 or more")
        if self.pairs < 0:
            raise ValueError(f"protocol.pairs={self.pairs} must be 0 (no probe) or more")


@dataclass(frozen=True)
class Long:
    """Long rollouts: wanted ``steps``, fewer where the recorded episodes are shorter, of at most ``segments`` segments."""

    steps: int = 256
    segments: int = 16

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if min(self.steps, self.segments) < 1:
            raise ValueError(f"long.steps={self.steps} and long.segments={self.segments} must be 1 or more; long=null leaves it out")


@dataclass(frozen=True)
class Distance:
    """Frechet distances; ``width`` steps round each chosen one are pooled."""

    width: int = 4

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if self.width < 1:
            raise ValueError(f"distance.width={self.width} must be 1 or more steps; distance=null leaves the section out")


@dataclass(frozen=True)
class Suite:
    """The sections beside frames, reward and state; None leaves one out.

    Attributes:
        generalisation: The same on episodes that were learned from.
        long: Open loop over hundreds of steps.
        distance: Frozen-feature Frechet distances.
        fidelity: Inverse dynamics.
        drift: Thousands of steps under each of ``policies``.
        endings: Termination.
        memory: Turning away and coming back; left out without the name of a heading.
        policies: Who drives, by name.
        sources: Recorded drives of the source under some of these, by the same names.
        left_out: Why other policies do not, by name.
    """

    generalisation: Generalisation | None = None
    long: Long | None = None
    distance: Distance | None = None
    fidelity: Fidelity | None = None
    drift: Drift | None = None
    endings: Endings | None = field(default_factory=Endings)
    memory: Memory | None = None
    policies: Mapping[str, Policy] = field(default_factory=dict)
    sources: Mapping[str, EpisodeStore] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def from_settings(settings: Mapping[str, Any], space: Space[Any], build: Callable[..., Any]) -> Suite:
        """Build a suite from ``configs/evaluate.yaml``'s keys.

        Args:
            settings: Plain containers by section; null leaves one out.
            space: The world's action space; a policy that refuses it is left out.
            build: Makes a policy from its settings and ``action_space``, and a store of recorded drives.
        """
        kinds: dict[str, Callable[..., Any]] = {
            "generalisation": Generalisation,
            "long": Long,
            "distance": Distance,
            "fidelity": Fidelity,
            "endings": Endings,
            "memory": Memory,
        }
        sections = {name: kind(**settings[name]) if settings.get(name) is not None else None for name, kind in kinds.items()}
        policies, left_out = dict[str, Policy](), dict[str, str]()
        drift = dict(settings.get("drift") or {})
        given_sources = drift.pop("source", None) or {}
        for name, given in (drift.pop("policies", None) or {}).items():
            if given is not None:
                try:
                    policies[name] = build(given, action_space=space)
                except ValueError as error:
                    left_out[name] = str(error)
        sources = {name: build({**_READER, "path": path}) for name, path in _told(given_sources, policies, left_out).items()}
        return Suite(**sections, drift=Drift(**drift) if drift else None, policies=policies, sources=sources, left_out=left_out)


def _told(paths: Mapping[str, str | None], policies: Mapping[str, Policy], left_out: Mapping[str, str]) -> dict[str, str]:
    """Return the recorded drives of the policies that are there.

    Raises:
        ValueError: One is given for a policy that is not.
    """
    given = {name: path for name, path in paths.items() if path is not None}
    for name in given:
        if name not in policies and name not in left_out:
            raise ValueError(f"drift.source.{name}={given[name]!r} is of a policy that does not drive: set drift.policies.{name}")
    return {name: path for name, path in given.items() if name in policies}


class Stopwatch:
    """Seconds by section."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, section: str) -> Iterator[None]:
        """Add what passes inside to a section."""
        began = time.perf_counter()
        yield
        self.seconds[section] = round(self.seconds.get(section, 0.0) + time.perf_counter() - began, 1)


@dataclass(frozen=True)
class Judges:
    """What was trained on real frames: a probe of state, an inverse-dynamics network, and the judge that uses one of them."""

    probe: Probe | None = None
    inverse: Inverse | None = None
    judge: Judge | None = None


def train_judges(
    store: EpisodeStore, protocol: Protocol, suite: Suite, *, names: Sequence[str], watch: Stopwatch, say: Callable[[str], None]
) -> Judges:
    """Train the judges that the sections need.

    Args:
        store: The dataset; its train split is used.
        protocol: Sizes and seed.
        suite: The sections.
        names: State that world and dataset share; without any there is no probe.
        watch: Times each training.
        say: Is told what is being done.
    """
    wanted = suite.distance is not None or suite.drift is not None
    spare = np.zeros((0, 0, 0, 0, 0), np.uint8)
    probe, inverse = None, None
    if names and protocol.pairs:
        with watch.of("probe"):
            own, others = _share_out(store, protocol.pairs, wanted, protocol.seed)
            data = draw_pairs(store, "train", protocol.pairs, seed=protocol.seed, among=own)
            say(f"training the probe on {len(data.frames):,} pairs of real frames")
            probe = train_probe(data, steps=protocol.probe_steps, seed=protocol.seed)
            if wanted:
                spare = draw_pairs(store, "train", max(2, protocol.pairs // 2), seed=protocol.seed, among=others).frames
    if suite.fidelity is not None:
        with watch.of("inverse dynamics"):
            alone = wanted and probe is None
            own, others = _share_out(store, suite.fidelity.clips, alone, protocol.seed)
            clips = draw_clips(store, "train", suite.fidelity.clips, seed=protocol.seed, among=own)
            say(f"training inverse dynamics on {len(clips.frames):,} real clips")
            inverse = train_inverse(clips, store.info.action_space, steps=suite.fidelity.steps, seed=protocol.seed)
            if alone:
                spare = draw_clips(store, "train", max(2, suite.fidelity.clips // 2), seed=protocol.seed, among=others).frames
    trained = probe or inverse
    if not wanted or trained is None:
        return Judges(probe, inverse)
    edge = (suite.drift or Drift()).edge
    told = store.info.state_names if probe is not None else ()
    return Judges(probe, inverse, Judge.of(trained.sight, spare, probe=probe, names=told, edge=edge))


def _share_out(store: EpisodeStore, count: int, judged: bool, seed: int) -> tuple[list[int] | None, list[int] | None]:
    """Return the training episodes to learn ``count`` clips from and those to judge by; None and None, for any, where nothing is judged."""
    return share_out(store.split("train"), count, seed=seed) if judged else (None, None)
