"""The policies that a scenario names: allowed classes, known keywords; none is built here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.scenario.checks import as_mapping
from worldsim.scenario.problems import Place, shorten
from worldsim.targets import ConfigError, keyword_kinds, keyword_names, locate, suggest

_KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
_EXAMPLE = "'policy: {_target_: worldsim.policies.random.RandomPolicy}'"


def check_policies(policies: Any, first: Any, place: Place) -> tuple[dict[str, Any], str]:
    """Check ``policies`` and the name of the one that drives at first; return both."""
    at = place.at("policies")
    given = as_mapping(policies, at)
    if given is None:
        return {}, ""
    if not given:
        place.fail(f"there is no 'policy': say who drives, as {_EXAMPLE}")
        return {}, ""
    alone = len(given) == 1 and isinstance(first, str) and first in given
    for name, config in given.items():
        _check_policy(config, place.at("policy") if alone else at.at(name), most_keys=100)
    if first == "" and len(given) == 1:
        first = next(iter(given))
    if not place.at("policy").refers(first) and (not isinstance(first, str) or first not in given):
        place.at("policy").fail(f"={shorten(first)} is none of the policies: {suggest(str(first)[:80], given)}")
    return given, str(first)


def _check_policy(config: Any, place: Place, most_keys: int) -> None:
    given = as_mapping(config, place)
    if given is None:
        return
    target = given.get("_target_")
    if not isinstance(target, str):
        found = f"_target_={shorten(target)} is no text" if "_target_" in given else f"its keys are {shorten(list(given))}"
        place.fail(f" has no '_target_' ({found}): name the policy's class, as 'worldsim.policies.random.RandomPolicy'")
        return
    _references(given, place)
    try:
        call = locate(target, f"{place.key}._target_")
        for path, inner in _inner_targets(given, place.key):
            locate(inner, path)
    except ConfigError as error:
        place.log.add((*place.root, *place.path, "_target_"), f"scenario {place.scenario!r}: ", str(error))
        return
    except Exception as error:
        place.fail(f"._target_: {target!r} cannot be imported: {type(error).__name__}: {error}")
        return
    known = keyword_names(call)
    if known is None:
        return
    if "action_space" not in known:
        place.fail(f"._target_: {target!r} is no policy: it takes no action_space; name a class of worldsim.policies or your own")
        return
    for name in given:
        if name != "_target_" and (name not in known or name.startswith("_")):
            place.at(name).fail(
                f": {target.rpartition('.')[2]} has no setting {shorten(name)}: {suggest(name[:80], known.keys() - {'action_space'})}"
            )
    for name, kind in keyword_kinds(call).items():
        if name in given and not place.at(name).refers(given[name]) and not _is(given[name], kind):
            place.at(name).fail(f"={shorten(given[name])} must be {_KINDS[kind]}")
    for name, needed in known.items():
        if needed and name not in given and name != "action_space":
            place.fail(f" needs {name!r}: give a value")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _inner_targets(node: Any, where: str) -> list[tuple[str, Any]]:
    from worldsim.targets import targets

    return [(path, target) for path, target in targets(node, where) if path != f"{where}._target_"]


def _references(node: Any, place: Place) -> None:
    if isinstance(node, Mapping):
        for name, value in node.items():
            _references(value, place.at(str(name)))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            _references(value, place.at(str(i)))
    elif isinstance(node, str):
        if any(mark in node for mark in "\x01\x02"):
            place.fail(f"={shorten(node)} has control characters: remove them")
        place.names(node)
