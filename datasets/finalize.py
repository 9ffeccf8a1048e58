"""What is derived from a dataset's commits once it is complete: index, statistics, manifest and card. One process, repeatable."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from worldsim.datasets.card import dataset_card
from worldsim.datasets.croissant import croissant_text
from worldsim.datasets.layout import ACTION, FRAMES, REWARD, STATE, canonical_json, write_atomic
from worldsim.datasets.reader import EpisodeReader, fingerprint, heldout, read_attributes, read_commits
from worldsim.datasets.seal import seal
from worldsim.datasets.storage import LARGE, Root, digest, each, eagerly, place, sizes, write_group
from worldsim.datasets.writer import write_error
from worldsim.episode import Episode

_SAMPLE = 64  # frames of an episode that pixel statistics are taken from, at most


def finalize(path: Root | str) -> dict[str, Any]:
    """Write ``index/``, ``README.md``, ``croissant.json`` and ``MANIFEST.json`` from what is committed.

    Returns:
        The manifest without its files: counts, fingerprint, mean return.

    Raises:
        DatasetError: The dataset cannot be read or written.
    """
    root = place(path)
    good = [record for record in read_commits(root) if record["status"] == "ok"]
    try:
        _write_index(root, good)
        write_atomic(root / "index" / "stats.json", canonical_json(_statistics(EpisodeReader(root, decode=False))))
        summary = summarize(root)
        write_atomic(root / "README.md", dataset_card(root, summary))
        write_atomic(root / "croissant.json", croissant_text(root, summary))
        write_atomic(root / "MANIFEST.json", canonical_json(seal({**summary, "files": _files(root)})))
    except OSError as error:
        raise write_error(root, error) from error
    return summary


def summarize(root: Root) -> dict[str, Any]:
    """Count what is committed.

    Raises:
        DatasetError: A record is damaged.
    """
    records = read_commits(root)
    good = [record for record in records if record["status"] == "ok"]
    return {
        "name": read_attributes(root)["name"],
        "fingerprint": fingerprint(good),
        "episodes": len(good),
        "frames": sum(int(record["frames"]) for record in good),
        "steps": sum(int(record["length"]) for record in good),
        "rejected": sum(record["status"] == "rejected" for record in records),
        "failed": sum(record["status"] == "failed" for record in records),
        "mean_return": float(np.mean([record["return"] for record in good])) if good else 0.0,
        "finalized": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _write_index(root: Root, good: Sequence[Mapping[str, Any]]) -> None:
    store: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(store), zarr_format=3)
    scenarios = sorted({str(record["scenario"]) for record in good})
    lengths = np.array([record["length"] for record in good], dtype=np.int32)
    columns: dict[str, NDArray[Any]] = {
        "episode_part": np.array([record["part"] for record in good], dtype=np.int32),
        "episode_slot": np.array([record["slot"] for record in good], dtype=np.int32),
        "length": lengths,
        "episode_ends": np.cumsum(lengths, dtype=np.int64),
        "scenario_id": np.array([scenarios.index(record["scenario"]) for record in good], dtype=np.int32),
        "seed": np.array([record["seed"] for record in good], dtype=np.uint64),
        "success": np.array([bool(record["params"].get("success", False)) for record in good], dtype=np.bool_),
        "split": heldout(good).astype(np.uint8),
    }
    for name, values in columns.items():
        chunks = (max(len(values), 1),)
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, config={"write_empty_chunks": True})
        array[...] = values
    write_group(root / "index", store)
    texts = sorted({str(record["conditioning"]["text"]) for record in good})
    write_atomic(root / "index" / "scenarios.json", canonical_json(scenarios))
    write_atomic(root / "index" / "tasks.json", canonical_json(texts))
    write_atomic(root / "index" / "conditioning.json", canonical_json([record["conditioning"] for record in good]))


def _statistics(store: EpisodeReader) -> dict[str, Any]:
    columns: dict[str, list[NDArray[Any]]] = {FRAMES: [], ACTION: [], REWARD: [], STATE: []}
    for found in eagerly(store.path, lambda i: _columns(store[i]), range(len(store)), at_once=LARGE):
        for name, values in found.items():
            columns[name].append(values)
    joined = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
    return {name: _describe(values) for name, values in joined.items() if values.size}


def _columns(episode: Episode) -> dict[str, NDArray[Any]]:
    columns = {ACTION: episode.actions, REWARD: episode.rewards[:, None], STATE: episode.state}
    picked = episode.frames[:: -(-len(episode.frames) // _SAMPLE)]  # (n, H, W, 3)
    return {**columns, FRAMES: picked.reshape(len(picked), -1, 3).mean(axis=1) / 255} if picked.size else columns


def _describe(values: NDArray[Any]) -> dict[str, Any]:
    values = values.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    columns = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0), "q01": low, "q99": high}
    return {"count": len(values), **{name: [round(float(x), 9) for x in column] for name, column in columns.items()}}


def listed_files(root: Root) -> dict[str, int]:
    """Return the files that a manifest lists, and their bytes: all but the manifest and what is passing."""
    passing = (".tmp", ".partial", "MANIFEST.json")
    return {name: size for name, size in sizes(root).items() if not name.endswith(passing)}


def _files(root: Root) -> dict[str, Any]:
    names = list(listed_files(root))
    found = each(root, lambda name: digest(root / name), names, at_once=LARGE)
    return {name: {"size": size, "sha256": sha256} for name, (size, sha256) in zip(names, found, strict=True)}
