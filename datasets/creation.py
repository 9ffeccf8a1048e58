"""Make an empty dataset, or add parts to one: everything but the episodes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from worldsim.datasets.layout import (
    FORMAT,
    ArraySpec,
    DatasetError,
    DatasetSpec,
    arrays_of,
    canonical_json,
    part_name,
    read_json,
    write_atomic,
)
from worldsim.datasets.objects import StorePath
from worldsim.datasets.plan import Plan, plan_from_json
from worldsim.datasets.storage import Root, building, place, write_bytes, write_group


def create_dataset(path: Root | str, spec: DatasetSpec, plan: Plan) -> Plan:
    """Make an empty dataset; where there is one whose episodes begin as the plan's do, add what it lacks as new parts.

    Returns:
        The plan's episodes in the places that they have in this dataset.

    Raises:
        DatasetError: The folder holds something else, or cannot be written.
    """
    root = place(path)
    try:
        if _occupied(root):
            return _continue_dataset(root, spec, plan)
        with building(root) as fresh:
            _create_parts(fresh, spec, plan, range(len(plan.parts)))
            write_atomic(fresh / "plan.json", plan.text())
            write_attributes(fresh, _attributes(spec, plan))
    except OSError as error:
        raise write_error(root, error) from error
    return plan


def _occupied(root: Root) -> bool:
    """Whether there is something; what a process that died left of a dataset that it made in a store is not."""
    if isinstance(root, StorePath):
        begun = ("plan.json", "parts/")  # zarr.json comes last
        return (root / "zarr.json").exists() or not all(name.startswith(begun) for name in root.sizes())
    return root.exists() and any(root.iterdir())


def write_attributes(root: Root, attributes: Mapping[str, Any]) -> None:
    """Write a dataset's ``zarr.json``, by which it is one."""
    store: dict[str, Any] = {}
    zarr.create_group(MemoryStore(store), zarr_format=3, attributes={"worldsim": dict(attributes)})
    write_bytes(root / "zarr.json", store["zarr.json"].to_bytes())


def write_error(root: Root, error: OSError) -> DatasetError:
    """Say in one sentence that a dataset cannot be written, why, and what to do."""
    why = error.strerror or str(error)
    return DatasetError(
        f"cannot write to dataset {root}: {why}; free space or choose another 'out'. "
        "Committed episodes are kept, the same command goes on from there"
    )


def _attributes(spec: DatasetSpec, plan: Plan) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**_identity(spec), "format": FORMAT, "version": spec.version, "plan_sha256": plan.sha256(), "created": created}


def _identity(spec: DatasetSpec) -> dict[str, Any]:
    fields = asdict(spec)
    return {**fields, "frame_size": list(spec.frame_size), "state_names": list(spec.state_names)}


def _continue_dataset(root: Root, spec: DatasetSpec, plan: Plan) -> Plan:
    way_out = "choose another 'out', or remove that folder"
    if not (root / "plan.json").exists():
        raise DatasetError(f"{root} exists and is no worldsim dataset: {way_out}")
    there = plan_from_json(read_json(root / "plan.json"))
    old: dict[str, Any] = read_json(root / "zarr.json")["attributes"]["worldsim"]
    told = {key: value for key, value in _identity(spec).items() if key != "generator"}
    changed = [key for key, value in told.items() if canonical_json(old.get(key)) != canonical_json(value)]
    common = min(len(there.jobs), len(plan.jobs))
    if changed or not there.same_episodes(plan, common):
        raise DatasetError(f"{root} holds a dataset of another plan (different: {', '.join(changed) or 'episodes'}): {way_out}")
    if len(plan.jobs) <= common:
        if old.get("plan_sha256") != there.sha256():
            _name_plan(root, there)  # a process died between the plan and its name
        return there.cut(common)
    longer = there.extended(plan.jobs[common:])
    _create_parts(root, spec, longer, range(len(there.parts), len(longer.parts)))
    write_atomic(root / "plan.json", longer.text())
    _name_plan(root, longer)
    return longer


def _name_plan(root: Root, plan: Plan) -> None:
    about = read_json(root / "zarr.json")
    about["attributes"]["worldsim"]["plan_sha256"] = plan.sha256()
    write_atomic(root / "zarr.json", json.dumps(about, indent=2))


def _create_parts(root: Root, spec: DatasetSpec, plan: Plan, numbers: Sequence[int]) -> None:
    """Make empty parts, their metadata one file after another; what a process that died left of one is swept away."""
    for number in numbers:
        part, folder = plan.parts[number], root / "parts" / part_name(number)
        (root / "commits" / part_name(number)).mkdir(parents=True, exist_ok=True)
        store: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(store), zarr_format=3)
        for array in arrays_of(spec, part.horizon):
            _create_array(group, array, part.count)
        write_group(folder, store)


def _create_array(group: zarr.Group, spec: ArraySpec, slots: int) -> None:
    rest = spec.shape[1:]
    group.create_array(
        spec.name,
        shape=(slots, *spec.shape),
        dtype=spec.dtype,
        chunks=(1, spec.chunk, *rest),
        shards=None if spec.shard is None else (1, spec.shard, *rest),
        compressors=(ZstdCodec(level=1), Crc32cCodec()),
        chunk_key_encoding={"name": "default", "separator": "."},
        fill_value=0,
        dimension_names=("episode", "time", *(f"axis{i}" for i in range(len(rest)))),
    )
