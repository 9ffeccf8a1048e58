"""A scenario: everything its author says, checked, with its ``$name``s still open."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worldsim.scenario.checks import as_mapping, identifier, many, number, optional, record, text, whole
from worldsim.scenario.distributions import check_distribution
from worldsim.scenario.events import Fork, event
from worldsim.scenario.expressions import ExpressionError, parse_expression
from worldsim.scenario.old import modern
from worldsim.scenario.parts import STREAMS, Expect, Filter, Told, perturb, shorthand, start
from worldsim.scenario.policies import check_policies
from worldsim.scenario.problems import Place, Problems, ScenarioError, shorten
from worldsim.scenario.variants import check_variants, count_variants, names_of
from worldsim.targets import suggest

MOST_EPISODES = 10_000_000
RESERVED = ("seed", "initial", "branch", "scenario")
"""Names that no value may have: ``$seed`` is the episode's seed."""
_SCENARIO_NAME = re.compile(r"\w[\w -]{0,99}")

BODY: Mapping[str, Any] = {
    "initial": "random",
    "conditioning": {},
    "policies": {},
    "policy": "",
    "perturb": [],
    "events": [],
    "horizon": 128,
    "fps": None,
    "record": ["frames", "state"],
    "after": [],
    "expect": [],
}
"""Keys of a scenario's body and what they are where nothing is said; ``after`` holds the filters of ``require``."""
KEYS = ("description", "world", *(name for name in BODY if name != "after"), "randomize", "variants", "seeds", "require", "weight")


@dataclass(frozen=True)
class Scenario:
    """What an author says of a kind of episode; ``worldsim.scenario.expand`` makes episodes of it.

    Attributes:
        name: Unique in a job.
        body: What an episode needs to run, with the keys of ``BODY`` and JSON types; values may be ``$name``s.
        randomize: Distribution of every drawn name, in JSON types.
        variants: ``{grid|zip|list|sobol: ...}``; None for a single variant.
        seeds: Seeds of its episodes, for every variant; or how many are drawn for each.
        before: Constraints on drawn and variant values.
        max_tries: Most draws of an episode until the constraints hold.
        weight: Share of episodes where a job divides a number of frames among scenarios.
        description: One line for people.
        world: Name or folder of the world that it was written for; a Hub repository is only fetched for who chooses it. Empty for any.
    """

    name: str
    body: Mapping[str, Any]
    randomize: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Any] | None = None
    seeds: int | tuple[int, ...] = 1
    before: tuple[str, ...] = ()
    max_tries: int = 100
    weight: float = 1.0
    description: str = ""
    world: str = ""

    def to_json(self) -> dict[str, Any]:
        """Describe all of it, as an author writes it, in JSON types; ``parse_scenario`` reads it back."""
        body = {key: value for key, value in self.body.items() if key != "after" and value != BODY[key]}
        require = {
            **({"before": list(self.before), "max_tries": self.max_tries} if self.before else {}),
            **({"after": self.body["after"]} if self.body["after"] else {}),
        }
        about = {
            "description": self.description,
            "world": self.world,
            "randomize": dict(self.randomize),
            "variants": self.variants,
            "seeds": self.seeds if isinstance(self.seeds, int) else list(self.seeds),
            "require": require,
        }
        told = {key: value for key, value in about.items() if value}
        return {**told, **body, "horizon": self.body["horizon"], **({"weight": self.weight} if self.weight != 1 else {})}

    def branches(self) -> int:
        """Number of siblings that each of its episodes forks into; 1 without a fork."""
        return max((len(effect["fork"]) for effect in _forks(self.body["events"])), default=1)

    def starts(self) -> list[Any]:
        """Return the starts of which each episode takes one."""
        initial = self.body["initial"]
        return list(initial) if isinstance(initial, list) else [initial]

    def size(self) -> int:
        """Number of episodes that it expands to."""
        seeds = self.seeds if isinstance(self.seeds, int) else len(self.seeds)
        return count_variants(self.variants) * seeds * self.branches()


def _forks(events: Sequence[Any]) -> list[Mapping[str, Any]]:
    effects = itertools.chain.from_iterable(e["do"] if isinstance(e["do"], list) else [e["do"]] for e in events)
    return [effect for effect in effects if "fork" in effect]


# ---------------------------------------------------------------- reading


def read_scenario(
    name: str, data: Any, log: Problems, *, root: tuple[str, ...] = (), defaults: Mapping[str, Any] | None = None
) -> Scenario | None:
    """Check what a file says of one scenario; mistakes go to ``log``, and None comes back where there are any.

    Args:
        name: Its name.
        data: Keys of the language in JSON types.
        log: Where mistakes go.
        root: Path of the scenario in its file.
        defaults: Values of ``horizon`` and ``seeds`` (or ``count``) for a scenario that does not say.
    """
    found = len(log.found)
    place = Place(log, name, root=root)
    if not _SCENARIO_NAME.fullmatch(name):
        place.fail("the name of a scenario has letters, digits, _, - and spaces, at most 100")
    given = as_mapping(data, place)
    if given is None:
        return None
    given = modern(given, place, defaults or {})
    place.only(given, KEYS)
    made = _parts(name, given, place)
    return made if len(log.found) == found else None


def _parts(name: str, given: Mapping[str, Any], place: Place) -> Scenario:
    told = {key: text(500)(given[key], place.at(key)) for key in ("description", "world") if key in given}
    variants = check_variants(given["variants"], place.at("variants"), RESERVED) if given.get("variants") is not None else None
    randomize = _read_randomize(given, place, names_of(variants))
    scope = frozenset([*names_of(variants), *randomize, "seed"])
    require = _read_require(given.get("require") or {}, place.at("require"), scope - {"seed"})
    body = {key: given.get(key, default) for key, default in BODY.items()}
    body["after"] = require["after"]
    body["expect"] = [{"that": item} if isinstance(item, str) else item for item in _as_list(given.get("expect", []))]
    body = _plain(body)
    check_body(body, Place(place.log, name, scope=scope, root=place.root))
    return Scenario(
        name=name,
        body=body,
        randomize=randomize,
        variants=variants,
        seeds=_read_seeds(given.get("seeds", 1), place.at("seeds")),
        before=require["before"],
        max_tries=require["max_tries"],
        weight=number(above=0)(given.get("weight", 1.0), place.at("weight")),
        **told,
    )


def check_body(body: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Check the body of a scenario or of one episode; return typed parts by the keys of ``BODY``."""
    policies, first = check_policies(body["policies"], body["policy"], place)
    events = many(event(policies, fork=True), "[{when: {step: 50}, do: {stop: enough}}]", most=1000)(body["events"], place.at("events"))
    if sum(isinstance(effect, Fork) for made in events if made is not None for effect in made.do) > 1:
        place.at("events").fail(" fork more than once: a scenario forks once, with as many branches as it needs")
    starts = many(start, "[0, 3, random]", least=1, most=100_000, wrap=True)(body["initial"], place.at("initial"))
    record_ = body["record"]
    streams = many(_stream, "[frames, state]")(record_, place.at("record"))
    if streams and "frames" not in streams:
        place.at("record").fail(f"={shorten(record_)} must have 'frames'")
    return {
        "initial": starts,
        "conditioning": record(Told)(body["conditioning"], place.at("conditioning")),
        "policies": policies,
        "policy": first,
        "perturb": many(perturb, "[{kind: sticky, p: 0.25}]", most=100)(body["perturb"], place.at("perturb")),
        "events": events,
        "horizon": whole(1)(body["horizon"], place.at("horizon")),
        "fps": optional(number(above=0, high=10_000))(body["fps"], place.at("fps")),
        "record": streams,
        "after": many(shorthand(Filter), "[{that: 'length >= 20'}]", most=100)(body["after"], place.at("require", "after")),
        "expect": many(shorthand(Expect, with_name=True), "[{name: slow, that: 'max(speed) < 80'}]", most=100)(
            body["expect"], place.at("expect")
        ),
    }


def _stream(value: Any, place: Place) -> Any:
    if value not in STREAMS:
        place.fail(f"={shorten(value)} is no stream: {suggest(str(value)[:80], STREAMS)}")
    return value


def _read_randomize(given: Mapping[str, Any], place: Place, before: Sequence[str]) -> dict[str, Any]:
    at = place.at("randomize")
    drawn = as_mapping(given.get("randomize") or {}, at) or {}
    known = list(before)
    for name, distribution in drawn.items():
        identifier(name, at, RESERVED)
        if name in known:
            at.at(name).fail(f": {name!r} has a value from 'variants' already: rename one of them")
        check_distribution(distribution, Place(at.log, at.scenario, (*at.path, name), frozenset(known), at.root))
        known.append(name)
    found: dict[str, Any] = _plain(drawn)
    return found


def _read_require(given: Any, place: Place, scope: frozenset[str]) -> dict[str, Any]:
    told = as_mapping(given, place) or {}
    place.only(told, ("before", "after", "max_tries"))
    before = many(lambda value, at: value, "['speed * curve < 30']", most=100, wrap=True)(told.get("before", []), place.at("before"))
    for i, line in enumerate(before):
        at = place.at("before", str(i))
        if not isinstance(line, str):
            at.fail(f"={shorten(line)} must be an expression in quotes, as 'speed * curve < 30'")
            continue
        try:
            parse_expression(line.replace("$", "")).check_names(scope)
        except ExpressionError as error:
            at.fail(f": {error}")
    after = told.get("after", [])
    return {
        "before": tuple(str(line).replace("$", "") for line in before),
        "after": [{"that": item} if isinstance(item, str) else item for item in _as_list(after)],
        "max_tries": whole(1, 100_000)(told.get("max_tries", 100), place.at("max_tries")),
    }


def _read_seeds(value: Any, place: Place) -> Any:
    if isinstance(value, list | tuple):
        seeds = many(whole(0, 2**63 - 1), "[0, 1, 2]", least=1)(value, place)
        if len(set(seeds)) < len(seeds):
            place.fail(" names a seed twice: its episodes would be equal")
        return seeds
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        place.fail(f"={shorten(value)} must be a list, as [0, 1, 2], or a whole number, 1 or more: how many to draw")
        return 1
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def check_size(scenarios: Sequence[Scenario]) -> int:
    """Return the number of episodes of scenarios, or refuse more than ten million.

    Raises:
        ScenarioError: There are more.
    """
    sizes = {scenario.name: scenario.size() for scenario in scenarios}
    if (total := sum(sizes.values())) > MOST_EPISODES:
        biggest = max(sizes, key=lambda name: sizes[name])
        raise ScenarioError(
            [
                f"{len(sizes)} scenarios expand to {total} episodes, {sizes[biggest]} of them from {biggest!r}: "
                f"at most {MOST_EPISODES} are allowed; take fewer variants or seeds"
            ]
        )
    return total
