"""WorldSpec: what a trained world is, as ``world.json`` beside its weights."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gymnasium import Space

from worldsim.conditioning import Vocabulary
from worldsim.spaces import space_from_json, space_to_json

FORMAT = "worldsim-world"
VERSION = "1.0"
FILE = "world.json"
OASIS = "oasis-500m"
"""Name of the world that ``worldsim.oasis`` runs; here, so that other worlds need not import it."""


@dataclass(frozen=True)
class Sampling:
    """How a world makes a frame.

    Attributes:
        steps: Denoising steps a frame: 1, 2, 4, ...
        context_level: Signal level at which made frames are remembered; below 1 noise hides their small mistakes.
        shortcut: Ask the network for steps of this size (shortcut model) rather than for the mean.
        guidance: How far beyond the estimate that knows the conditioning to go, away from the one that is told nothing (classifier-free
            guidance, Ho and Salimans 2022, equation 6, at ``w = guidance - 1``). 1 is the former itself, at no cost; any other value takes
            a second pass for each denoising step.
        temperature: Scale of the noise that frames are made of. A world trained with ``objective.nats`` chooses a future by it: at 1
            as often as was seen, at 0 always the one in the middle. Other one-step worlds hardly look at it.
    """

    steps: int = 2
    context_level: float = 0.9
    shortcut: bool = True
    guidance: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        if self.steps < 1 or not 0 < self.context_level <= 1:
            raise ValueError(
                f"sampling needs steps >= 1 and 0 < context_level <= 1, got steps={self.steps}, context_level={self.context_level}"
            )
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"sampling needs guidance of 0 or more, got guidance={self.guidance}: 1 samples what was told, 2 stresses it")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"sampling needs temperature of 0 or more, got temperature={self.temperature}: 1 is the noise of training, 0 is none"
            )

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; guidance and temperature only where they are used, so that releases without them read all other worlds."""
        data = dataclasses.asdict(self)
        return {key: value for key, value in data.items() if key not in ("guidance", "temperature") or value != 1}


@dataclass(frozen=True)
class WorldSpec:
    """Everything about a world but its weights.

    Attributes:
        name: As in ``from_pretrained``.
        frame_size: Height and width in pixels.
        fps: Frames a second of simulated time.
        action_space: The Gymnasium space of actions.
        vocabulary: The conditioning it knows.
        state_names: Labelled state that its head reads, S names.
        state_mean: Mean of each, ``(S,)``.
        state_std: Standard deviation of each.
        reward_range: Smallest and largest reward in the training data.
        end_threshold: End probability of a step above which environments terminate the episode. A world may know well that an episode ends
            soon and never be half sure of a step; ``worldsim train heads`` finds the best one.
        window: Past frames that temporal attention sees.
        context_frames: Frames a rollout starts from.
        sampling: Default sampler.
        keys: Keyboard keys to actions for playing, ``{"w": [0, 1, 0]}``; keys held together are added and clipped.
        source: The simulator it was learned from: ``{"id": ..., "kwargs": {...}}``.
        dataset: Name, fingerprint, episodes and frames of the training data.
        recipe: Settings it was trained with.
        quality: Measured figures.
        licence: SPDX identifier.
    """

    name: str
    frame_size: tuple[int, int]
    fps: float
    action_space: Space[Any]
    vocabulary: Vocabulary
    state_names: tuple[str, ...] = ()
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()
    reward_range: tuple[float, float] = (-float("inf"), float("inf"))
    end_threshold: float = 0.5
    window: int = 8
    context_frames: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    keys: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        """Refuse a threshold that is none."""
        if not 0 < self.end_threshold < 1:
            raise ValueError(f"end_threshold={self.end_threshold} must be a probability between 0 and 1: 0.5 is usual")

    def to_json(self) -> dict[str, Any]:
        """Return JSON types, the threshold of ends only where it is its own; ``from_json`` undoes it."""
        data: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["action_space"] = space_to_json(self.action_space)
        data["vocabulary"] = self.vocabulary.to_json()
        data["sampling"] = self.sampling.to_json()
        if self.end_threshold == 0.5:
            del data["end_threshold"]
        data = json.loads(json.dumps(data))
        return {"format": FORMAT, "version": VERSION, **data}

    @staticmethod
    def from_json(data: Mapping[str, Any], *, where: str = FILE) -> WorldSpec:
        """Build a spec.

        Raises:
            ValueError: It is no world, of another format version, or a field is missing or unknown.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"{where} is no worldsim world: its format is {data.get('format')!r}, not {FORMAT!r}")
        version = str(data.get("version"))
        if version.split(".")[0] != VERSION.split(".")[0]:
            raise ValueError(
                f"{where} has format version {version}, this release reads {VERSION.split('.')[0]}.x: update worldsim or retrain"
            )
        names = {f.name for f in dataclasses.fields(WorldSpec)}
        fields = {key: value for key, value in data.items() if key in names}
        try:
            fields["action_space"] = space_from_json(fields["action_space"])
            fields["vocabulary"] = Vocabulary.from_json(fields["vocabulary"])
            fields["sampling"] = Sampling(**fields["sampling"])
            for name in ("frame_size", "state_names", "state_mean", "state_std", "reward_range"):
                fields[name] = tuple(fields[name])
            return WorldSpec(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} is incomplete or damaged ({error}): restore it from a copy of the checkpoint") from error

    def save(self, folder: Path) -> None:
        """Write ``world.json`` into ``folder``."""
        (folder / FILE).write_text(json.dumps(self.to_json(), indent=2) + "\n")

    @staticmethod
    def load(folder: Path) -> WorldSpec:
        """Read ``world.json`` from ``folder``.

        Raises:
            ValueError: It is missing or no valid spec.
        """
        file = folder / FILE
        if not file.is_file():
            raise ValueError(f"{folder} is no world: it has no {FILE}; train one with 'worldsim train dynamics' or use a shipped name")
        try:
            data = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is no valid JSON ({error}): restore it from a copy of the checkpoint") from error
        return WorldSpec.from_json(data, where=str(file))
