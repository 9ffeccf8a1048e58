"""Whether scenarios fit a world: its frame rate, and the names that it tells and is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.scenario.expressions import EPISODE_FUNCTIONS, EPISODE_SIGNALS, STEP_SIGNALS, ExpressionError, parse_expression
from worldsim.scenario.problems import REFERENCE, ScenarioError
from worldsim.scenario.scenario import Scenario
from worldsim.scenario.template import EXPRESSIONS
from worldsim.targets import suggest


def check_world(
    scenarios: Iterable[Scenario],
    *,
    fps: float,
    state_names: Sequence[str],
    tags: Iterable[str] | None = None,
    numbers: Iterable[str] | None = None,
    world: str = "the world",
) -> None:
    """Refuse scenarios that do not fit a world: another frame rate, or names that it has no labelled state for.

    Args:
        scenarios: The scenarios.
        fps: The world's frames a second.
        state_names: Its labelled state.
        tags: Tags that it knows; None leaves that to the world.
        numbers: Names of numbers that it knows; likewise.
        world: What it is called in messages.

    Raises:
        ScenarioError: Names scenario, key and what the world has.
    """
    problems = []
    for scenario in scenarios:
        told = scenario.body["fps"]
        if isinstance(told, int | float) and told != fps:
            problems.append(
                f"scenario {scenario.name!r}: fps={told:g}, but {world} runs at {fps:g}: leave 'fps' out, or take another world"
            )
        for what, asked, known in (
            ("tag", scenario.body["conditioning"].get("tags"), tags),
            ("number", scenario.body["conditioning"].get("numbers"), numbers),
        ):
            for name in asked or () if known is not None else ():
                if "$" not in name and name not in (allowed := list(known or ())):
                    problems.append(f"scenario {scenario.name!r}: {world} knows no {what} {name!r}: {suggest(name, allowed)}")
        for key, line in _expressions(scenario.body):
            known = (*(STEP_SIGNALS if key == "predicate" else EPISODE_SIGNALS), *state_names)
            try:
                parse_expression(REFERENCE.sub("1", line), functions=EPISODE_FUNCTIONS).check_names(known)
            except ExpressionError as error:
                problems.append(f"scenario {scenario.name!r}: {error}")
    if problems:
        raise ScenarioError(problems)


def world_of(scenarios: Iterable[Scenario], chosen: str | None, *, default: str) -> str:
    """Return the world to run scenarios in: the one chosen, or else theirs, ``default`` for those that name none.

    Raises:
        ScenarioError: None is chosen, and they were written for several, or for one that is not on this machine: a file that somebody
            sent has nothing fetched.
    """
    if chosen:
        return chosen
    wanted: dict[str, str] = {}  # world: the first that was written for it
    for scenario in scenarios:
        wanted.setdefault(scenario.world or default, scenario.name)
    if len(wanted) > 1:
        (first, one), (second, other) = list(wanted.items())[:2]
        problem = f"scenario {one!r} is for world {first}, {other!r} for {second}: run them apart, or choose one for all, as world={first}"
        raise ScenarioError([problem])
    world, name = next(iter(wanted.items()), (default, ""))
    if "/" in world and not Path(world).exists():
        raise ScenarioError(
            [f"scenario {name!r}: world={world} is not on this machine: choose it yourself to have it fetched, as world={world}"]
        )
    return world


def _expressions(node: Any) -> Iterable[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in EXPRESSIONS and isinstance(value, str):
                yield key, value
            elif key != "policies":
                yield from _expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _expressions(value)
