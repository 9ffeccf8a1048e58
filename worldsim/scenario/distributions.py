"""Distributions of drawn values, as inverse functions of their distribution: one uniform number in, one value out.

Uniform numbers come from SHA-256 in counter mode: each is a function of a text alone (scenario, variant, seed, name, try), so it
depends on no other draw, and on no release of any library. Values that go through a logarithm are rounded to seven significant
digits, since mathematical libraries differ in the last bit.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, TypeAlias

from worldsim.scenario.checks import as_mapping, is_number, many, number, single_key
from worldsim.scenario.problems import WHOLE_REFERENCE, Place, shorten

Draw: TypeAlias = Callable[[float], Any]
"""From a uniform number in (0, 1) to a value."""

KINDS = ("choice", "range", "uniform", "loguniform", "normal", "truncnormal", "weighted")
MOST_VALUES = 1_000_000
_SHAPES = {"uniform": "[low, high]", "loguniform": "[low, high]", "normal": "[mean, std]", "truncnormal": "[mean, std, low, high]"}
_DIGITS = 7


def uniform(*parts: object) -> float:
    """Return the uniform number in (0, 1), of 52 bits, that belongs to ``parts``."""
    return from_digest(hashlib.sha256("\0".join(map(str, parts)).encode()))


def from_digest(digest: Any) -> float:
    """Return the uniform number in (0, 1) of a SHA-256 object."""
    return ((int.from_bytes(digest.digest()[:8], "big") >> 12) + 0.5) * 2.0**-52


def check_distribution(value: Any, place: Place) -> Any:
    """Check ``{kind: arguments}``; return it."""
    kind = single_key(value, place, KINDS)
    if kind is None:
        return None
    place.only(value, KINDS)
    _CHECKS.get(kind, _check_numbers(kind))(value[kind], place.at(kind))
    return dict(value)


def make_draw(distribution: Mapping[str, Any]) -> Draw:
    """Return the inverse function of a checked distribution without references."""
    ((kind, given),) = distribution.items()
    if kind == "choice":
        return lambda u: given[int(u * len(given))]
    if kind == "range":
        return lambda u: range_value(given, int(u * range_count(given)))
    if kind == "weighted":
        pairs = _pairs(given) or []
        values = [value for value, _ in pairs]
        sums = list(itertools.accumulate(float(weight) for _, weight in pairs))
        return lambda u: values[min(bisect.bisect_right(sums, u * sums[-1]), len(values) - 1)]
    numbers = [float(part) for part in given]
    return _INVERSE[kind](*numbers)


def range_count(given: Any) -> int:
    """Number of values of ``[first, last]`` or ``[first, last, step]``."""
    first, last, step = map(float, (*given, 1)[:3])
    return max(0, math.floor((last - first) / step + 1e-9) + 1)


def range_value(given: Any, index: int) -> Any:
    """Value ``index`` of a range; whole numbers stay whole."""
    first, _, step = (*given, 1)[:3]
    value = first + index * step
    return value if isinstance(value, int) else round(value, 12)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _uniform(low: float, high: float) -> Draw:
    return lambda u: min(max(_rounded(low + u * (high - low)), low), high)


def _loguniform(low: float, high: float) -> Draw:
    start, width = math.log(low), math.log(high) - math.log(low)
    return lambda u: min(max(_rounded(math.exp(start + u * width)), low), high)


def _normal(mean: float, std: float) -> Draw:
    inverse = NormalDist().inv_cdf
    return lambda u: _rounded(mean + std * inverse(u))


def _truncnormal(mean: float, std: float, low: float, high: float) -> Draw:
    standard = NormalDist()
    # On the side where the numbers are small, so that far tails keep their digits.
    flip = low + high > 2 * mean
    ends = [(mean - high) / std, (mean - low) / std] if flip else [(low - mean) / std, (high - mean) / std]
    below, above = standard.cdf(ends[0]), standard.cdf(ends[1])

    def draw(u: float) -> float:
        share = min(max(below + (1 - u if flip else u) * (above - below), 1e-300), 1 - 2.0**-53)
        value = standard.inv_cdf(share) * std
        return min(max(_rounded(mean - value if flip else mean + value), low), high)

    return draw


_INVERSE: dict[str, Callable[..., Draw]] = {
    "uniform": _uniform,
    "loguniform": _loguniform,
    "normal": _normal,
    "truncnormal": _truncnormal,
}

# ---------------------------------------------------------------- checks


def check_values(value: Any, place: Place) -> Any:
    """Check a list of at least one value."""
    return many(plain_value, "[a, b]", least=1, most=MOST_VALUES)(value, place)


def plain_value(value: Any, place: Place) -> Any:
    """Check one value of a choice or a variant: a number, text, true, false, or lists and mappings of them."""
    if isinstance(value, Mapping):
        for name, part in (as_mapping(value, place) or {}).items():
            if name.startswith("_"):
                place.at(name).fail(" is no key of a value: values hold numbers, text, lists and mappings")
            plain_value(part, place.at(name))
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            plain_value(part, place.at(str(i)))
    elif isinstance(value, str):
        place.names(value)
        if "\x01" in value:
            place.fail(f"={shorten(value)} has control characters: remove them")
    elif not isinstance(value, bool) and not is_number(value):
        place.fail(f"={shorten(value)} must be a number, text, true or false")
    return value


def check_range(value: Any, place: Place) -> Any:
    """Check ``[first, last]`` or ``[first, last, step]``."""
    if place.refers(value):
        return value
    numbers = many(lambda part, at: number()(part, at) if not place.refers(part) else part, "[0, 10, 2]", least=2, most=3)(value, place)
    if len(numbers) < 2 or not all(map(is_number, numbers)) or not all(map(is_number, value)):
        return value
    if numbers[1] < numbers[0] or (len(numbers) == 3 and numbers[2] <= 0):
        place.fail(f"={shorten(value)} must be [first, last, step] with first <= last and step above 0")
    elif (numbers[1] - numbers[0]) / (numbers[2] if len(numbers) == 3 else 1) >= MOST_VALUES:
        place.fail(f"={shorten(value)} has more than {MOST_VALUES} values: use 'uniform'")
    return value


def _check_weighted(value: Any, place: Place) -> Any:
    if place.refers(value):
        return value
    pairs = _pairs(value)
    if pairs is None or not pairs:
        place.fail(f"={shorten(value)} must be {{value: weight}} or [[value, weight], ...]")
        return value
    good = True
    for i, (one, weight) in enumerate(pairs):
        at = place.at(str(one) if isinstance(value, Mapping) else str(i))
        plain_value(one, at)
        number(0)(weight, at)
        good = good and is_number(weight) and weight >= 0
    if good and not sum(weight for _, weight in pairs) > 0:
        place.fail(f"={shorten(value)} must have a weight above 0")
    return value


def _pairs(value: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        return [(pair[0], pair[1]) for pair in value]
    return None


def _check_numbers(kind: str) -> Any:
    def check(value: Any, place: Place) -> Any:
        size = _SHAPES[kind].count(",") + 1
        given = many(number(), _SHAPES[kind], least=size, most=size)(value, place)
        if len(given) != size or not all(map(is_number, given)):
            return value
        if kind in ("uniform", "truncnormal", "loguniform") and not given[-2] < given[-1]:
            place.fail(f"={shorten(value)} must be {_SHAPES[kind]} with low < high")
        elif kind == "loguniform" and given[0] <= 0:
            place.fail(f"={shorten(value)} must be [low, high] with low above 0")
        elif kind in ("normal", "truncnormal") and given[1] <= 0:
            place.fail(f"={shorten(value)} must be {_SHAPES[kind]} with std above 0")
        return value

    return check


_CHECKS: dict[str, Any] = {"choice": check_values, "range": check_range, "weighted": _check_weighted}


def is_reference(value: Any) -> bool:
    """Whether a value contains ``$name`` anywhere."""
    if isinstance(value, str):
        return WHOLE_REFERENCE.fullmatch(value) is not None
    if isinstance(value, Mapping):
        return any(map(is_reference, value.values()))
    return isinstance(value, list | tuple) and any(map(is_reference, value))
