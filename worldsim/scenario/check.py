"""The last check of a scenario: some of its episodes, and the ends of its distributions, with every value in its place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from worldsim.scenario.distributions import make_draw
from worldsim.scenario.expand import expand_scenario
from worldsim.scenario.expressions import ExpressionError, parse_expression
from worldsim.scenario.problems import Place, Problems, ScenarioError
from worldsim.scenario.scenario import Scenario, check_body
from worldsim.scenario.template import Template, canonical
from worldsim.scenario.variants import variant_values

MOST_VARIANTS = 32
_LOW, _MIDDLE, _HIGH = 1e-6, 0.5, 1 - 1e-6


def check_episodes(scenario: Scenario, log: Problems, root: tuple[str, ...] = ()) -> None:
    """Note in ``log`` where a value, once it stands for its ``$name``, is wrong; the first such set of values is told."""
    if not scenario.variants and not scenario.randomize and not scenario.before:
        return
    template = Template({**scenario.body})
    place = Place(log, scenario.name, root=root)
    try:
        for values in _samples(scenario):
            if not _try(template, values, place):
                return
        list(itertools.islice(expand_scenario(scenario, variants=MOST_VARIANTS), 64))
    except ScenarioError as error:
        log.found += [f"{log.source}: {line}" for line in error.problems]
    except ExpressionError as error:
        place.at("require", "before").fail(f": {error}")


def _try(template: Template, values: Mapping[str, Any], place: Place) -> bool:
    own = Problems(place.log.source, place.log.lines)
    check_body(template.fill(values), Place(own, place.scenario, root=place.root))
    used = {name: value for name, value in values.items() if name != "seed"}
    place.log.found += [f"{line} (with {canonical(used)[:200]})" for line in own.found]
    return not own.found


def _samples(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """Yield values of the first variants, with all drawn values low, in the middle and high."""
    before = [parse_expression(line) for line in scenario.before]
    for values in variant_values(scenario.variants, MOST_VARIANTS):
        for point in _points(scenario):
            known = dict(values)
            for name, distribution in scenario.randomize.items():
                known[name] = make_draw(Template(distribution).fill(known))(point.get(name, _MIDDLE))
            if all(line.holds(known) for line in before):
                yield {**known, "seed": 0}


def _points(scenario: Scenario) -> Iterator[dict[str, float]]:
    """Yield where to look at the distributions: all low, in the middle and high, and every value of short lists by itself."""
    names = list(scenario.randomize)
    yield {}
    if names:
        yield from (dict.fromkeys(names, u) for u in (_LOW, _HIGH))
    for name, distribution in scenario.randomize.items():
        ((kind, given),) = distribution.items()
        count = len(given) if kind in ("choice", "weighted") and not isinstance(given, str) else 0
        if count <= MOST_VARIANTS:
            yield from ({name: (i + 0.5) / count} for i in range(count))
