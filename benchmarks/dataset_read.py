"""How fast random clips are read, beside HDF5, Lance and MP4 with the same frames, and how fast a dataset of 10,000 episodes opens.

python benchmarks/dataset_read.py --rounds 12

Needs h5py and pylance for their rows; a format that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, describe, save, spread
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from worldsim.datasets.exports.encode import VideoFile
from worldsim.datasets.finalize import finalize
from worldsim.datasets.layout import canonical_json, commit_path, shard_path
from worldsim.datasets.plan import make_plan
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.seal import seal
from worldsim.datasets.torch_dataset import ClipDataset, clip_loader
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec, write_dataset
from worldsim.episode import Episode
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.rollout import EpisodeJob

CLIP = 16
STEPS = 255
Read = Callable[[int, int], NDArray[np.uint8]]


def scene(seed: int, side: int, noise: int) -> NDArray[np.uint8]:
    """A camera that glides over coarse random ground, with sensor noise: ``(STEPS + 1, side, side, 3)``."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
    frames = np.stack([ground[2 * t // 3 : 2 * t // 3 + side, t : t + side] for t in range(STEPS + 1)]).astype(np.int16)
    return (frames + rng.integers(-noise, noise + 1, frames.shape)).clip(0, 255).astype(np.uint8)


def episode(frames: NDArray[np.uint8], seed: int) -> Episode:
    steps = len(frames) - 1
    rng, flags = np.random.default_rng(seed), np.zeros(steps, np.bool_)
    actions = rng.uniform(-1, 1, (steps, 3)).astype(np.float32)
    return Episode(frames, actions, np.zeros(steps, np.float32), flags, flags, np.zeros((steps + 1, 4), np.float32), seed=seed)


# ---------------------------------------------------------------- the same frames in each format


def in_worldsim(root: Path, films: list[NDArray[np.uint8]]) -> Read:
    made = [episode(frames, i) for i, frames in enumerate(films)]
    names = ("a", "b", "c", "d")
    write_dataset(root, made, name="film", fps=10.0, action_space=spaces.Box(-1, 1, (3,)), state_names=names)
    reader = EpisodeReader(root)
    return lambda i, start: reader.frames(i, start, start + CLIP)


def in_worldsim_by_zarr(root: Path, _: list[NDArray[np.uint8]]) -> Read:
    """The same files, read by zarr-python."""
    import zarr

    array: Any = zarr.open_array(root.with_name("worldsim") / "parts/p00000/observation/images/main", mode="r")
    return lambda i, start: np.asarray(array[i, start : start + CLIP])


def in_hdf5(root: Path, films: list[NDArray[np.uint8]], compression: dict[str, Any]) -> Read:
    import h5py

    with h5py.File(root, "w") as file:
        for i, frames in enumerate(films):
            file.create_dataset(f"episode_{i}", data=frames, chunks=(8, *frames.shape[1:]), **compression)
    opened = h5py.File(root, "r")
    return lambda i, start: np.asarray(opened[f"episode_{i}"][start : start + CLIP])


def in_lance(root: Path, films: list[NDArray[np.uint8]], *, jpeg: bool) -> Read:
    import lance
    import pyarrow as pa

    shape = films[0].shape[1:]

    def cell(frame: NDArray[np.uint8]) -> bytes:
        if not jpeg:
            return frame.tobytes()
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    kind = pa.binary() if jpeg else pa.binary(int(np.prod(shape)))
    for i, frames in enumerate(films):
        rows = pa.table({"pixels": pa.array([cell(frame) for frame in frames], kind)})
        lance.write_dataset(rows, str(root), mode="create" if i == 0 else "append")
    data = lance.dataset(str(root))

    def read(i: int, start: int) -> NDArray[np.uint8]:
        first = i * (STEPS + 1) + start
        cells = data.take(list(range(first, first + CLIP)), columns=["pixels"])["pixels"].to_pylist()
        if jpeg:
            return np.stack([np.asarray(Image.open(io.BytesIO(cell))) for cell in cells])
        return np.frombuffer(b"".join(cells), np.uint8).reshape(CLIP, *shape)

    return read


def in_mp4(root: Path, films: list[NDArray[np.uint8]]) -> Read:
    import av

    root.mkdir()
    for i, frames in enumerate(films):
        with VideoFile(root / f"{i}.mp4", (frames.shape[1], frames.shape[2]), 10, lossless=False) as video:
            video.add(frames)

    def read(i: int, start: int) -> NDArray[np.uint8]:
        with av.open(str(root / f"{i}.mp4")) as container:
            stream = container.streams.video[0]
            container.seek(int((start / 10) / stream.time_base), stream=stream)
            taken: list[NDArray[Any]] = []
            for frame in container.decode(stream):
                if round(float(frame.time) * 10) >= start:
                    taken.append(frame.to_ndarray(format="rgb24"))
                if len(taken) == CLIP:
                    break
        return np.stack(taken)

    return read


FORMATS: dict[str, tuple[str | None, bool, Callable[[Path, list[NDArray[np.uint8]]], Read]]] = {
    "worldsim": (None, True, in_worldsim),
    "worldsim's files by zarr-python": (None, True, in_worldsim_by_zarr),
    "HDF5, gzip 1, checksums": (
        "h5py",
        True,
        lambda p, f: in_hdf5(p, f, {"compression": "gzip", "compression_opts": 1, "fletcher32": True}),
    ),
    "HDF5, uncompressed, no checksums": ("h5py", True, lambda p, f: in_hdf5(p, f, {})),
    "Lance, raw frames": ("lance", True, lambda p, f: in_lance(p, f, jpeg=False)),
    "Lance, JPEG 95 (lossy)": ("lance", False, lambda p, f: in_lance(p, f, jpeg=True)),
    "MP4, H.264 crf 18 g 2 (lossy)": (None, False, in_mp4),
}


def size_of(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size if path.exists() else 0


def measure_clips(folder: Path, *, side: int, noise: int, episodes: int, rounds: int, clips: int) -> dict[str, Any]:
    """Write all formats, then read the same random clips from each in turn, round after round; files are in the page cache."""
    films = [scene(i, side, noise) for i in range(episodes)]
    readers: dict[str, Read] = {}
    sizes: dict[str, float] = {}
    left_out = [name for name, (package, _, _) in FORMATS.items() if package and find_spec(package) is None]
    for number, (name, (_, _, make)) in enumerate(FORMATS.items()):
        if name not in left_out:
            path = folder / ("worldsim" if number == 0 else f"format{number}")
            readers[name] = make(path, films)
            sizes[name] = round(size_of(path) / 1e6, 1)
    rng = np.random.default_rng(0)
    wall: dict[str, list[float]] = {name: [] for name in readers}
    cpu: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        places = [(int(rng.integers(episodes)), int(rng.integers(STEPS + 2 - CLIP))) for _ in range(clips)]
        for name, read in readers.items():
            for i, start in places:
                began, worked = time.perf_counter(), time.process_time()
                frames = read(i, start)
                wall[name].append(1e3 * (time.perf_counter() - began))
                cpu[name].append(1e3 * (time.process_time() - worked))
                exact = FORMATS[name][1]
                assert not exact or np.array_equal(frames, films[i][start : start + CLIP]), name
    return {
        "left_out": left_out,
        "raw_mb": round(sum(f.nbytes for f in films) / 1e6, 1),
        "mb": sizes,
        "ms": {name: {**spread(values), "p95": round(float(np.quantile(values, 0.95)), 2)} for name, values in wall.items()},
        "cpu_ms": {name: spread(values) for name, values in cpu.items()},
        "per_second": {name: round(1e3 / statistics.mean(values), 1) for name, values in wall.items()},
        "aligned_ms": spread(_aligned(folder / "worldsim", clips * rounds)),
    }


def _aligned(root: Path, count: int) -> list[float]:
    """Milliseconds of a whole item of ``ClipDataset(align="chunk")``: frames, actions, rewards, flags, state, as tensors."""
    data = ClipDataset(root, frames=CLIP, align="chunk", split=None)
    taken = []
    for i in np.random.default_rng(1).integers(len(data), size=count).tolist():
        began = time.perf_counter()
        data[i]
        taken.append(1e3 * (time.perf_counter() - began))
    return taken


def measure_loader(root: Path, workers: int) -> float:
    """Clips a second of a shuffled loader, from its first batch to its last."""
    loader = clip_loader(ClipDataset(root, frames=CLIP, align="chunk", split=None), batch=8, workers=workers)
    batches = iter(loader)
    next(batches)
    began = time.perf_counter()
    return 8 * sum(1 for _ in batches) / (time.perf_counter() - began)


# ---------------------------------------------------------------- opening


def many(root: Path, count: int) -> None:
    """Make a finalized dataset of ``count`` tiny episodes: one written, the others linked to its files, each with its own record."""
    jobs = [EpisodeJob(i, i * 7919 + 1, 8, f"scenario {i % 7}", "dice") for i in range(count)]
    spec = make_spec(name="many", frame_size=(8, 8), fps=10.0, action_space=spaces.Box(-1, 1, (3,)), state_names=("x", "y"))
    plan = create_dataset(root, spec, make_plan(jobs))
    frames = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), dtype=np.uint8)
    one = Episode(frames, *_steps(8), np.zeros((9, 2), np.float32), seed=1, scenario="scenario 0", policy="dice")
    record = EpisodeWriter(root).write(jobs[0], one)
    dims = {
        name: 5 if name.startswith("observation/images") else 3 if name in ("action", "observation/state") else 2
        for name in record["sha256"]
    }
    for job in jobs[1:]:
        part, slot = plan.place(job.id)
        for name, axes in dims.items():
            os.link(shard_path(root, 0, name, 0, axes), shard_path(root, part, name, slot, axes))
        own = {"episode": job.id, "part": part, "slot": slot, "seed": job.seed, "scenario": job.scenario}
        commit_path(root, part, slot).write_text(canonical_json(seal({**record, **own})), encoding="utf-8")
    finalize(root)


def _steps(count: int) -> tuple[Any, Any, Any, Any]:
    flags = np.zeros(count, np.bool_)
    return np.zeros((count, 3), np.float32), np.zeros(count, np.float32), flags, flags


_OPEN = """
import json, sys, time
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.torch_dataset import ClipDataset
began, worked = time.perf_counter(), time.process_time()
reader = EpisodeReader(sys.argv[1])
opened, used = time.perf_counter() - began, time.process_time() - worked
count, name, held = len(reader), reader.info.fingerprint, len(reader.split("heldout"))
asked = time.perf_counter() - began
reader[count // 2]
first = time.perf_counter() - began
print(json.dumps([opened, used, asked, first, type(reader.records).__name__, count]))
"""


def measure_open(root: Path, rounds: int) -> dict[str, Any]:
    """Seconds, in a fresh process each, to open; by the index, and without it (interleaved)."""
    manifest, aside = root / "MANIFEST.json", root / "MANIFEST.aside"
    taken: dict[str, list[list[float]]] = {"index": [], "records": []}
    for _ in range(rounds):
        for how in taken:
            if how == "records":
                manifest.rename(aside)
            told = json.loads(subprocess.run([sys.executable, "-c", _OPEN, str(root)], check=True, capture_output=True, text=True).stdout)
            assert told[4] == {"index": "Records", "records": "list"}[how]
            taken[how].append(told[:4])
            if how == "records":
                aside.rename(manifest)
    names = ("open", "open_cpu", "and_fingerprint_and_split", "and_first_episode")
    return {how: {name: spread([one[i] for one in values], 3) for i, name in enumerate(names)} for how, values in taken.items()}


# ---------------------------------------------------------------- report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="pixels a side")
    parser.add_argument("--noise", type=int, default=6, help="sensor noise in steps of 255; makes frames hard to compress")
    parser.add_argument("--films", type=int, default=12, help="episodes of 256 frames")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--clips", type=int, default=12, help="clips a format and round")
    parser.add_argument("--episodes", type=int, default=10_000, help="episodes of the dataset that is opened")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS / "datasets")
    options = parser.parse_args()
    made = machine_facts()
    made["versions"] = {**made["versions"], **_versions()}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        clips = measure_clips(
            folder, side=options.side, noise=options.noise, episodes=options.films, rounds=options.rounds, clips=options.clips
        )
        clips["loader_per_second"] = round(measure_loader(folder / "worldsim", 0), 1)
        many(folder / "many", options.episodes)
        opened = measure_open(folder / "many", max(3, options.rounds // 2))
    made["load_at_end"] = [round(x, 2) for x in os.getloadavg()]
    settings = {key: getattr(options, key) for key in ("side", "noise", "films", "rounds", "clips", "episodes")}
    figures: dict[str, Any] = {"made": made, "settings": settings, "clips": clips, "open": opened}
    save("dataset_read", figures, _text(figures), options.out)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("zarr", "h5py", "pylance", "av"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _text(figures: dict[str, Any]) -> str:
    settings, clips, opened = figures["settings"], figures["clips"], figures["open"]
    ours = clips["per_second"]["worldsim"]
    rows = [
        [
            name,
            f"{clips['ms'][name]['median']:.2f}",
            f"{clips['ms'][name]['p95']:.2f}",
            f"{clips['cpu_ms'][name]['median']:.2f}",
            f"{clips['per_second'][name]:.0f}",
            f"{ours / clips['per_second'][name]:.2f}",
            f"{clips['mb'].get(name) or clips['mb']['worldsim']:.0f}",
        ]
        for name in clips["ms"]
    ]
    head = ["", "p50 ms", "p95 ms", "p50 ms of processor", "windows/s", "worldsim is faster by", "MB"]
    index, records = opened["index"], opened["records"]
    count, side = f"{settings['episodes']:,}", settings["side"]
    return "\n".join(
        [
            "# Reading datasets\n",
            f"{describe(figures['made'])}\n",
            f"## Random clips of {CLIP} frames of {side}×{side}\n",
            f"{settings['films']} episodes of {STEPS + 1} frames, synthetic with noise of ±{settings['noise']} in every pixel "
            f"({clips['raw_mb']:.0f} MB raw); unaligned starts, files in the page cache, one process. {settings['rounds']} interleaved "
            f"rounds of {settings['clips']} clips, the same for all; exact formats are compared with what was written.\n",
            table(head, rows),
            f"Bar: p50 of at most 5 ms. Left out, as not installed: {', '.join(clips['left_out']) or 'none'}.\n",
            f'A whole item of `ClipDataset(align="chunk")` (frames, actions, rewards, flags, state as tensors) takes '
            f"{clips['aligned_ms']['median']:.2f} ms at the median; a shuffled loader without workers gives "
            f"{clips['loader_per_second']:.0f} such clips/s in batches of 8.\n",
            f"## Opening {count} episodes\n",
            table(
                ["", "s", "s of processor", "with fingerprint and split", "with the first episode"],
                [
                    [name, *(f"{one[key]['median']:.2f}" for key in ("open", "open_cpu", "and_fingerprint_and_split", "and_first_episode"))]
                    for name, one in (("by the index", index), ("without it, all records", records))
                ],
            ),
            "Medians over fresh processes, interleaved; imports are not counted. Bar: under 1 s.\n",
        ]
    )


if __name__ == "__main__":
    main()
