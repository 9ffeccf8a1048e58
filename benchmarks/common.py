"""What the benchmarks share: medians, and results as JSON and Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return median, lowest and highest of repeated measurements."""
    return {"median": round(statistics.median(values), digits), "low": round(min(values), digits), "high": round(max(values), digits)}


def interleave(rounds: int, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Take every measure once a round, one after another, so that a busy machine slows all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return taken


def describe(made: dict[str, Any]) -> str:
    """Return machine, load, versions and date in one sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    load = "/".join(f"{x:.1f}" for x in made["load"])
    device = f", {made['gpu']}" if "gpu" in made else ""
    return f"{made['date']}; {made['cpu']}, {made['cores']} cores{device}, {made['threads']} threads, load average {load}; {versions}."


def save(name: str, figures: dict[str, Any], text: str, folder: Path) -> None:
    """Write ``NAME.json`` and ``NAME.md`` and show the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
