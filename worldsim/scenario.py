"""A scenario: where an episode starts, who drives, what disturbs the driver, how long, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from worldsim.config import ConfigError, load_user_yaml, suggest
from worldsim.episode import Conditioning


@dataclass(frozen=True)
class Scenario:
    """One line of a batch job; it expands to one episode a seed.

    Attributes:
        name: Unique in a job.
        policy: Config of the policy, with its ``_target_``.
        action_noise: Keywords of the action noise around the policy; empty for none.
        context: Index of the world's start context, or ``random``: drawn by the episode's seed.
        horizon: Most steps of an episode, at least 1.
        seeds: Seeds of its episodes; empty to take ``count`` seeds from the job's root seed on.
        count: Number of episodes where no seeds are given.
        conditioning: What the world is told in place of the context's own conditioning.
        weight: Share of episodes where a job divides a number of frames among scenarios.
    """

    name: str
    policy: Mapping[str, Any]
    action_noise: Mapping[str, Any] = field(default_factory=dict)
    context: int | str = "random"
    horizon: int = 128
    seeds: tuple[int, ...] = ()
    count: int = 1
    conditioning: Conditioning = field(default_factory=Conditioning)
    weight: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Describe the scenario in JSON types."""
        return {**asdict(self), "seeds": list(self.seeds), "conditioning": self.conditioning.to_json()}

    def episode_seeds(self, root_seed: int) -> tuple[int, ...]:
        """Return the seeds of its episodes."""
        return self.seeds or tuple(range(root_seed, root_seed + self.count))


def parse_scenario(name: str, data: Any, *, where: str, defaults: Mapping[str, Any] | None = None) -> Scenario:
    """Build a scenario from what a YAML file or an override says, strictly.

    Args:
        name: Its name.
        data: Mapping of ``Scenario``'s fields, ``name`` excepted.
        where: File or key that ``data`` comes from, for messages.
        defaults: Values of fields that ``data`` leaves out.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or out of range; names key and place.
    """
    place = f"{where}: scenario {name!r}"
    given = {**(defaults or {}), **_mapping(data, place)}
    allowed = [item.name for item in fields(Scenario) if item.name != "name"]
    _only(given, allowed, place)
    if "policy" not in given:
        raise ConfigError(f"{place} has no 'policy': say who drives, as 'policy: {{_target_: worldsim.policies.random.RandomPolicy}}'")
    values = {key: _FIELDS[key](value, f"{place}: {key}") for key, value in given.items()}
    return Scenario(name=name, **values)


def parse_scenarios(data: Any, *, where: str, defaults: Mapping[str, Any] | None = None) -> list[Scenario]:
    """Build scenarios from a mapping of names to scenarios.

    Raises:
        ConfigError: As ``parse_scenario``, or there are none.
    """
    return [parse_scenario(str(name), body, where=where, defaults=defaults) for name, body in _mapping(data, where).items()]


def load_scenarios(path: Path | str, *, defaults: Mapping[str, Any] | None = None) -> list[Scenario]:
    """Read scenarios from a YAML file: a mapping of names to scenarios.

    Raises:
        ConfigError: The file is no YAML, or as ``parse_scenario``; names the file.
    """
    return parse_scenarios(load_user_yaml(path), where=str(path), defaults=defaults)


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place} is {value!r}, not a mapping: write 'key: value' lines")
    return {str(key): item for key, item in value.items()}


def _only(given: Mapping[str, Any], allowed: Sequence[str], place: str) -> None:
    for key in given:
        if key not in allowed:
            raise ConfigError(f"{place}: key {key!r} is unknown: {suggest(key, allowed)}")


def _policy(value: Any, place: str) -> dict[str, Any]:
    policy = _mapping(value, place)
    if not isinstance(policy.get("_target_"), str):
        raise ConfigError(f"{place} has no '_target_': name the policy's class, as 'worldsim.policies.random.RandomPolicy'")
    return policy


def _noise(value: Any, place: str) -> dict[str, Any]:
    noise = _mapping(value, place)
    _only(noise, ("gaussian", "sticky", "epsilon"), place)
    return {key: _number(item, f"{place}.{key}", low=0.0) for key, item in noise.items()}


def _context(value: Any, place: str) -> int | str:
    if value == "random":
        return "random"
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{place}={value!r} must be 'random' or the index of a start context, 0 or more")
    return value


def _whole(low: int) -> Any:
    def parse(value: Any, place: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ConfigError(f"{place}={value!r} must be a whole number, {low} or more")
        return value

    return parse


def _number(value: Any, place: str, low: float | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or (low is not None and value < low):
        raise ConfigError(f"{place}={value!r} must be a number" + (f", {low:g} or more" if low is not None else ""))
    return float(value)


def _weight(value: Any, place: str) -> float:
    if not (weight := _number(value, place, low=0.0)):
        raise ConfigError(f"{place}={value!r} must be above 0: leave the scenario out instead")
    return weight


def _list(value: Any, place: str, example: str) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{place}={value!r} must be a list, as {example}")
    return list(value)


def _seeds(value: Any, place: str) -> tuple[int, ...]:
    return tuple(_whole(0)(seed, place) for seed in _list(value, place, "[0, 1, 2]"))


def _conditioning(value: Any, place: str) -> Conditioning:
    told = _mapping(value, place)
    _only(told, ("tags", "numbers", "text"), place)
    tags = _list(told.get("tags", []), f"{place}.tags", "[night, wet]")
    text = told.get("text", "")
    for what, item in [*(("tags", tag) for tag in tags), ("text", text)]:
        if not isinstance(item, str):
            raise ConfigError(f"{place}.{what}: {item!r} must be text: put it in quotes")
    numbers = {key: _number(item, f"{place}.numbers.{key}") for key, item in _mapping(told.get("numbers", {}), f"{place}.numbers").items()}
    return Conditioning(tuple(tags), numbers, text)


_FIELDS: dict[str, Any] = {
    "policy": _policy,
    "action_noise": _noise,
    "context": _context,
    "horizon": _whole(1),
    "seeds": _seeds,
    "count": _whole(1),
    "conditioning": _conditioning,
    "weight": _weight,
}
