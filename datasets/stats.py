"""What is in a dataset, in numbers: tables, histograms and plots: ``worldsim data stats``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldsim.datasets.bar import Bar
from worldsim.datasets.layout import ACTION, REWARD, STATE, DatasetError
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.stats_plots import draw_histograms, draw_ranges
from worldsim.datasets.storage import Root, place
from worldsim.datasets.tally import Tally, reasons, tally, tally_all

_ROWS = 40  # of a table, at most


def main(cfg: DictConfig) -> None:
    """Measure a dataset by a composed ``configs/data_stats.yaml``; see there for the keys.

    Raises:
        ValueError: The folder is no dataset, an episode is damaged, or ``bins`` is below 1.
    """
    console = Console()
    found = statistics(str(cfg["dataset"]), bins=int(cfg["bins"]), console=console)
    print_statistics(found, console)
    if cfg["out"]:
        for file in write_statistics(found, Path(str(cfg["out"]))):
            console.print(str(file), soft_wrap=True, markup=False, highlight=False)


def statistics(path: Root | str, *, bins: int = 40, console: Console | None = None) -> dict[str, Any]:
    """Measure a dataset; frames are not read.

    Args:
        path: Folder of the dataset.
        bins: Bins of a histogram, at least 1; integer columns have one a value where that is fewer.
        console: Where progress is shown; None shows nothing.

    Returns:
        JSON types. ``all``, and by name ``scenario`` and ``policy``: episodes, frames, steps, rejected, failed, and ``length`` and
        ``return`` of the ``ok`` episodes as min, q25, median, q75, max, mean, std. ``columns``: for every action, reward and state column
        its kind, name, count, nonfinite, min, max, mean, std, q01, q99 and ``histogram`` with counts and edges. ``lost``: episodes by
        status and reason.

    Raises:
        DatasetError: The folder is no dataset, an episode is damaged, or ``bins`` is below 1.
    """
    if bins < 1:
        raise DatasetError(f"bins={bins} must be 1 or more")
    root = place(path)
    records, store = read_commits(root), EpisodeReader(root, decode=False)
    return {
        "name": store.info.name,
        "fingerprint": store.info.fingerprint,
        "fps": store.info.fps,
        "all": _sums(tally_all(records)),
        "scenario": {row.name: _sums(row) for row in tally(records, "scenario")},
        "policy": {row.name: _sums(row) for row in tally(records, "policy")},
        "columns": _columns(store, bins, console),
        "lost": reasons(records),
    }


def write_statistics(found: Mapping[str, Any], out: Path) -> list[Path]:
    """Write ``stats.json`` and the plots: histograms of every column, lengths and returns by scenario and policy.

    Args:
        found: What ``statistics`` returned.
        out: Folder, made if it is not there.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "stats.json").write_text(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    files = [out / "stats.json"]
    for kind in dict.fromkeys(column["kind"] for column in found["columns"]):
        columns = [column for column in found["columns"] if column["kind"] == kind and column["count"]]
        if columns:
            files.append(draw_histograms(out / f"{kind}.png", columns, title=f"{found['name']}: {kind}"))
    for key in ("length", "return"):
        rows = {
            f"{group}: {name or '-'}": sums[key] for group in ("scenario", "policy") for name, sums in found[group].items() if sums[key]
        }
        if rows:
            files.append(draw_ranges(out / f"{key}s.png", rows, title=f"{found['name']}: {key} of an episode"))
    return files


def print_statistics(found: Mapping[str, Any], console: Console) -> None:
    """Print the tables."""
    for key in ("scenario", "policy"):
        console.print(_sum_table(found, key))
    table = Table(title="columns", title_justify="left")
    names = ("kind", "name", "min", "q01", "mean", "q99", "max")
    for name in names:
        table.add_column(name, justify="left" if name in ("kind", "name") else "right", no_wrap=True)
    for column in found["columns"][:_ROWS]:
        table.add_row(column["kind"], Text(column["name"]), *(_said(column[name]) for name in names[2:]))
    console.print(table)
    for reason, count in list(found["lost"].items())[:_ROWS]:
        console.print(f"{count} {reason}", soft_wrap=True, markup=False, highlight=False)


def _sum_table(found: Mapping[str, Any], key: str) -> Table:
    table = Table(title=Text(f"{found['name']} by {key}"), title_justify="left")
    for name in (key, "episodes", "frames", "length", "return", "rejected", "failed"):
        table.add_column(name, justify="left" if name == key else "right", no_wrap=name != key)
    rows = list(found[key].items())
    for name, sums in rows[:_ROWS]:
        table.add_row(Text(name or "-"), *_cells(sums))
    table.add_section()
    table.add_row("all", *_cells(found["all"]))
    if len(rows) > _ROWS:
        table.caption = f"and {len(rows) - _ROWS} more"
    return table


def _cells(sums: Mapping[str, Any]) -> list[str]:
    means = [_said((sums[key] or {}).get("mean")) for key in ("length", "return")]
    return [f"{sums['episodes']:,}", f"{sums['frames']:,}", *means, f"{sums['rejected']:,}", f"{sums['failed']:,}"]


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _sums(row: Tally) -> dict[str, Any]:
    counts = {"episodes": row.episodes, "frames": row.frames, "steps": row.steps, "rejected": row.rejected, "failed": row.failed}
    return {**counts, "length": _spread(row.lengths), "return": _spread(row.returns)}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    quartiles = np.quantile(array, [0, 0.25, 0.5, 0.75, 1])
    named = dict(zip(("min", "q25", "median", "q75", "max"), quartiles.tolist(), strict=True))
    return {name: round(value, 6) for name, value in {**named, "mean": float(array.mean()), "std": float(array.std())}.items()}


def _columns(store: EpisodeReader, bins: int, console: Console | None) -> list[dict[str, Any]]:
    parts: dict[str, list[NDArray[Any]]] = {}
    with Bar("measuring", len(store), console=console) as bar:
        for i, record in enumerate(store.records):
            for kind, name in (("action", ACTION), ("reward", REWARD), ("state", STATE)):
                if name in record["sha256"]:
                    rows = store.rows(i, name)
                    parts.setdefault(kind, []).append(rows.reshape(len(rows), -1))
            bar.step()
    out = []
    for kind, pieces in parts.items():
        values = np.concatenate(pieces)  # (sum of T, columns)
        names = store.info.state_names if kind == "state" else ("reward",) if kind == "reward" else None
        for i in range(values.shape[1]):
            out.append({"kind": kind, "name": names[i] if names else f"{kind} {i}", **describe(values[:, i], bins=bins)})
    return out


def describe(values: NDArray[Any], *, bins: int) -> dict[str, Any]:
    """Measure one column ``(N,)``: count, nonfinite, min, max, mean, std, q01, q99, and a histogram with ``bins`` bins.

    Values that are not finite are counted and left out; without any that is, the measures are None.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    finite = values[np.isfinite(values)].astype(np.float64)
    found: dict[str, Any] = {"count": len(finite), "nonfinite": len(values) - len(finite)}
    if not len(finite):
        return {**found, **dict.fromkeys(("min", "max", "mean", "std", "q01", "q99")), "histogram": {"counts": [], "edges": []}}
    low, high = np.quantile(finite, [0.01, 0.99]).tolist()
    least, most = float(finite.min()), float(finite.max())
    edges: Any = bins
    if whole and most - least < bins:
        edges = np.arange(least - 0.5, most + 1)
    counts, edges = np.histogram(finite, bins=edges)
    measures = {"min": least, "max": most, "mean": float(finite.mean()), "std": float(finite.std()), "q01": low, "q99": high}
    return {**found, **measures, "histogram": {"counts": counts.tolist(), "edges": edges.tolist()}}
