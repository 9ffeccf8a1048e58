"""Several datasets of one kind as one: parts are copied, plan and commits are told their new places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Any

from rich.console import Console

from worldsim.datasets.creation import write_attributes
from worldsim.datasets.finalize import finalize
from worldsim.datasets.layout import DatasetError, canonical_json, commit_path, part_name, write_atomic
from worldsim.datasets.lock import job_lock
from worldsim.datasets.objects import StorePath
from worldsim.datasets.places import slot_of
from worldsim.datasets.plan import Part, Plan
from worldsim.datasets.provenance import provenance
from worldsim.datasets.reader import read_attributes, read_commits
from worldsim.datasets.seal import seal
from worldsim.datasets.storage import LARGE, Root, building, copy, each, place, sizes
from worldsim.datasets.writer import read_plan, write_error

_SAME = ("frame_size", "fps", "action_space", "action_size", "action_dtype", "state_names", "licence", "latents", "labels")


@dataclass(frozen=True)
class _Source:
    """A dataset to merge, and where its parts and episodes begin in the merged one."""

    root: Root
    attributes: Mapping[str, Any]
    plan: Plan
    records: Sequence[Mapping[str, Any]]
    part: int
    episode: int

    @cached_property
    def streams(self) -> Mapping[tuple[int, int], frozenset[str]]:
        """Names of the arrays that each committed slot has."""
        return {(int(record["part"]), int(record["slot"])): frozenset(record["sha256"]) for record in self.records}


def merge_command(cfg: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Merge by ``configs/data_merge.yaml``.

    Args:
        cfg: Its keys.
        console: Where the result is told; default: standard output.

    Raises:
        ValueError: As ``merge``.
    """
    sources = cfg["from"]
    if isinstance(sources, str) or not isinstance(sources, Sequence):
        raise DatasetError(f"from={sources!r} must be a list of folders, as 'from=[A,B]'")
    told = merge(cfg["out"], [str(source) for source in sources])
    line = f"{cfg['out']}: {told['episodes']} episodes of {len(sources)} datasets, {told['frames']:,} frames"
    (console or Console()).print(line, soft_wrap=True, markup=False)


def merge(out: Root | str, sources: Sequence[Root | str]) -> dict[str, Any]:
    """Copy the committed episodes of several datasets into a new one.

    Their frames, rates, actions, states and licences must be the same. Episodes keep their seeds and scenarios; a scenario of another
    meaning by the same name is an error. The merged dataset tells no recipe of its own: its episodes are made again in their sources.

    Args:
        out: Folder to make.
        sources: At least two datasets, in the order their episodes get.

    Returns:
        What ``finalize`` returns.

    Raises:
        DatasetError: A source is no dataset, they do not fit together, ``out`` is there already, or the disk refuses;
            ``out`` is whole or absent.
    """
    root = place(out)
    if root.exists() or root.is_dir():
        raise DatasetError(f"{root} exists: choose another 'out', or remove it")
    given = _read_sources([place(source) for source in sources])
    try:
        with job_lock(root), building(root) as fresh:
            for source in given:
                _copy_parts(fresh, source)
            _write_head(fresh, given)
            return finalize(fresh)
    except OSError as error:
        raise write_error(root, error) from error


def _read_sources(paths: Sequence[Root]) -> list[_Source]:
    if len(paths) < 2:
        raise DatasetError(f"from={[str(path) for path in paths]} must name two datasets or more")
    if len({path.resolve() for path in paths}) < len(paths):
        raise DatasetError(f"from={[str(path) for path in paths]} names a dataset twice: its episodes would be there twice")
    sources: list[_Source] = []
    part = episode = 0
    for path in paths:
        source = _Source(path, read_attributes(path), read_plan(path), read_commits(path), part, episode)
        if sources:
            _check_fit(sources[0], source)
        sources.append(source)
        part, episode = part + len(source.plan.parts), episode + len(source.plan.jobs)
    _scenarios(sources)
    return sources


def _check_fit(first: _Source, other: _Source) -> None:
    pairs = {key: (first.attributes.get(key), other.attributes.get(key)) for key in _SAME}
    pairs["source.id"] = (first.attributes["source"].get("id"), other.attributes["source"].get("id"))
    if first.attributes.get("latents"):  # of one world, which decodes them all
        pairs["source.checkpoint"] = (first.attributes["source"].get("checkpoint"), other.attributes["source"].get("checkpoint"))
    for key, (mine, theirs) in pairs.items():
        if canonical_json(mine) != canonical_json(theirs):
            raise DatasetError(
                f"{other.root} does not fit {first.root}: {key} is {theirs!r} there and {mine!r} here; merge equal ones only"
            )


def _scenarios(sources: Sequence[_Source]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for source in sources:
        for name, about in source.plan.scenarios.items():
            if canonical_json(_meaning(merged.setdefault(name, about))) != canonical_json(_meaning(about)):
                raise DatasetError(f"scenario {name!r} is another one in {source.root} than in the datasets before it: they cannot be one")
    return merged


def _meaning(scenario: Any) -> Any:
    """Return a scenario without its number of episodes."""
    return {key: value for key, value in scenario.items() if key not in ("seeds", "count", "weight")}


def _write_head(fresh: Root, sources: Sequence[_Source]) -> None:
    jobs = [replace(job, id=source.episode + job.id) for source in sources for job in source.plan.jobs]
    parts = [Part(source.episode + part.first, part.count, part.horizon) for source in sources for part in source.plan.parts]
    plan = Plan(max(source.plan.batch for source in sources), _scenarios(sources), tuple(jobs), tuple(parts))
    first = sources[0].attributes
    origin = [
        {
            "plan_sha256": s.plan.sha256(),
            "source": s.attributes["source"],
            "root_seed": s.attributes["root_seed"],
            "episodes": len(s.plan.jobs),
        }
        for s in sources
    ]
    attributes = {**first, "generator": provenance(), "plan_sha256": plan.sha256(), "merged": origin}
    write_atomic(fresh / "plan.json", plan.text())
    write_attributes(fresh, attributes)


def _copy_parts(fresh: Root, source: _Source) -> None:
    """Copy what is committed: array descriptions and the files of committed slots, and nothing else that lies there."""
    for number in range(len(source.plan.parts)):
        (fresh / "commits" / part_name(source.part + number)).mkdir(parents=True)
        folder, target = (root / "parts" / part_name(n) for root, n in ((source.root, number), (fresh, source.part + number)))
        names = [name for name in sizes(folder) if _is_kept(source, number, name)]
        for name in {str(PurePosixPath(name).parent): None for name in names}:
            (target / name).mkdir(parents=True, exist_ok=True)
        each(fresh if isinstance(fresh, StorePath) else source.root, partial(_copy_file, folder, target), names, at_once=LARGE)
    each(fresh, partial(_move_record, fresh, source), source.records)


def _copy_file(folder: Root, target: Root, name: str) -> None:
    copy(folder / name, target / name)


def _is_kept(source: _Source, part: int, name: str) -> bool:
    """Whether a file of a part describes arrays, or holds a stream that the commit record of its slot tells of."""
    array, _, file = name.rpartition("/")
    place = slot_of(f"parts/{part_name(part)}/{name}")
    return file == "zarr.json" or (place is not None and array in source.streams.get(place, ()))


def _move_record(fresh: Root, source: _Source, record: Mapping[str, Any]) -> None:
    part, slot = source.part + int(record["part"]), int(record["slot"])
    moved = {**record, "episode": source.episode + int(record["episode"]), "part": part}
    write_atomic(commit_path(fresh, part, slot), canonical_json(seal(moved)))
