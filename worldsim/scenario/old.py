"""Earlier spellings: ``context``, ``action_noise`` and ``count`` are read as ``initial``, ``perturb`` and ``seeds``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.scenario.checks import as_mapping, number, whole
from worldsim.scenario.problems import Place

_NOISE = ("gaussian", "sticky", "epsilon")


def modern(given: Mapping[str, Any], place: Place, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scenario in today's spelling, with ``defaults`` for what it leaves out.

    ``policy: {_target_: ...}`` becomes the one of ``policies``, named by its class.
    """
    told = dict(given)
    told.pop("name", None)
    for old, new in (("context", "initial"), ("action_noise", "perturb")):
        if old in told and new in told:
            place.at(old).fail(f" and {new!r} say the same: keep {new!r}")
    if "context" in told:
        told["initial"] = _context(told.pop("context"), place.at("context"))
    if "action_noise" in told:
        told["perturb"] = _noise(told.pop("action_noise"), place.at("action_noise"))
    count = told.pop("count", None)
    if count is not None:
        count = whole(1)(count, place.at("count"))
    if told.get("seeds", ()) in ([], ()):
        told.pop("seeds", None)
        told["seeds"] = count or defaults.get("seeds") or defaults.get("count") or 1
    if "horizon" not in told and "horizon" in defaults:
        told["horizon"] = defaults["horizon"]
    return _single_policy(told, place)


def _context(value: Any, place: Place) -> Any:
    if value != "random" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        place.fail(f"={value!r} must be 'random' or the index of a start context, 0 or more")
        return "random"
    return value


def _noise(value: Any, place: Place) -> list[dict[str, Any]]:
    noise = as_mapping(value, place) or {}
    place.only(noise, _NOISE)
    amounts = {key: number(0)(noise[key], place.at(key)) for key in noise if key in _NOISE}
    jitter = {key: amounts[key] for key in ("gaussian", "epsilon") if amounts.get(key)}
    parts: list[dict[str, Any]] = [{"kind": "noise", **jitter}] if jitter else []
    return [*parts, {"kind": "sticky", "p": amounts["sticky"]}] if amounts.get("sticky") else parts


def _single_policy(told: dict[str, Any], place: Place) -> dict[str, Any]:
    policy = told.get("policy")
    if "policies" not in told and (isinstance(policy, Mapping) or policy is None) and "policy" in told:
        config = as_mapping(policy, place.at("policy"))
        if config is None:
            return {**told, "policies": {"policy": {"_target_": "worldsim.policies.random.RandomPolicy"}}, "policy": "policy"}
        target = config.get("_target_")
        name = target.rpartition(".")[2] if isinstance(target, str) else ""
        name = name if name.isidentifier() else "policy"
        return {**told, "policies": {name: config}, "policy": name}
    return told
