"""Read all of a dataset again and name every file that is not as it was written: ``worldsim data verify``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from worldsim.datasets.expect import expected_arrays
from worldsim.datasets.finalize import listed_files, summarize
from worldsim.datasets.layout import (
    ArraySpec,
    DatasetError,
    array_path,
    canonical_json,
    commit_path,
    part_name,
    read_json,
    sha256_text,
)
from worldsim.datasets.objects import StoreError
from worldsim.datasets.places import Places, slot_of
from worldsim.datasets.plan import Plan, plan_from_json
from worldsim.datasets.reader import COMMIT, open_array, read_attributes
from worldsim.datasets.seal import check_seal, file_sha256
from worldsim.datasets.storage import Root, each, name_in, place, sizes
from worldsim.datasets.units import RESTORE, Frame, Problem, Unit, run

MANIFEST = "MANIFEST.json"
_AGAIN = "finalize the dataset again"


def main(cfg: DictConfig) -> int:
    """Verify by a composed ``configs/data_verify.yaml``; see there for the keys.

    Returns:
        0 where every file is as it was written, else 1.

    Raises:
        ValueError: The folder is no dataset at all, or ``workers`` is below 1.
    """
    root, workers = place(str(cfg["dataset"])), cfg.get("workers")
    console = Console()
    quiet = bool(cfg.get("json"))
    found = verify(root, workers=int(workers or os.cpu_count() or 1), console=None if quiet else console)
    if quiet:
        print(json.dumps([asdict(problem) for problem in found]))
        return int(bool(found))
    for problem in found:
        console.print(problem.line(), soft_wrap=True, markup=False, highlight=False)
    files = listed_files(root)
    size = sum(files.values()) / 1e6
    told = "all as they were written" if not found else f"{len(found)} problem{'s' * (len(found) > 1)} found"
    finalized = "" if (root / MANIFEST).exists() else "; not finalized, so only episodes and their arrays were checked"
    console.print(f"{root}: {len(files):,} files, {size:,.1f} MB: {told}{finalized}", soft_wrap=True, markup=False, highlight=False)
    return int(bool(found))


def verify(path: Root | str, *, workers: int = 1, console: Console | None = None) -> list[Problem]:
    """Read everything again: each episode against its commit record, each file against the manifest where there is one.

    Works on a dataset that is not finalized, too: then what is derived is not looked at.

    Args:
        path: Folder of the dataset.
        workers: Processes; 1 reads in this one.
        console: Where progress is shown; None shows nothing.

    Returns:
        The problems, at most one a file; empty where every byte is as it was written.

    Raises:
        DatasetError: The folder is no dataset at all, or ``workers`` is below 1.
    """
    root = place(path)
    if not root.is_dir():
        raise DatasetError(f"dataset {root} does not exist")
    if workers < 1:
        raise DatasetError(f"workers={workers} must be 1 or more")
    found = list(_check(root, workers, console))
    seen: set[str] = set()
    return [problem for problem in found if not (problem.file in seen or seen.add(problem.file))]  # type: ignore[func-returns-value]


# ---------------------------------------------------------------- the whole


def _check(root: Root, workers: int, console: Console | None) -> Iterator[Problem]:
    attributes, plan, problems = _head(root)
    told, more = _manifest(root)
    problems += more
    if told is not None and plan is not None and _is_stale(root, told):
        problems.append(Problem(MANIFEST, None, f"{root / MANIFEST} is older than the plan: {_AGAIN}", kind="stale"))
        told = None
    records, more = _commits(root, plan)
    problems += more
    names = frozenset(name for record in records.values() for name in record["sha256"])
    places = Places.of(plan, names) if plan else Places({(r["part"], r["slot"]): r["episode"] for r in records.values()}, names)
    frame = Frame(root, told, places)
    bad = {problem.file for problem in problems}
    if attributes is not None and plan is not None:
        problems += [problem for problem in _array_heads(root, attributes, plan, places) if problem.file not in bad]
    skip = frozenset(str(PurePosixPath(problem.file).parent) for problem in problems if problem.file.endswith("/zarr.json"))
    files = _files(root, told, records)
    yield from _extra(frame, files)
    yield from run(frame, _units(files, records, skip), workers, console)
    yield from ({**{p.file: p for p in problems}}.values())
    if told is not None and not problems:
        yield from _totals(root)


def _head(root: Root) -> tuple[dict[str, Any] | None, Plan | None, list[Problem]]:
    """Read attributes and plan; None for one that cannot be trusted."""
    problems: list[Problem] = []
    attributes: dict[str, Any] | None = None
    try:
        attributes = read_attributes(root)
    except DatasetError as error:
        problems.append(Problem("zarr.json", None, str(error)))
    try:
        text = (root / "plan.json").read_text(encoding="utf-8")
        plan = plan_from_json(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return attributes, None, [*problems, Problem("plan.json", None, f"{root / 'plan.json'} cannot be read ({error}): {RESTORE}")]
    if attributes is not None and sha256_text(text) != attributes.get("plan_sha256"):
        message = f"{root / 'plan.json'} is not the plan that zarr.json names: {RESTORE}"
        return attributes, None, [*problems, Problem("plan.json", None, message)]
    return attributes, plan, problems


def _manifest(root: Root) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Read the manifest's files; None where there is no manifest or it cannot be trusted."""
    file = root / MANIFEST
    if not file.exists():
        done = (root / "index" / "zarr.json").exists() or (root / "croissant.json").exists()
        return None, [Problem(MANIFEST, None, f"{file} is missing: {_AGAIN}", kind="missing")] if done else []
    try:
        return _parse_manifest(file), []
    except DatasetError as error:
        return None, [Problem(MANIFEST, None, str(error))]


def _parse_manifest(file: Root) -> dict[str, Any]:
    manifest = _read_sealed(file)
    try:
        told = {str(name): {"size": int(entry["size"]), "sha256": str(entry["sha256"])} for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{file} is damaged ({error}): {_AGAIN}") from error
    if outside := [name for name in told if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise DatasetError(f"{file} names {outside[0]!r}, which is not inside the dataset: {_AGAIN}")
    return told


def _read_sealed(file: Root) -> dict[str, Any]:
    """Read a record that is written in canonical JSON and sealed."""
    record = read_json(file)
    if not isinstance(record, dict):
        raise DatasetError(f"{file} is damaged: it is no record; {RESTORE}")
    try:
        check_seal(record, file)
        same = canonical_json(record) == file.read_text(encoding="utf-8")
    except StoreError:
        raise
    except ValueError as error:
        raise DatasetError(f"{file} is damaged ({error}): {RESTORE}") from error
    if not same:
        raise DatasetError(f"{file} is not what was written: {RESTORE}")
    return record


def _is_stale(root: Root, told: Mapping[str, Any]) -> bool:
    """Whether the plan is another one than the manifest's, though attributes and plan agree: episodes were added since."""
    return "plan.json" in told and told["plan.json"]["sha256"] != file_sha256(root / "plan.json")


def _commits(root: Root, plan: Plan | None) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Read the commit records by file; those that cannot be trusted are problems."""
    records: dict[str, dict[str, Any]] = {}
    problems = []
    names = [f"commits/{name}" for name in sizes(root / "commits") if COMMIT.fullmatch(name)]
    for name, found in zip(names, each(root, lambda name: _read_commit(root, root / name, plan), names), strict=True):
        if isinstance(found, DatasetError):
            episode, affects = _owner(plan, name)
            problems.append(Problem(name, episode, str(found), affects))
        else:
            records[name] = found
    return records, problems


def _read_commit(root: Root, file: Root, plan: Plan | None) -> dict[str, Any] | DatasetError:
    """Read a commit record, or say what is wrong with it."""
    try:
        return _checked_commit(root, file, plan)
    except DatasetError as error:
        return error


def _checked_commit(root: Root, file: Root, plan: Plan | None) -> dict[str, Any]:
    record = _read_sealed(file)
    try:
        place = int(record["part"]), int(record["slot"])
        fits = commit_path(root, *place) == file and (plan is None or _fits(plan, record, place))
        whole = isinstance(record["sha256"], dict) and isinstance(record["length"], int) and isinstance(record["status"], str)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{file} is damaged ({error!r}): {RESTORE}") from error
    if not fits or not whole:
        raise DatasetError(f"{file} belongs to another place of the plan, or is damaged: {RESTORE}")
    return record


def _owner(plan: Plan | None, name: str) -> tuple[int | None, str]:
    places = Places.of(plan, frozenset()) if plan else Places({}, frozenset())
    return places.episode(name), places.affects(name)


def _fits(plan: Plan, record: Mapping[str, Any], place: tuple[int, int]) -> bool:
    episode = int(record["episode"])
    return 0 <= episode < len(plan.jobs) and plan.place(episode) == place and plan.jobs[episode].seed == record["seed"]


def _array_heads(root: Root, attributes: Mapping[str, Any], plan: Plan, places: Places) -> Iterator[Problem]:
    """Compare the metadata of every array with what attributes and plan make it."""
    for number, part in enumerate(plan.parts):
        try:
            specs = expected_arrays(attributes, part.horizon)
        except DatasetError as error:
            yield Problem("zarr.json", None, f"{root / 'zarr.json'} is damaged: {error}")
            return
        for spec in specs:
            file = array_path(root, number, spec.name) / "zarr.json"
            try:
                _check_array(root, number, spec, part.count)
            except DatasetError as error:
                name = name_in(root, file)
                yield Problem(name, None, str(error), places.affects(name), "altered" if file.exists() else "missing")


def _check_array(root: Root, part: int, spec: ArraySpec, slots: int) -> None:
    open_array(root, part, spec.name)
    file = array_path(root, part, spec.name) / "zarr.json"
    about = read_json(file)
    if about.get("shape") != [slots, *spec.shape] or about.get("data_type") != spec.dtype:
        raise DatasetError(f"{file} is damaged: its shape or type is not that of the plan; {RESTORE}")


def _files(root: Root, told: Mapping[str, Any] | None, records: Mapping[str, Any]) -> list[str]:
    """All files that are there or should be."""
    return sorted(set(listed_files(root)) | set(told or ()) | set(records))


def _extra(frame: Frame, files: Sequence[str]) -> Iterator[Problem]:
    for name in files:
        unknown = name not in frame.told if frame.told is not None else not frame.places.belongs(name)
        if unknown:
            where = "the manifest does not list it" if frame.told is not None else "no place of the plan has it"
            message = f"{frame.root / name} is not part of the dataset: {where}; move it away, or {_AGAIN}"
            yield Problem(name, frame.places.episode(name), message, frame.places.affects(name), "extra")


def _units(files: Sequence[str], records: Mapping[str, dict[str, Any]], skip: frozenset[str]) -> list[Unit]:
    """Put each episode's files together, its commit record first; every other file is alone."""
    shards: dict[tuple[int, int], list[str]] = {}
    for name in files:
        if (place := slot_of(name)) and name.startswith("parts/"):
            shards.setdefault(place, []).append(name)
    units = [Unit((name, *shards.pop(slot_of(name) or (-1, -1), [])), _without(record, skip)) for name, record in records.items()]
    own = {name for unit in units for name in unit.files}
    return units + [Unit((name,)) for name in files if name not in own and name != MANIFEST]


def _without(record: Mapping[str, Any], skip: frozenset[str]) -> dict[str, Any]:
    """Leave out the arrays whose metadata is damaged: they cannot be decoded, and are reported already."""
    base = f"parts/{part_name(int(record['part']))}/"
    return {**record, "sha256": {name: value for name, value in record["sha256"].items() if base + name not in skip}}


def _totals(root: Root) -> Iterator[Problem]:
    try:
        manifest = read_json(root / MANIFEST)
        actual = summarize(root)
    except (DatasetError, KeyError, TypeError):
        return  # the damaged file is reported above
    if any(manifest.get(key) != value for key, value in actual.items() if key != "finalized"):
        yield Problem(MANIFEST, None, f"{root / MANIFEST}: counts or fingerprint are not those of the data: {_AGAIN}", kind="stale")
