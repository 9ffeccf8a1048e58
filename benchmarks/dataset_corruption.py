"""Whether damage to a dataset is found: random bit flips, truncations and deletions over every kind of file.

For each damage ``verify`` must name the file and the episodes, and reading must raise or give what was written: never other pixels.

python benchmarks/dataset_corruption.py --count 500
python benchmarks/dataset_corruption.py --every-bit
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, describe, save
from gymnasium import spaces

from worldsim.datasets.preview import contact_sheet, preview_video
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.units import Problem
from worldsim.datasets.verify import verify
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts

HOW = ("flip", "truncate", "delete")


@dataclass(frozen=True)
class Outcome:
    """What one damage led to.

    Attributes:
        file: The damaged file, relative to the dataset.
        kind: Its kind, as ``kind_of`` says.
        how: ``flip``, ``truncate`` or ``delete``.
        found: Whether ``verify`` names the file.
        named: Whether it names the episodes that need the file, the right one where it is one.
        problems: How many problems ``verify`` reported.
        read: ``raised``, ``same`` or ``wrong``: what reading every stream, whole and by clips, gave.
        detail: What was read wrong.
    """

    file: str
    kind: str
    how: str
    found: bool
    named: bool
    problems: int
    read: str
    detail: str = ""


def make_dataset(path: Path, *, episodes: int = 6, preview: bool = True) -> EpisodeReader:
    """Write a small dataset with every stream and every kind of file, one rejected episode included."""
    write_dataset(
        path,
        [_episode(i, status="rejected" if i == episodes - 1 else "ok") for i in range(episodes)],
        name="toy",
        fps=10.0,
        action_space=spaces.Box(-1, 1, (3,), np.float32),
        state_names=("x", "y"),
        licence="CC0-1.0",
    )
    if preview:
        from worldsim.datasets.finalize import finalize

        store = EpisodeReader(path)
        contact_sheet(store, path / "contact_sheet.png")
        preview_video(store, path / "preview.mp4")
        finalize(path)
    return EpisodeReader(path)


def _episode(seed: int, *, status: str) -> Episode:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(17, 40))
    return Episode(
        frames=rng.integers(0, 255, (steps + 1, 16, 24, 3), dtype=np.uint8),
        actions=rng.random((steps, 3)).astype(np.float32),
        rewards=rng.random(steps).astype(np.float32),
        terminated=np.zeros(steps, np.bool_),
        truncated=np.arange(steps) == steps - 1,
        state=rng.random((steps + 1, 2)).astype(np.float32),
        seed=seed,
        scenario=("calm", "wild")[seed % 2],
        policy="dice",
        status=status,
        reason="" if status == "ok" else "dark",
    )


def kind_of(file: str) -> str:
    """Return the kind of a file by its path inside the dataset."""
    top, _, rest = file.partition("/")
    if top == "parts":
        name = rest.partition("/")[2]
        return "array metadata" if name.endswith("zarr.json") else f"shards of {name.rpartition('/')[0]}"
    if top == "commits":
        return "commit records"
    if top == "index":
        return "index"
    return "previews" if file.endswith((".png", ".mp4")) else file


def damage(path: Path, how: str, rng: np.random.Generator) -> None:
    """Flip one bit, cut the file at a random place, or remove it."""
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(data[: int(rng.integers(len(data)))])
    else:
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)


Content = dict[int, dict[str, Any]]


def content_of(path: Path) -> Content:
    """Read every episode whole, by the number that it has in the plan."""
    store = EpisodeReader(path)
    out: Content = {}
    for i, record in enumerate(store.records):
        one = store[i]
        arrays = {"frames": one.frames, "actions": one.actions, "rewards": one.rewards, "state": one.state}
        out[int(record["episode"])] = {**arrays, "terminated": one.terminated, "truncated": one.truncated}
    return out


def read_damaged(path: Path, truth: Content, rng: np.random.Generator) -> tuple[str, str]:
    """Read everything of a damaged dataset: ``raised``, ``same`` or ``wrong``, and what was wrong.

    Every stream is read whole, with and without the reader's own comparison of hashes, and frames by every clip of 5, too.
    """
    outcome = "same"
    for check in (True, False):
        try:
            store = EpisodeReader(path, check=check)
            count = len(store)
        except ValueError:
            return "raised", ""
        for i in range(count):
            for read in (_whole, _clips):
                try:
                    wrong = read(store, i, truth, rng)
                except ValueError:
                    outcome = "raised"
                    continue
                if wrong:
                    return "wrong", f"{wrong}, check={check}"
    return outcome, ""


def _whole(store: EpisodeReader, i: int, truth: Content, rng: np.random.Generator) -> str:
    del rng
    one, told = store[i], truth.get(int(store.records[i]["episode"]))
    if told is None:
        return f"episode {store.records[i]['episode']} is read, which is none of the usable ones"
    for name, values in told.items():
        if not np.array_equal(getattr(one, name), values):
            return f"{name} of episode {store.records[i]['episode']}"
    return ""


def _clips(store: EpisodeReader, i: int, truth: Content, rng: np.random.Generator) -> str:
    episode = int(store.records[i]["episode"])
    if episode not in truth:
        return f"episode {episode} is read, which is none of the usable ones"
    frames = truth[episode]["frames"]
    raised: ValueError | None = None
    for start in rng.permutation(range(0, int(store.lengths()[i]) + 1 - 4, 3)):
        try:
            read = store.frames(i, int(start), int(start) + 5)
        except ValueError as error:
            raised = error
            continue
        if not np.array_equal(read, frames[start : start + 5]):
            return f"frames {start} to {start + 4} of episode {episode}"
    if raised is not None:
        raise raised
    return ""


def corrupt(path: Path, count: int, *, seed: int = 0, show: Callable[[str], None] = print) -> list[Outcome]:
    """Damage a dataset ``count`` times, each time restored: every kind of file in turn, in every way in turn."""
    rng = np.random.default_rng(seed)
    truth = content_of(path)
    kinds: dict[str, list[str]] = {}
    for file in sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()):
        if (path / file).stat().st_size:
            kinds.setdefault(kind_of(file), []).append(file)
    places = list(kinds)
    out = []
    for i in range(count):
        kind = places[i % len(places)]
        file = kinds[kind][int(rng.integers(len(kinds[kind])))]
        how = HOW[(i // len(places)) % len(HOW)]
        before = (path / file).read_bytes()
        damage(path / file, how, rng)
        try:
            out.append(_outcome(path, file, kind, how, truth, rng))
        finally:
            (path / file).write_bytes(before)
        if i % 50 == 49:
            show(f"{i + 1} of {count}: {sum(one.found for one in out)} found")
    assert not verify(path), "the dataset is as it was before"
    return out


def _outcome(path: Path, file: str, kind: str, how: str, truth: Content, rng: np.random.Generator) -> Outcome:
    problems = verify(path)
    own = next((problem for problem in problems if problem.file == file), None)
    read, detail = read_damaged(path, truth, rng)
    return Outcome(file, kind, how, own is not None, own is not None and _names(own, file), len(problems), read, detail)


def _names(problem: Problem, file: str) -> bool:
    """Whether a problem's line names the file, and the one episode that owns it where one does."""
    line = problem.line()
    if file.startswith("commits/") or "/c." in file:
        slot = int(file.rpartition("/")[2].removeprefix("c.").split(".")[0])
        return file in line and line.startswith(f"episode {slot}: ")
    return file in line and line.startswith(("all episodes: ", "episodes 0 to "))


EVERY_BIT = ("parts/p00000/observation/images/main/zarr.json", "commits/p00000/000001.json", "parts/p00000/action/c.1.0.0", "zarr.json")


def every_bit(path: Path, file: str, truth: Episode) -> Counter[str]:
    """Flip every single bit of a file in turn and read a clip of frames and all actions of episode 1, no hash compared."""
    before = (path / file).read_bytes()
    reads: Counter[str] = Counter()
    for place in range(len(before)):
        for bit in range(8):
            data = bytearray(before)
            data[place] ^= 1 << bit
            (path / file).write_bytes(data)
            reads[_read_one(path, truth)] += 1
    (path / file).write_bytes(before)
    return reads


def _read_one(path: Path, truth: Episode) -> str:
    try:
        store = EpisodeReader(path, check=False)
        if len(store) < 2:
            return "absent"
        frames, actions = store.frames(1, 3, 12), store[1].actions
    except ValueError:
        return "raised"
    same = np.array_equal(frames, truth.frames[3:12]) and np.array_equal(actions, truth.actions)
    return "same" if same else "wrong"


def run_every_bit(out: Path) -> None:
    """Measure ``every_bit`` over the files that say where and what the data is, in a dataset that is not finalized."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.worldsim"
        make_dataset(path, episodes=3, preview=False)
        (path / "MANIFEST.json").unlink()
        truth = EpisodeReader(path)[1]
        for file in EVERY_BIT:
            reads = every_bit(path, file, truth)
            rows[file] = {name: reads[name] for name in ("raised", "same", "absent", "wrong")}
            print(file, rows[file], flush=True)
    figures = {"made": machine_facts(), "files": rows}
    heads = ["file", "flips", "reading raised", "read as written", "episode absent", "read wrong"]
    lines = [[f"`{file}`", *map(str, (sum(row.values()), *row.values()))] for file, row in rows.items()]
    text = (
        f"# Every single bit of a file\n\n{describe(figures['made'])}\n\nEach bit flipped in turn, then nine frames and all actions of "
        f"the episode read, no hash of the whole compared; no manifest, so nothing but the files themselves tells.\n\n{table(heads, lines)}"
    )
    save("dataset_every_bit", figures, text, out)


def run_damages(count: int, seed: int, out: Path) -> None:
    """Measure ``corrupt`` over a finalized dataset with every kind of file."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder) / "toy.worldsim")
        outcomes = corrupt(Path(folder) / "toy.worldsim", count, seed=seed)
    rows = {}
    for kind in dict.fromkeys(one.kind for one in outcomes):
        own = [one for one in outcomes if one.kind == kind]
        reads = Counter(one.read for one in own)
        rows[kind] = {
            **{how: sum(one.how == how for one in own) for how in HOW},
            "found": sum(one.found for one in own),
            "named": sum(one.named for one in own),
            **{f"read_{name}": reads[name] for name in ("raised", "same", "wrong")},
        }
    figures: dict[str, Any] = {
        "made": machine_facts(),
        "seed": seed,
        "damages": len(outcomes),
        "found": sum(one.found for one in outcomes),
        "named": sum(one.named for one in outcomes),
        "wrong_reads": sum(one.read == "wrong" for one in outcomes),
        "seconds": round(time.monotonic() - started, 1),
        "kinds": rows,
        "missed": [vars(one) for one in outcomes if not one.named or one.read == "wrong"],
    }
    save("dataset_corruption", figures, _text(figures), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="damages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-bit", action="store_true", help="flip each bit of some small files instead, and only read")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.every_bit:
        run_every_bit(options.out)
    else:
        run_damages(options.count, options.seed, options.out)


def _text(figures: dict[str, Any]) -> str:
    heads = ["kind of file", "flips", "truncations", "deletions", "found", "named", "reading raised", "read as written", "read wrong"]
    rows = [[kind, *map(str, row.values())] for kind, row in figures["kinds"].items()]
    return "\n".join(
        [
            "# Damage to a dataset\n",
            f"{describe(figures['made'])}\n",
            f"{figures['damages']} random bit flips, truncations and deletions, one at a time: {figures['found']} found by "
            f"`worldsim data verify`, {figures['named']} of them with file and episodes named; {figures['wrong_reads']} led to a read "
            "of other values than those written. Every stream was read whole, with and without the comparison of hashes, and frames by "
            "clips of 5. Read as written are also damages to what is not read: the rejected episode, what is derived, and a lost "
            "commit record, which takes its episode out.\n",
            table(heads, rows),
        ]
    )


if __name__ == "__main__":
    main()
