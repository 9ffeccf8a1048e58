"""From scenarios to a plain list of concrete episodes: the same file gives the same list on every machine.

Every number comes from a text by SHA-256 (``distributions.uniform``): a seed from (root seed, scenario, values of the variant,
repetition), a drawn value from (scenario, values of the variant, seed, name, try). So a scenario, a variant, a repetition or a
name that is added or taken away leaves the others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worldsim.scenario.distributions import Draw, from_digest, make_draw
from worldsim.scenario.expressions import Expression, ExpressionError, parse_expression
from worldsim.scenario.problems import ScenarioError
from worldsim.scenario.scenario import Scenario, check_size
from worldsim.scenario.template import Template, canonical
from worldsim.scenario.variants import names_of, variant_values


@dataclass(frozen=True, slots=True)
class ConcreteEpisode:
    """One episode with every value fixed.

    Attributes:
        id: Its place in the list, from 0.
        scenario: Name of its scenario.
        variant: Index of its variant.
        values: Values of the variant.
        draws: Drawn values; ``initial`` is the index of its start where the scenario lists several.
        seed: Seed of the environment, of policies and of disturbances.
        tries: Draws that ``require.before`` rejected before these.
        branch: Its branch of the fork; None without a fork. Siblings have equal values and seeds, and consecutive ids.
        parent: Id of the first of its siblings; None for that one and without a fork.
        sha256: Hash of the canonical JSON of ``resolved()``: of the content, wherever in a list it stands.
    """

    id: int
    scenario: str
    variant: int
    values: Mapping[str, Any]
    draws: Mapping[str, Any]
    seed: int
    tries: int
    branch: int | None
    parent: int | None
    sha256: str
    _template: Template = field(repr=False, compare=False)

    def resolved(self) -> dict[str, Any]:
        """Return all of it in JSON types, with every ``$name`` replaced."""
        found: dict[str, Any] = self._template.fill({**self.values, **self.draws, "seed": self.seed})
        return found

    def params(self) -> dict[str, Any]:
        """Return what, beside its scenario and seed, makes it this episode; empty parts are left out."""
        told: dict[str, Any] = {"values": dict(self.values), "draws": dict(self.draws), "tries": self.tries}
        told = {key: value for key, value in told.items() if value}
        if self.values:
            told["variant"] = self.variant
        told |= {key: value for key, value in (("branch", self.branch), ("parent", self.parent)) if value is not None}
        return {**told, "sha256": self.sha256}


def expand(scenarios: Sequence[Scenario], root_seed: int = 0) -> Iterator[ConcreteEpisode]:
    """Yield the episodes of scenarios in order: variant by variant, seed by seed, sibling by sibling.

    Args:
        scenarios: With different names.
        root_seed: Where scenarios that list no seeds take theirs from.

    Raises:
        ScenarioError: There are too many episodes, or no draw meets a scenario's constraints.
    """
    check_size(scenarios)
    following = 0
    for scenario in scenarios:
        for episode in expand_scenario(scenario, root_seed=root_seed, first=following):
            yield episode
            following = episode.id + 1


def expand_scenario(scenario: Scenario, *, root_seed: int = 0, first: int = 0, variants: int | None = None) -> Iterator[ConcreteEpisode]:
    """Yield the episodes of one scenario, with ids from ``first``; ``variants`` takes that many variants alone.

    Raises:
        ScenarioError: No draw meets its constraints.
    """
    drawing = _Drawing(scenario)
    starts = scenario.starts()
    texts = [[Template(content(scenario, start, branch)) for branch in _branches(scenario)] for start in range(len(starts))]
    seen: dict[str, int] = {}
    following = first
    for index, values in enumerate(variant_values(scenario.variants, variants)):
        values, key = drawing.variant(values, seen)
        for seed in _seeds(scenario, key, root_seed):
            draws, start, tries = drawing.draw(key, seed, values)
            known = {**values, **draws, "seed": seed}
            parent = following
            for branch, template in enumerate(texts[start]):
                text = template.text(known)
                sha256 = hashlib.sha256(text.encode()).hexdigest()
                own = branch if len(texts[start]) > 1 else None
                above = parent if branch else None
                yield ConcreteEpisode(following, scenario.name, index, values, draws, seed, tries, own, above, sha256, template)
                following += 1


def plan_hash(episodes: Iterable[ConcreteEpisode]) -> str:
    """Return one hash of a list of episodes and their order."""
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(bytes.fromhex(episode.sha256))
    return digest.hexdigest()


def content(scenario: Scenario, start: int, branch: int | None) -> dict[str, Any]:
    """Return what an episode of ``scenario`` is made of, with ``$name``s for its values."""
    body = {**scenario.body, "initial": scenario.starts()[start], "events": branch_events(scenario.body["events"], branch)}
    named: dict[str, Any] = {name: f"${name}" for name in (*names_of(scenario.variants), *scenario.randomize)}
    if len(scenario.starts()) > 1:
        named["initial"] = start
    return {
        "scenario": scenario.name.replace("$", "$$"),
        "seed": "$seed",
        "values": named,
        **({"branch": branch} if branch is not None else {}),
        **body,
    }


def branch_events(events: Sequence[Any], branch: int | None) -> list[Any]:
    """Return events with every fork replaced by the effects of one branch."""
    if branch is None:
        return list(events)
    out = []
    for event in events:
        effects = event["do"] if isinstance(event["do"], list) else [event["do"]]
        done: list[Any] = []
        for effect in effects:
            chosen = effect["fork"][branch] if "fork" in effect else effect
            done += chosen if isinstance(chosen, list) else [chosen]
        out.append({**event, "do": done})
    return out


def fork_event(events: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the index of the event that forks; None where none does."""
    for index, event in enumerate(events):
        effects = event["do"] if isinstance(event["do"], list) else [event["do"]]
        if any("fork" in effect for effect in effects):
            return index
    return None


def _branches(scenario: Scenario) -> list[int | None]:
    count = scenario.branches()
    return [None] if count == 1 else list(range(count))


def _seeds(scenario: Scenario, key: str, root_seed: int) -> Iterable[int]:
    if not isinstance(scenario.seeds, int):
        return scenario.seeds
    prefix = f"seed\0{root_seed}\0{key}\0"
    return (
        int.from_bytes(hashlib.sha256(f"{prefix}{repetition}".encode()).digest()[:8], "big") >> 12 for repetition in range(scenario.seeds)
    )


class _Drawing:
    """Draws the values of one scenario's episodes."""

    def __init__(self, scenario: Scenario) -> None:
        self.name, self.most = scenario.name, scenario.max_tries
        self.starts = len(scenario.starts())
        self.before = [parse_expression(line) for line in scenario.before]
        self.draws: list[tuple[str, bytes, Draw | None, Template]] = []
        for name, distribution in scenario.randomize.items():
            template = Template(distribution)
            fixed = None if template.names else make_draw(template.fill({}))
            self.draws.append((name, f"{name}\0".encode(), fixed, template))

    def variant(self, values: dict[str, Any], seen: dict[str, int]) -> tuple[dict[str, Any], str]:
        """Return a variant's values, and the text that its numbers are made from; equal variants are told apart by their count."""
        text = canonical(values)
        count = seen.get(text, 0)
        seen[text] = count + 1
        return values, f"{self.name}\0{text}\0{count}"

    def draw(self, key: str, seed: int, values: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
        """Return drawn values, the index of the start, and the number of rejected draws."""
        if not self.draws and self.starts == 1:
            return {}, 0, self._tries_without_draws(values)
        base = hashlib.sha256(f"draw\0{key}\0{seed}\0".encode())
        for tries in range(self.most):
            draws = self._once(base, tries, values)
            if not self.before or all(self._holds(line, {**values, **draws}) for line in self.before):
                break
        else:
            raise self._nothing(values)
        start = 0
        if self.starts > 1:
            base.update(b"\0initial")
            start = int(from_digest(base) * self.starts)
            draws["initial"] = start
        return draws, start, tries

    def _once(self, base: Any, tries: int, values: Mapping[str, Any]) -> dict[str, Any]:
        draws: dict[str, Any] = {}
        number = str(tries).encode()
        for name, prefix, draw, template in self.draws:
            digest = base.copy()
            digest.update(prefix + number)
            made = draw or make_draw(template.fill({**values, **draws}))
            draws[name] = made(from_digest(digest))
        return draws

    def _tries_without_draws(self, values: Mapping[str, Any]) -> int:
        if not all(self._holds(line, values) for line in self.before):
            raise self._nothing(values)
        return 0

    def _holds(self, line: Expression, values: Mapping[str, Any]) -> bool:
        try:
            return line.holds(values)
        except ExpressionError as error:
            raise ScenarioError([f"scenario {self.name!r}: require.before: {error}"]) from error

    def _nothing(self, values: Mapping[str, Any]) -> ScenarioError:
        which = f" with {canonical(values)}" if values else ""
        lines = " and ".join(repr(line.text) for line in self.before)
        tried = f"none of {self.most} draws" if self.draws else "nothing drawn, and the values do not"
        verb = "meets" if self.draws else "meet"
        return ScenarioError(
            [f"scenario {self.name!r}{which}: {tried} {verb} require.before {lines}: widen 'randomize', or raise 'max_tries'"]
        )
