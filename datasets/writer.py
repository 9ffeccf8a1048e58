"""Write a dataset: one call makes the empty one, then any number of processes write whole episodes and commit each last."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from worldsim.datasets.creation import create_dataset as create_dataset
from worldsim.datasets.creation import write_error as write_error
from worldsim.datasets.identity import content
from worldsim.datasets.layout import (
    ACTION,
    ARRAYS,
    FRAMES,
    LATENTS,
    REWARD,
    SEGMENTATION,
    STATE,
    TERMINATED,
    TRUNCATED,
    DatasetError,
    DatasetSpec,
    LatentSpec,
    array_path,
    canonical_json,
    commit_path,
    read_json,
    sha256_array,
    sha256_text,
    shard_path,
    write_atomic,
)
from worldsim.datasets.objects import StorePath
from worldsim.datasets.plan import Plan, make_plan, plan_from_json
from worldsim.datasets.provenance import provenance
from worldsim.datasets.reader import read_attributes
from worldsim.datasets.seal import seal
from worldsim.datasets.shards import SlotLayout, slot_layout
from worldsim.datasets.storage import (
    Root,
    is_there,
    place,
    stamp,
    sync_folder,
    write_bytes,
)
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob
from worldsim.spaces import is_integer, row_size, space_to_json


def make_spec(
    *,
    name: str,
    frame_size: tuple[int, int],
    fps: float,
    action_space: Space[Any],
    state_names: Sequence[str] = (),
    source: Mapping[str, Any] | None = None,
    licence: str = "unknown",
    root_seed: int = 0,
    latents: LatentSpec | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> DatasetSpec:
    """Describe a dataset by its Gymnasium action space; see ``DatasetSpec`` for the fields."""
    return DatasetSpec(
        name=name,
        frame_size=(int(frame_size[0]), int(frame_size[1])),
        fps=float(fps),
        action_space=space_to_json(action_space),
        action_size=row_size(action_space),
        action_dtype="int64" if is_integer(action_space) else "float32",
        state_names=tuple(state_names),
        source=dict(source or {}),
        licence=licence,
        root_seed=root_seed,
        generator=provenance(),
        latents=latents,
        labels={name: list(classes) for name, classes in labels.items()} if labels else None,
    )


class EpisodeWriter:
    """Writes episodes into the slots that the plan gives them; one for each process, for one thread at a time.

    Args:
        path: A dataset that ``create_dataset`` made.

    Raises:
        DatasetError: The folder is no dataset, or its plan is not the one that it names.
    """

    def __init__(self, path: Root | str) -> None:
        self.root = place(path)
        self.plan = read_plan(self.root)
        attributes: dict[str, Any] = read_json(self.root / "zarr.json")["attributes"]["worldsim"]
        world = (attributes.get("source") or {}).get("checkpoint") or {}
        self._made = {**provenance(), "plan": self.plan.sha256(), "world": world.get("sha256", ""), "licence": attributes["licence"]}
        self._stamp = stamp(self.root / "plan.json")
        self._layouts: dict[tuple[int, str], SlotLayout] = {}
        self._disk = ThreadPoolExecutor(len(ARRAYS), "disk")  # which syncs several files in the time of one

    def is_done(self, episode: int, *, attempts: int | None = None) -> bool:
        """Whether the episode is committed already; one that failed is not done until it was tried ``attempts`` times."""
        return self._is_kept(commit_path(self.root, *self.plan.place(episode)), attempts)

    def _is_kept(self, path: Root, attempts: int | None = None) -> bool:
        if not path.exists():
            return False
        record = read_json(path)
        return bool(record["status"] != "failed" or (attempts is not None and record["attempt"] >= attempts))

    def write(self, job: EpisodeJob, episode: Episode, *, seconds: float = 0.0) -> dict[str, Any]:
        """Write all of an episode, then commit it.

        Args:
            job: The plan's entry that the episode was recorded for.
            episode: At most ``job.horizon`` steps.
            seconds: How long it took to make.

        Returns:
            The commit record.

        Raises:
            DatasetError: The disk refuses, or the plan has changed since the writer was made.
        """
        arrays = episode_arrays(episode)
        part, slot = self.plan.place(job.id)
        try:
            self._check_plan()
            written = [self._disk.submit(self._write_array, part, slot, name, values) for name, values in arrays.items()]
            wait(written)  # none goes on behind the back of an error
            hashes = {name: one.result() for name, one in zip(arrays, written, strict=True)}
            return self._commit(job, _record(job, episode, seconds), hashes)
        except OSError as error:
            raise write_error(self.root, error) from error

    def fail(self, job: EpisodeJob, reason: str, *, seconds: float = 0.0) -> dict[str, Any]:
        """Commit that an episode could not be made; it has no frames.

        Raises:
            DatasetError: As ``write``.
        """
        told = {"length": 0, "frames": 0, "return": 0.0, "status": "failed", "reason": reason, "seed": job.seed, "policy": job.policy}
        record = {**told, "scenario": job.scenario, "conditioning": job.conditioning.to_json(), "params": dict(job.params)}
        try:
            self._check_plan()
            return self._commit(job, {"episode": job.id, **record, **_volatile(seconds)}, {})
        except OSError as error:
            raise write_error(self.root, error) from error

    def _commit(self, job: EpisodeJob, told: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
        part, slot = self.plan.place(job.id)
        path = commit_path(self.root, part, slot)
        known = stamp(path) if path.exists() else None
        before: dict[str, Any] = {"attempt": 0, "status": "failed"} if known is None else read_json(path)
        about = {
            **told,
            "part": part,
            "slot": slot,
            "sha256": dict(hashes),
            "scenario_sha256": sha256_text(canonical_json(self.plan.scenarios.get(job.scenario, {}))),
            "attempt": 1 + before["attempt"],
            "made": self._made,
        }
        record = seal(about)
        if not isinstance(path, StorePath):  # a folder is held by one job
            write_atomic(path, canonical_json(record))
        elif before["status"] != "failed" or path.put_over(canonical_json(record).encode(), known) is None:
            return self._same(path, record)
        return record

    def _same(self, path: Root, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record that another worker committed before this one, where it tells of the same episode."""
        there: dict[str, Any] = read_json(path)
        if content(there) != content(record):
            raise DatasetError(
                f"episode {record['episode']}: {path} was committed by another worker (process {there['worker']}) with other content; "
                "that one is kept: record a dataset on machines of one kind"
            )
        return there

    def _check_plan(self) -> None:
        path = self.root / "plan.json"
        if stamp(path) == self._stamp:
            return
        if sha256_text(path.read_text(encoding="utf-8")) != self._made["plan"]:
            raise DatasetError(f"{path} was changed while a job ran by it: what was committed is kept; run the same command again")
        self._stamp = stamp(path)

    def _write_array(self, part: int, slot: int, name: str, values: NDArray[Any]) -> str:
        """Write one array of an episode, all the way to the disk, and return its hash.

        The file's bytes are made in memory: nothing of a former attempt is read, and the file appears whole.
        """
        layout = self._layout(part, name)
        file = shard_path(self.root, part, name, slot, 2 + len(layout.row))
        values = values.astype(layout.dtype, copy=False)
        if not len(values):
            file.unlink(missing_ok=True)
            sync_folder(file.parent)
        elif not is_there(file, data := layout.encode(values), keep=lambda: self._is_kept(commit_path(self.root, part, slot))):
            write_bytes(file, data)
        return sha256_array(values)

    def _layout(self, part: int, name: str) -> SlotLayout:
        if (part, name) not in self._layouts:
            file = array_path(self.root, part, name) / "zarr.json"
            layout = slot_layout(read_json(file))
            if layout is None:
                raise DatasetError(f"{file} is not as this release writes arrays: go on with the release that made the dataset")
            self._layouts[part, name] = layout
        return self._layouts[part, name]


def read_plan(root: Root) -> Plan:
    """Read the plan of a dataset.

    Raises:
        DatasetError: There is none, it is damaged, or it is not the one that ``zarr.json`` names.
    """
    text = canonical_json(read_json(root / "plan.json"))
    told = read_attributes(root).get("plan_sha256")
    if sha256_text(text) != told:
        raise DatasetError(f"{root / 'plan.json'} is not the plan that {root / 'zarr.json'} names: restore it from a copy of the dataset")
    try:
        return plan_from_json(read_json(root / "plan.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{root / 'plan.json'} is damaged ({error}): restore it from a copy of the dataset") from error


def write_dataset(path: Root | str, episodes: Sequence[Episode], **description: Any) -> None:
    """Write ready episodes as a dataset, in one go.

    Args:
        path: Folder to make.
        episodes: At least one.
        description: The keywords of ``make_spec`` except ``frame_size``.

    Raises:
        DatasetError: The folder holds something else, or cannot be written.
    """
    from worldsim.datasets.finalize import finalize

    jobs = [EpisodeJob(i, e.seed, max(len(e), 1), e.scenario, e.policy, params=e.params) for i, e in enumerate(episodes)]
    height, width = episodes[0].frames.shape[1:3]
    create_dataset(path, make_spec(frame_size=(height, width), **description), make_plan(jobs))
    writer = EpisodeWriter(path)
    for job, episode in zip(jobs, episodes, strict=True):
        writer.write(job, episode)
    finalize(path)


def episode_arrays(episode: Episode) -> dict[str, NDArray[Any]]:
    """Return an episode's arrays by their names on disk."""
    arrays: dict[str, NDArray[Any]] = {
        ACTION: episode.actions,
        REWARD: episode.rewards,
        TERMINATED: episode.terminated,
        TRUNCATED: episode.truncated,
    }
    if episode.frames.shape[1]:
        arrays = {FRAMES: episode.frames, **arrays}
    if episode.latents is not None:
        arrays[LATENTS] = episode.latents
    if "segmentation" in episode.labels:
        arrays[SEGMENTATION] = episode.labels["segmentation"]
    return {**arrays, STATE: episode.state} if episode.state.shape[1] else arrays


def _record(job: EpisodeJob, episode: Episode, seconds: float) -> dict[str, Any]:
    return {
        "episode": job.id,
        "length": len(episode),
        "frames": len(episode.frames),
        "status": episode.status,
        "reason": episode.reason,
        "seed": episode.seed,
        "scenario": episode.scenario,
        "policy": episode.policy,
        "return": float(episode.rewards[np.isfinite(episode.rewards)].sum()),
        "conditioning": episode.conditioning.to_json(),
        "params": dict(episode.params),
        **_volatile(seconds),
    }


def _volatile(seconds: float) -> dict[str, Any]:
    """What tells of the making and differs from run to run; see ``worldsim.datasets.identity``."""
    now = time.time()
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - seconds))
    return {"worker": os.getpid(), "started": started, "seconds": round(seconds, 3), "committed": round(now, 3)}
