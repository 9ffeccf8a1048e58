"""How fast random clips are read from an S3 server on this machine, beside the same dataset in a folder.

python benchmarks/dataset_store.py --rounds 6

Needs the extras ``s3`` and ``test``. The server, moto, is Python and shares the machine: it bounds what is measured, and a store
across a network adds its own delay to each round of requests.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, describe, interleave, save, spread
from dataset_read import CLIP, STEPS, episode, scene
from gymnasium import spaces

from worldsim.datasets.identity import dataset_hash
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.storage import place, write_bytes
from worldsim.datasets.torch_dataset import ClipDataset, clip_loader
from worldsim.datasets.writer import write_dataset
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from s3_server import make_bucket, serving


@contextmanager
def s3_server() -> Iterator[None]:
    """Serve an empty bucket ``s3://data``, and have this process and its children use it."""
    os.environ.update({"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"})
    with serving() as endpoint:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        make_bucket(endpoint, "data")
        yield


def clip_ms(reader: EpisodeReader, rng: np.random.Generator, clips: int) -> float:
    """Median milliseconds of a clip at a random place."""
    taken = []
    for _ in range(clips):
        i, start = int(rng.integers(len(reader))), int(rng.integers(STEPS + 1 - CLIP))
        began = time.perf_counter()
        reader.frames(i, start, start + CLIP)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e3


def loaded_clips_per_second(path: str, workers: int, clips: int, seed: int) -> float:
    """Clips a second, all streams, through ``clip_loader`` once its workers are up."""
    loader = iter(clip_loader(ClipDataset(path, frames=CLIP, split=None), batch=8, workers=workers, seed=seed))
    next(loader)
    began = time.perf_counter()
    for _ in range(clips // 8):
        next(loader)
    return clips // 8 * 8 / (time.perf_counter() - began)


def open_ms(path: str) -> float:
    began = time.perf_counter()
    EpisodeReader(path)
    return (time.perf_counter() - began) * 1e3


def measure(paths: dict[str, str], rounds: int, clips: int, workers: int) -> dict[str, dict[str, list[float]]]:
    """Take all figures of each place, in turn."""
    readers = {name: EpisodeReader(path) for name, path in paths.items()}
    taken: dict[str, dict[str, list[float]]] = {}
    kinds: dict[str, Callable[[str, str], Callable[[], float]]] = {
        "clip p50 ms": lambda name, _: lambda: clip_ms(readers[name], np.random.default_rng(0), clips),
        "open ms": lambda _, path: lambda: open_ms(path),
        "clips/s, 0 workers": lambda _, path: lambda: loaded_clips_per_second(path, 0, clips, 0),
        f"clips/s, {workers} workers": lambda _, path: lambda: loaded_clips_per_second(path, workers, clips, 0),
    }
    for kind, make in kinds.items():
        taken[kind] = interleave(rounds, {name: make(name, path) for name, path in paths.items()})
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "datasets")
    args = parser.parse_args()
    facts: dict[str, Any] = machine_facts()
    with tempfile.TemporaryDirectory() as folder, s3_server():
        paths = {"folder": f"{folder}/film", "loopback S3": "s3://data/film"}
        made = [episode(scene(i, args.side, 2), i) for i in range(args.episodes)]
        write_dataset(paths["folder"], made, name="film", fps=10.0, action_space=spaces.Box(-1, 1, (3,)), state_names=("a", "b", "c", "d"))
        copy_files(paths["folder"], paths["loopback S3"])
        assert dataset_hash(paths["folder"]) == dataset_hash(paths["loopback S3"])
        taken = measure(paths, args.rounds, args.clips, args.workers)
    facts["versions"] = {**facts["versions"], **{name: version(name) for name in ("zarr", "obstore", "moto")}}
    figures = {**facts, "side": args.side, "episodes": args.episodes, "rounds": args.rounds, "figures": summary(taken)}
    save("dataset_store", figures, report(figures), args.out)


def copy_files(source: str, target: str) -> None:
    """Copy a dataset as it is."""
    for file in sorted(Path(source).rglob("*")):
        if file.is_file():
            write_bytes(place(f"{target}/{file.relative_to(source).as_posix()}"), file.read_bytes())


def summary(taken: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Median and spread of every figure, and the median ratio of store to folder, round by round."""
    out: dict[str, dict[str, Any]] = {}
    for kind, values in taken.items():
        ratios = [store / folder for folder, store in zip(values["folder"], values["loopback S3"], strict=True)]
        out[kind] = {**{name: spread(numbers) for name, numbers in values.items()}, "ratio": spread(ratios)}
    return out


def said(value: dict[str, float]) -> str:
    return f"{value['median']:g} ({value['low']:g} to {value['high']:g})"


def report(figures: dict[str, Any]) -> str:
    rows = [[kind, *(said(value[name]) for name in ("folder", "loopback S3", "ratio"))] for kind, value in figures["figures"].items()]
    what = f"{CLIP} frames of {figures['side']} x {figures['side']} from {figures['episodes']} episodes of {STEPS + 1}"
    lines = [
        "# Clips from an object store",
        "",
        f"{what}; median, lowest and highest of {figures['rounds']} interleaved rounds. The S3 server (moto) is",
        "Python on the same machine and bounds what is read from it; a store across a network adds its own delay.",
        "",
        table(["figure", "folder", "loopback S3", "S3 : folder"], rows),
        "",
        describe(figures),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
