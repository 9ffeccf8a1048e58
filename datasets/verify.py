"""Read all of a dataset again and say what is not as it was committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.datasets.finalize import summarize
from worldsim.datasets.layout import FRAMES, STATE, DatasetError, commit_path, read_json, sha256_text
from worldsim.datasets.plan import Plan, plan_from_json
from worldsim.datasets.reader import open_array, read_attributes, read_slot
from worldsim.datasets.seal import file_sha256


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: The file, relative to the dataset.
        episode: The episode it belongs to, or None.
        message: What is wrong and what to do.
    """

    file: str
    episode: int | None
    message: str


def verify(path: Path | str) -> list[Problem]:
    """Read everything again: each episode against its commit record, each file against the manifest where there is one.

    Returns:
        The problems; empty where every byte is as it was written.

    Raises:
        DatasetError: The folder is no dataset at all.
    """
    root = Path(path)
    if not root.is_dir():
        raise DatasetError(f"dataset {root} does not exist")
    found = [*_check_head(root), *_check_commits(root), *_check_manifest(root)]
    seen: set[str] = set()
    return [problem for problem in found if not (problem.file in seen or seen.add(problem.file))]  # type: ignore[func-returns-value]


def _check_head(root: Path) -> Iterator[Problem]:
    try:
        attributes = read_attributes(root)
    except DatasetError as error:
        yield Problem("zarr.json", None, str(error))
        return
    try:
        text = (root / "plan.json").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        yield Problem("plan.json", None, f"plan.json cannot be read: {error}")
        return
    if sha256_text(text) != attributes.get("plan_sha256"):
        yield Problem("plan.json", None, "plan.json is not the plan that zarr.json names: restore it from a copy of the dataset")


def _check_commits(root: Path) -> Iterator[Problem]:
    try:
        plan = plan_from_json(read_json(root / "plan.json"))
    except (DatasetError, KeyError, TypeError) as error:
        yield Problem("plan.json", None, f"plan.json is damaged: {error}")
        return
    for file in sorted((root / "commits").glob("p*/*.json")):
        name = file.relative_to(root).as_posix()
        try:
            record = read_json(file)
            if commit_path(root, *plan.place(int(record["episode"]))) != file or plan.jobs[record["episode"]].seed != record["seed"]:
                yield Problem(name, None, f"{file} belongs to another place of the plan: restore it from a copy of the dataset")
                continue
            yield from _check_episode(root, plan, record)
        except (DatasetError, KeyError, TypeError) as error:
            yield Problem(name, None, f"{file} is damaged: {error}")


def _check_episode(root: Path, plan: Plan, record: Mapping[str, Any]) -> Iterator[Problem]:
    part, slot = plan.place(record["episode"])
    for name in record["sha256"]:
        try:
            array = open_array(root, part, name)
            read_slot(root, array, record, name, 0, record["length"] + (name in (FRAMES, STATE)), check=True)
        except DatasetError as error:
            yield Problem(f"parts/p{part:05d}/{name} slot {slot}", record["episode"], str(error))


def _check_manifest(root: Path) -> Iterator[Problem]:
    if not (root / "MANIFEST.json").exists():
        return
    try:
        manifest = read_json(root / "MANIFEST.json")
        files, told = manifest["files"], {key: value for key, value in manifest.items() if key not in ("files", "finalized", "seal")}
    except (DatasetError, KeyError, TypeError) as error:
        yield Problem("MANIFEST.json", None, f"MANIFEST.json is damaged: {error}")
        return
    for name, entry in files.items():
        file = root / name
        if not file.exists():
            yield Problem(name, None, f"{file} is missing: restore it from a copy of the dataset")
        elif file.stat().st_size != entry["size"] or file_sha256(file) != entry["sha256"]:
            yield Problem(name, None, f"{file} is not what the manifest says: restore it from a copy of the dataset")
    try:
        actual = {key: value for key, value in summarize(root).items() if key != "finalized"}
    except (DatasetError, KeyError, TypeError):
        return  # the damaged file is reported above
    if actual != told:
        yield Problem("MANIFEST.json", None, "MANIFEST.json's counts or fingerprint are not those of the data: finalize the dataset again")
