"""Checks of plain values: each takes a value and its place, notes what is wrong there, and returns the value as its type."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldsim.scenario.problems import NAME, Place, shorten
from worldsim.targets import suggest

Check = Callable[[Any, Place], Any]
"""Takes a value and its place; notes mistakes at the place, and returns the typed value, or the ``$name`` that stands for it."""

MOST_ITEMS = 1_000_000


def key(check: Check, default: Any = dataclasses.MISSING, *, name: str = "") -> Any:
    """Declare a field of a record: how it is checked, what it is where absent, and its key where a field cannot have that name."""
    metadata = {"check": check, "key": name}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def keys_of(kind: type[Any]) -> list[str]:
    """Return the keys of a record."""
    return [item.metadata["key"] or item.name for item in dataclasses.fields(kind) if "check" in item.metadata]


def record(kind: type[Any], *, ignore: Sequence[str] = (), also: Callable[[Any, Place], None] | None = None) -> Check:
    """Check a mapping with the fields of dataclass ``kind``; ``ignore`` names keys that others read, ``also`` compares fields."""

    def check(value: Any, place: Place) -> Any:
        given = as_mapping(value, place)
        if given is None:
            return None
        place.only((name for name in given if name not in ignore), keys_of(kind))
        values = {}
        for item in dataclasses.fields(kind):
            if "check" not in item.metadata:
                continue
            name = item.metadata["key"] or item.name
            if name in given:
                values[item.name] = item.metadata["check"](given[name], place.at(name))
            elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                place.fail(f" has no {name!r}: add it" if place.path else f"there is no {name!r}: add it")
                values[item.name] = None
        made = kind(**values)
        if also is not None:
            also(made, place)
        return made

    return check


def as_mapping(value: Any, place: Place) -> dict[str, Any] | None:
    """Return a mapping with text keys, or note that it is none."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        place.fail(f"={shorten(value)} must be a mapping: write 'key: value' lines" if place.path else f"{shorten(value)} is no mapping")
        return None
    return dict(value)


def single_key(value: Any, place: Place, allowed: Sequence[str], ignore: Sequence[str] = ()) -> str | None:
    """Return the one key of ``allowed`` that a mapping has, or note that there is none or several."""
    given = as_mapping(value, place)
    if given is None:
        return None
    there = [name for name in given if name in allowed]
    if len(there) != 1:
        strange = [name for name in given if name not in allowed and name not in ignore]
        if strange and not there:
            place.only(strange, allowed)
        else:
            place.fail(f"={shorten(value)} must have exactly one of the keys {', '.join(allowed)}")
        return None
    return there[0]


def whole(low: int = 0, high: int | None = None) -> Check:
    """Check a whole number."""
    rule = f"a whole number, {low} or more" if high is None else f"a whole number in {low}..{high}"

    def check(value: Any, place: Place) -> Any:
        if place.refers(value):
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            place.fail(f"={shorten(value)} must be {rule}")
            return low
        return value

    return check


def number(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Check:
    """Check a finite number in ``[low, high]``, or above ``above``."""
    rule = "a number"
    if above is not None:
        rule += f" above {above:g}" + (f", at most {high:g}" if high is not None else "")
    elif low is not None:
        rule += f" in {low:g}..{high:g}" if high is not None else f", {low:g} or more"

    def check(value: Any, place: Place) -> Any:
        if place.refers(value):
            return value
        if (
            not is_number(value)
            or (low is not None and value < low)
            or (high is not None and value > high)
            or (above is not None and value <= above)
        ):
            place.fail(f"={shorten(value)} must be {rule}")
            return 1.0
        return float(value)

    return check


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def boolean(value: Any, place: Place) -> Any:
    """Check ``true`` or ``false``."""
    if not place.refers(value) and not isinstance(value, bool):
        place.fail(f"={shorten(value)} must be true or false")
    return value


def text(most: int = 2000, *, least: int = 0) -> Check:
    """Check text of ``least`` to ``most`` characters; ``$name`` within it is replaced by a value."""

    def check(value: Any, place: Place) -> Any:
        if not isinstance(value, str):
            place.fail(f"={shorten(value)} must be text: put it in quotes")
            return ""
        if not least <= len(value) <= most:
            place.fail(f" has {len(value)} characters: it must have {least} to {most}")
        elif not value.isprintable() and not value.replace("\n", " ").replace("\t", " ").isprintable():
            place.fail(f"={shorten(value)} has control characters: remove them")
        place.names(value)
        return value

    return check


def one_of(*allowed: str) -> Check:
    """Check one of several words."""

    def check(value: Any, place: Place) -> Any:
        if not place.refers(value) and value not in allowed:
            place.fail(f"={shorten(value)} is none of the allowed: {suggest(str(value)[:80], allowed)}")
        return value

    return check


def many(item: Check, example: str, *, least: int = 0, most: int = MOST_ITEMS, wrap: bool = False) -> Check:
    """Check a list; ``wrap`` takes a single item for a list of one."""

    def check(value: Any, place: Place) -> Any:
        if place.refers(value):
            return (value,)
        if wrap and not isinstance(value, list | tuple):
            return (item(value, place),)
        if not isinstance(value, list | tuple):
            place.fail(f"={shorten(value)} must be a list, as {example}")
            return ()
        if not least <= len(value) <= most:
            place.fail(f" has {len(value)} items: it must have {least} to {most}, as {example}")
            return ()
        return tuple(item(child, place.at(str(i))) for i, child in enumerate(value))

    return check


def named(item: Check) -> Check:
    """Check a mapping of names to values."""

    def check(value: Any, place: Place) -> Any:
        given = as_mapping(value, place) or {}
        return {name: item(child, place.at(name)) for name, child in given.items()}

    return check


def optional(item: Check) -> Check:
    """Check a value that may be null."""
    return lambda value, place: None if value is None else item(value, place)


def identifier(value: str, place: Place, reserved: Sequence[str] = ()) -> None:
    """Note a name that ``$name`` could not refer to."""
    if not NAME.fullmatch(value) or len(value) > 80:
        place.fail(f": {shorten(value)} is no name: use letters, digits and _")
    elif value in reserved:
        place.fail(f": {value!r} has a meaning of its own: choose another name")
