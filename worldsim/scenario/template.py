"""Text of a scenario with holes for its values: one pass over the scenario, then one join an episode."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from worldsim.scenario.problems import REFERENCE, WHOLE_REFERENCE

EXPRESSIONS = frozenset({"predicate", "that"})
"""Keys whose text is an expression: a value stands in it as a literal."""

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_MARK = re.compile(r'"\\u0001(\w+)\\u0001"|\\u0002([wep]):(\w+)\\u0002')


def canonical(value: Any) -> str:
    """Write JSON in the one way that equal values have: sorted keys, no spaces, no NaN."""
    return _encode(value)


def _whole(value: Any) -> str:
    kind = type(value)
    if kind is float and isfinite(value):
        return repr(value)
    return str(value) if kind is int else _encode(value)


def _within(value: Any) -> str:
    return _encode(value if isinstance(value, str) else _whole(value))[1:-1]


def _literal(value: Any) -> str:
    return _encode(_whole(value))[1:-1]


_TEXTS: dict[str, Callable[[Any], str]] = {"w": _whole, "p": _within, "e": _literal}


class Template:
    """Canonical JSON with holes.

    Args:
        data: JSON types; ``$name`` as a whole text takes a value with its type, within a text its characters, ``$$`` is a dollar.
    """

    def __init__(self, data: Any) -> None:
        pieces: list[str] = []
        self._holes: list[tuple[str, str]] = []
        text, end = canonical(_marked(data, "p")), 0
        for match in _MARK.finditer(text):
            pieces.append(text[end : match.start()])
            self._holes.append(("w", match[1]) if match[1] else (match[2], match[3]))
            end = match.end()
        pieces.append(text[end:])
        self._different = tuple(dict.fromkeys(self._holes))
        self._parts = [""] * (2 * len(pieces) - 1)
        self._parts[::2] = pieces

    @property
    def names(self) -> frozenset[str]:
        """Names of the holes."""
        return frozenset(name for _, name in self._holes)

    def text(self, values: Mapping[str, Any]) -> str:
        """Return canonical JSON with the holes filled."""
        texts = {hole: _TEXTS[hole[0]](values[hole[1]]) for hole in self._different}
        parts = self._parts.copy()
        for i, hole in enumerate(self._holes):
            parts[2 * i + 1] = texts[hole]
        return "".join(parts)

    def fill(self, values: Mapping[str, Any]) -> Any:
        """Return the data with the holes filled."""
        return json.loads(self.text(values))


def _marked(data: Any, kind: str) -> Any:
    if isinstance(data, Mapping):
        return {name: _marked(value, "e" if name in EXPRESSIONS else "p") for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_marked(value, kind) for value in data]
    if not isinstance(data, str) or "$" not in data:
        return data
    if kind == "p" and (whole := WHOLE_REFERENCE.fullmatch(data)):
        return f"\x01{whole[1]}\x01"
    return REFERENCE.sub(lambda match: f"\x02{kind}:{match[1]}\x02" if match[1] else "$", data)
