"""Make an episode again by its recorded recipe, and say whether it is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from worldsim.datasets.job import read_job
from worldsim.datasets.launch.here import one_thread
from worldsim.datasets.layout import DatasetError, canonical_json, commit_path, read_json
from worldsim.datasets.plan import Plan
from worldsim.datasets.provenance import provenance
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.storage import Root, place
from worldsim.datasets.work import Task, Worker
from worldsim.datasets.writer import episode_arrays
from worldsim.episode import Episode

_PROVENANCE = ("worldsim", "python", "gymnasium", "zarr", "numpy", "torch", "device", "host", "git")


@dataclass(frozen=True)
class Difference:
    """How far one stream is off: over the steps that both have, in the stream's own units.

    Attributes:
        maximum: Largest absolute difference.
        mean: Mean absolute difference.
        recorded: Its length in the dataset.
        made: Its length now.
    """

    maximum: float
    mean: float
    recorded: int
    made: int


@dataclass(frozen=True)
class Comparison:
    """An episode beside itself made again.

    Attributes:
        episode: Its number in the plan.
        equal: Whether every stream is equal bit by bit.
        streams: The streams that differ, and how far.
        provenance: What made it then and makes it now, where that differs: ``{name: (then, now)}``.
    """

    episode: int
    equal: bool
    streams: Mapping[str, Difference]
    provenance: Mapping[str, tuple[Any, Any]]


def regenerate(path: Root | str, episode: int, *, world: str | None = None, device: str | None = None) -> Comparison:
    """Roll out the group of an episode again, as the dataset's plan says, and compare the episode with what is stored.

    Args:
        path: The dataset; nothing in it is changed.
        episode: Number of the episode in the plan.
        world: Where the dataset's world is on this machine; None: as the plan names it.
        device: Where the world runs; None: as the plan says.

    Raises:
        ValueError: There is no such episode, it is not committed as ok, the dataset tells no recipe, or the world is not the recorded one.
    """
    root = place(path)
    plan, recipe = read_job(root, world=world, device=device)
    jobs = _group(plan, episode)
    reader = EpisodeReader(root, decode=False)
    index = next((i for i, record in enumerate(reader.records) if int(record["episode"]) == episode), None)
    if index is None:
        raise DatasetError(f"episode {episode} of {root} is not recorded as ok: there is nothing to compare with")
    worker = Worker(Task(str(root), recipe))
    try:
        with one_thread():
            made = worker.roll(jobs)[[job.id for job in jobs].index(episode)]
    finally:
        worker.close()
    return _compare(episode, reader[index], made, _record(root, plan, episode).get("made", {}))


def regenerate_command(cfg: Mapping[str, Any], *, console: Console | None = None) -> int:
    """Regenerate by ``configs/data_regenerate.yaml`` and say how it went.

    Args:
        cfg: Its keys.
        console: Where to say it; default: standard output.

    Returns:
        0 where the episode is bit-equal, else 1.

    Raises:
        ValueError: As ``regenerate``.
    """
    console = console or Console()
    told = regenerate(cfg["dataset"], int(cfg["episode"]), world=cfg.get("world"), device=cfg.get("device"))
    if cfg.get("json"):
        console.print(canonical_json(asdict(told)), soft_wrap=True, markup=False, highlight=False)
        return 0 if told.equal else 1
    lines = [f"episode {told.episode}: " + ("bit-equal" if told.equal else "not equal")]
    for name, off in told.streams.items():
        length = f", {off.recorded} steps recorded and {off.made} now" if off.recorded != off.made else ""
        lines.append(f"  {name}: at most {off.maximum:g} off, {off.mean:g} on average{length}")
    lines += [f"  {name} was {then!r}, is {now!r}" for name, (then, now) in told.provenance.items()]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return 0 if told.equal else 1


def _group(plan: Plan, episode: int) -> Any:
    plan.place(episode)
    return next(jobs for jobs in plan.groups() if jobs[0].id <= episode <= jobs[-1].id)


def _record(root: Root, plan: Plan, episode: int) -> dict[str, Any]:
    record: dict[str, Any] = read_json(commit_path(root, *plan.place(episode)))
    return record


def _compare(number: int, recorded: Episode, made: Episode, then: Mapping[str, Any]) -> Comparison:
    old, new = episode_arrays(recorded), episode_arrays(made)
    streams = {name: _difference(old[name], new[name]) for name in old if old[name].tobytes() != new[name].tobytes()}
    now = provenance()
    changed = {name: (then.get(name), now.get(name)) for name in _PROVENANCE if then and then.get(name) != now.get(name)}
    return Comparison(number, not streams, streams, changed)


def _difference(old: NDArray[Any], new: NDArray[Any]) -> Difference:
    common = min(len(old), len(new))
    off = np.abs(old[:common].astype(np.float64) - new[:common].astype(np.float64))
    return Difference(float(off.max(initial=0.0)), float(off.mean()) if off.size else 0.0, len(old), len(new))
