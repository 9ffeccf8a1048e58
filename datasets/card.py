"""The dataset card: ``README.md`` of a dataset, in the form that the Hugging Face Hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.datasets.layout import canonical_json
from worldsim.datasets.reader import read_attributes, read_commits
from worldsim.datasets.storage import Root
from worldsim.datasets.tally import Tally, reasons, tally

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_MARKS = re.compile(r"[\\`*_\[\]|~<>&$]")
_ROWS = 40  # of a table, at most


def dataset_card(root: Root, summary: Mapping[str, Any]) -> str:
    """Write the card of a dataset as Markdown; names that come from the data are escaped.

    Args:
        root: The dataset.
        summary: What ``worldsim.datasets.finalize.summarize`` says of it.

    Raises:
        DatasetError: The dataset cannot be read.
    """
    attributes, records = read_attributes(root), read_commits(root)
    lost = [f"| {escape(name)} | {count} |" for name, count in list(reasons(records).items())[:_ROWS]]
    sections = [
        _head(attributes, summary),
        f"# {escape(attributes['name'])}",
        "Episodes in worldsim's dataset layout v1 (Zarr v3). `action[t]` takes `frame[t]` to `frame[t + 1]`: "
        "an episode of T steps has T + 1 frames.",
        _facts(attributes, summary),
        _tallies("scenario", tally(records, "scenario")),
        _tallies("policy", tally(records, "policy")),
        "\n".join(["| lost episodes | |", "|---|---|", *lost]) if lost else "",
        _USE,
        f"Written by {escape(', '.join(f'{name} {value}' for name, value in attributes['generator'].items()))}.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape(text: str) -> str:
    """Return a text as it looks in Markdown, tables included: on one line, with no mark, tag or link of its own."""
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", " ".join(str(text).split()))


def _head(attributes: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """YAML front matter; JSON strings are YAML strings."""
    licence = attributes["licence"]
    known = bool(_LICENCE.fullmatch(licence)) and licence != "unknown"
    size = next((name for limit, name in _SIZES if summary["frames"] < limit), "n>10M")
    lines = [
        "---",
        f"license: {json.dumps(licence.lower() if known else 'other')}",
        *([] if known else [f"license_name: {json.dumps(licence)}"]),
        f"pretty_name: {json.dumps(attributes['name'])}",
        f"size_categories: [{json.dumps(size)}]",
        'task_categories: ["reinforcement-learning", "robotics"]',
        'tags: ["world-model", "video", "worldsim", "zarr"]',
        "---",
    ]
    return "\n".join(lines)


def _facts(attributes: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    height, width = attributes["frame_size"]
    facts = {
        "episodes": f"{summary['episodes']} ({summary['rejected']} rejected, {summary['failed']} failed)",
        "frames": f"{summary['frames']}, {width} x {height} pixels, {attributes['fps']:g} a second",
        "mean return": f"{summary['mean_return']:.2f}",
        "action space": escape(canonical_json(attributes["action_space"])),
        "state": escape(", ".join(attributes["state_names"]) or "none"),
        "source": escape(canonical_json(attributes["source"])),
        "root seed": f"{attributes['root_seed']}",
        "fingerprint": f"`{summary['fingerprint']}`",
        "licence": escape(attributes["licence"]),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _tallies(key: str, rows: Sequence[Tally]) -> str:
    lines = [f"| {key} | episodes | frames | mean return | rejected | failed |", "|---|---:|---:|---:|---:|---:|"]
    for row in rows[:_ROWS]:
        numbers = f"{row.episodes} | {row.frames} | {row.mean_return:.2f} | {row.rejected} | {row.failed}"
        lines.append(f"| {escape(row.name) or '-'} | {numbers} |")
    if len(rows) > _ROWS:
        lines.append(f"| and {len(rows) - _ROWS} more | | | | | |")
    return "\n".join(lines)


_USE = """\
```python
from worldsim.datasets.reader import EpisodeReader

store = EpisodeReader("path/to/this/folder")
episode = store[0]  # frames (T + 1, H, W, 3) uint8, actions (T, A), rewards, terminated, truncated, state
```

`worldsim data verify dataset=path/to/this/folder` reads every file again and names each one that is missing or not as it was written."""
