"""All mistakes of a scenario file in one error: each a line with file, line, key, what was found and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from worldsim.targets import ConfigError, suggest

MOST_SHOWN = 50
NAME = re.compile(r"[A-Za-z_]\w*")
WHOLE_REFERENCE = re.compile(r"\$([A-Za-z_]\w*)")
REFERENCE = re.compile(r"\$(?:([A-Za-z_]\w*)|(\$))")


class ScenarioError(ConfigError):
    """Scenarios are wrong; ``problems`` has one line for each mistake."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        shown = list(self.problems[:MOST_SHOWN])
        if len(self.problems) > MOST_SHOWN:
            shown.append(f"... and {len(self.problems) - MOST_SHOWN} more")
        super().__init__("\n".join(shown))


@dataclass
class Problems:
    """Where a text comes from, and the mistakes found in it so far.

    Attributes:
        source: File, or key of a config.
        lines: Line of every key in the file, by its path; empty where there is no file.
        found: One line a mistake.
    """

    source: str
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def add(self, path: tuple[str, ...], where: str, message: str) -> None:
        """Note a mistake at ``path`` of the file, which people call ``where``."""
        known = (self.lines[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in self.lines)
        line = next(known, None)
        self.found.append(f"{self.source if line is None else f'{self.source}:{line}'}: {where}{message}")

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            ScenarioError: There is at least one mistake.
        """
        if self.found:
            raise ScenarioError(self.found)


@dataclass(frozen=True)
class Place:
    """A position in a scenario.

    Attributes:
        log: Where mistakes go.
        scenario: Name of the scenario.
        path: Keys below the scenario.
        scope: Names that ``$name`` may refer to; None once they are substituted.
        root: Path of the scenario in its file.
    """

    log: Problems
    scenario: str
    path: tuple[str, ...] = ()
    scope: frozenset[str] | None = None
    root: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The path as people write it."""
        return ".".join(self.path)

    def at(self, *keys: str) -> Place:
        """Return a position further down."""
        return replace(self, path=(*self.path, *keys))

    def fail(self, message: str) -> None:
        """Note a mistake; ``message`` goes on from the key's name, as ``=3 must be ...``."""
        self.log.add((*self.root, *self.path), f"scenario {self.scenario!r}: ", f"{self.key}{message}")

    def only(self, given: Iterable[str], allowed: Iterable[str]) -> None:
        """Note every key that is not allowed."""
        known = list(allowed)
        for key in given:
            if key not in known:
                self.at(key).log.add(
                    (*self.root, *self.path, key),
                    f"scenario {self.scenario!r}: ",
                    f"{self.key + ': ' if self.path else ''}key {shorten(key)} is unknown: {suggest(key[:80], known)}",
                )

    def refers(self, value: Any) -> bool:
        """Whether a value is a reference ``$name``, which has its type only once it is substituted."""
        match = WHOLE_REFERENCE.fullmatch(value) if isinstance(value, str) and self.scope is not None else None
        if match is None:
            return False
        self.names(value)
        return True

    def names(self, text: str) -> None:
        """Note every ``$name`` in ``text`` that nothing defines."""
        if self.scope is None:
            return
        for match in REFERENCE.finditer(text):
            if match[1] and match[1] not in self.scope:
                self.fail(
                    f"={shorten(text)}: nothing defines ${match[1][:80]}: {suggest(match[1][:80], self.scope)}; "
                    "define it under 'randomize' or 'variants', or write $$ for a dollar"
                )


def shorten(value: Any, most: int = 80) -> str:
    """Return ``repr(value)`` of at most ``most`` characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = "(nested too deeply)"
    return text if len(text) <= most else f"{text[: most - 3]}..."
