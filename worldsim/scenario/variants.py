"""Variants of a scenario: a grid, rows side by side, a list, or a Sobol sequence over ranges."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worldsim.scenario.checks import as_mapping, identifier, many, single_key, whole
from worldsim.scenario.distributions import check_distribution, check_range, check_values, make_draw, plain_value, range_count, range_value
from worldsim.scenario.problems import Place, shorten

WAYS = ("grid", "zip", "list", "sobol")
MOST_SOBOL = 1_000_000
_BITS = 30


def check_variants(value: Any, place: Place, reserved: Sequence[str]) -> Any:
    """Check ``{grid|zip|list|sobol: ...}``; return it."""
    way = single_key(value, place, WAYS)
    if way is None:
        return None
    place.only(value, WAYS)
    below, inner = place.at(way), value[way]
    if way == "list":
        _check_list(inner, below)
    elif way == "sobol":
        _check_sobol(inner, below)
    else:
        columns = {name: _check_column(column, below.at(name)) for name, column in (as_mapping(inner, below) or {}).items()}
        if not columns and isinstance(inner, Mapping):
            below.fail("={} must have at least one name")
        if way == "zip" and None not in (sizes := set(columns.values())) and len(sizes) > 1:
            below.fail(f" has lists of {', '.join(f'{size} ({name})' for name, size in columns.items())} values: they must be equally long")
    for name in names_of(value):
        identifier(name, below, reserved)
    return dict(value)


def names_of(variants: Mapping[str, Any] | None) -> list[str]:
    """Return the names that variants give values to, as far as they are written rightly."""
    ((way, inner),) = (variants or {"grid": {}}).items() if len(variants or {"grid": {}}) == 1 else [("grid", {})]
    if way == "sobol":
        inner = inner.get("ranges") if isinstance(inner, Mapping) else {}
    if way == "list":
        inner = inner[0] if isinstance(inner, list | tuple) and inner else {}
    return list(map(str, inner)) if isinstance(inner, Mapping) else []


def count_variants(variants: Mapping[str, Any] | None) -> int:
    """Number of variants; 1 where there are none."""
    if variants is None:
        return 1
    ((way, inner),) = variants.items()
    if way == "sobol":
        return int(inner["n"])
    if way == "list":
        return len(inner)
    sizes = [_size(column) for column in inner.values()]
    return math.prod(sizes) if way == "grid" else sizes[0]


def variant_values(variants: Mapping[str, Any] | None, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the values of each variant, or of the first ``most``: a grid with its last name running fastest."""
    return itertools.islice(_values(variants, most), most)


def _values(variants: Mapping[str, Any] | None, most: int | None) -> Iterator[dict[str, Any]]:
    if variants is None:
        yield {}
        return
    ((way, inner),) = variants.items()
    if way == "list":
        yield from (dict(row) for row in inner)
    elif way == "sobol":
        yield from _sobol(inner, most)
    else:
        columns = [_column(column) for column in inner.values()]
        rows = itertools.product(*columns) if way == "grid" else zip(*columns, strict=True)
        yield from (dict(zip(inner, row, strict=True)) for row in rows)


def _check_column(value: Any, place: Place) -> int | None:
    if isinstance(value, Mapping):
        place.only(value, ("range",))
        if list(value) != ["range"]:
            place.fail(f"={shorten(value)} must be a list of values, or {{range: [first, last, step]}}")
            return None
        check_range(value["range"], place.at("range"))
        return range_count(value["range"]) if not place.log.found else None
    return len(check_values(value, place)) or None


def _size(column: Any) -> int:
    return range_count(column["range"]) if isinstance(column, Mapping) else len(column)


def _column(column: Any) -> list[Any]:
    if not isinstance(column, Mapping):
        return list(column)
    return [range_value(column["range"], i) for i in range(range_count(column["range"]))]


def _check_list(value: Any, place: Place) -> None:
    rows = many(as_mapping, "[{speed: 30}, {speed: 60}]", least=1)(value, place)
    for i, row in enumerate(rows):
        for name, item in (row or {}).items():
            plain_value(item, place.at(str(i), name))
        if row is not None and rows[0] is not None and set(row) != set(rows[0]):
            place.at(str(i)).fail(f" has the names {', '.join(row)}: every variant must have those of the first, {', '.join(rows[0])}")


def _check_sobol(value: Any, place: Place) -> None:
    given = as_mapping(value, place)
    if given is None:
        return
    place.only(given, ("ranges", "n"))
    for name in ("ranges", "n"):
        if name not in given:
            place.fail(f" has no {name!r}: write {{ranges: {{speed: [20, 60]}}, n: 64}}")
    whole(1, MOST_SOBOL)(given.get("n", 1), place.at("n"))
    ranges = as_mapping(given.get("ranges", {}), place.at("ranges")) or {}
    if len(ranges) > 1000:
        place.at("ranges").fail(f" has {len(ranges)} names: at most 1000")
    for name, axis in ranges.items():
        at = place.at("ranges", name)
        check_distribution(axis if isinstance(axis, Mapping) else {"uniform": axis}, at)


def _sobol(inner: Mapping[str, Any], most: int | None) -> Iterator[dict[str, Any]]:
    """Joe and Kuo's Sobol points (scipy's, unscrambled), shifted by bits that each name's hash gives: alike everywhere.

    The digital shift keeps the points' balance and moves the first one away from the corner; more points leave the earlier ones.
    """
    from scipy.stats import qmc  # type: ignore[import-untyped]

    ranges = inner["ranges"]
    draws = {name: make_draw(axis if isinstance(axis, Mapping) else {"uniform": axis}) for name, axis in ranges.items()}
    shifts = [int.from_bytes(hashlib.sha256(f"sobol\0{name}".encode()).digest()[:4], "big") >> (32 - _BITS) for name in ranges]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the balance of a count that is no power of two is the author's affair
        points = qmc.Sobol(len(draws), scramble=False, bits=_BITS).random(min(int(inner["n"]), most or MOST_SOBOL))
    for row in (points * 2.0**_BITS).astype("int64").tolist():
        yield {
            name: draw(((bits ^ shift) + 0.5) * 2.0**-_BITS) for (name, draw), bits, shift in zip(draws.items(), row, shifts, strict=True)
        }
