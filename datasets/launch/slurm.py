"""Run groups in a Slurm array, through submitit: one task a worker, which runs a slice of the plan and may be requeued at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit  # pyright: ignore[reportMissingImports]
from submitit.core.utils import UncompletedJobError  # pyright: ignore[reportMissingImports]
from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

from worldsim.datasets.launch import Group, Results, here
from worldsim.datasets.layout import DatasetError, commit_path, read_json
from worldsim.datasets.plan import Plan
from worldsim.datasets.storage import place
from worldsim.datasets.work import Recorded, Task, use_one_thread
from worldsim.datasets.writer import read_plan

_LOOK_SECONDS = 2.0
_END_SECONDS = 0.1


class Slice:
    """What one array task runs; a task that Slurm ends before its time is submitted again and goes on from its commits."""

    def __call__(self, task: Task, groups: Sequence[Group]) -> str:
        """Run the groups; return what went wrong for the user to put right, or nothing."""
        use_one_thread()
        try:
            for _ in here.launch(task, groups, 1, lambda _: None, {}):
                pass
        except ValueError as error:
            return str(error)
        return ""

    def checkpoint(self, task: Task, groups: Sequence[Group]) -> DelayedSubmission:
        """Say how to go on, when Slurm preempts the task."""
        return DelayedSubmission(self, task, groups)


def launch(task: Task, groups: Sequence[Group], workers: int, on_step: Callable[[int], None], cluster: Mapping[str, Any]) -> Results:
    """Run the groups in an array of ``workers`` tasks and follow their commits; lost tasks are submitted again.

    Args:
        task: What to run; its folder must be the same one on every node.
        groups: The groups.
        workers: Number of array tasks.
        on_step: Called with the frames of each group once it is committed.
        cluster: ``cpus`` and ``gpus`` of a task, ``hours``, ``partition``, ``logs``; ``executor`` may be submitit's ``local`` or ``debug``.

    Raises:
        ValueError: A group failed, the disk refuses, or tasks end without their episodes more than ``task.retries`` times.
    """
    commits = _Commits(task, groups)
    executor = _executor(task, cluster)
    missing, tasks = list(groups), list[Any]()
    for _ in range(1 + task.retries):
        count = min(workers, len(missing))
        with executor.batch():
            tasks = [executor.submit(Slice(), task, missing[i::count]) for i in range(count)]
        try:
            ended = False
            while missing and not ended:
                ended = all(one.done() for one in tasks)  # asked before the commits are looked at
                for jobs in list(missing):
                    if (recorded := commits.of(jobs)) is not None:
                        missing.remove(jobs)
                        on_step(sum(one.frames for one in recorded))
                        yield jobs, recorded
                if missing and not ended:
                    time.sleep(_LOOK_SECONDS)
            for one in tasks if missing else ():
                _raise_refusal(one)
        finally:
            for one in tasks if missing else ():
                one.cancel()
            while not all(one.done() for one in tasks):
                time.sleep(_END_SECONDS)
        if not missing:
            return
    logs = ", ".join(str(one.paths.stderr) for one in tasks)
    raise DatasetError(
        f"{sum(map(len, missing))} episodes of {task.path} are missing after {1 + task.retries} tries: read {logs}; "
        "committed episodes are kept"
    )


class _Commits:
    """The commits that a job makes; those of episodes that had failed before it count from their next attempt on."""

    def __init__(self, task: Task, groups: Sequence[Group]) -> None:
        self.root = place(task.path)
        self.plan: Plan = read_plan(self.root)
        self.before = {job.id: record["attempt"] for jobs in groups for job in jobs if (record := self._read(job.id))["status"] == "failed"}

    def of(self, jobs: Group) -> list[Recorded] | None:
        """Return what became of a group; None while an episode of it is not committed."""
        records = [self._read(job.id) for job in jobs]
        if any(not one["status"] or one["attempt"] == self.before.get(job.id) for job, one in zip(jobs, records, strict=True)):
            return None
        return [Recorded(one["episode"], one["status"], one["frames"], one["reason"]) for one in records]

    def _read(self, episode: int) -> dict[str, Any]:
        path = commit_path(self.root, *self.plan.place(episode))
        record: dict[str, Any] = read_json(path) if path.exists() else {"status": ""}
        return record


def _raise_refusal(task: Any) -> None:
    try:
        refusal = task.result()
    except UncompletedJobError:
        return  # killed, or a node was lost: it is submitted again
    if refusal:
        raise DatasetError(refusal)


def _executor(task: Task, cluster: Mapping[str, Any]) -> Any:
    root = place(task.path)
    beside = root.absolute().with_name(f"{root.name}.logs") if isinstance(root, Path) else Path(f"{root.name}.logs").absolute()
    logs = Path(cluster.get("logs") or beside)
    executor = submitit.AutoExecutor(folder=logs, cluster=cluster.get("executor") or "slurm")
    settings: dict[str, Any] = {
        "name": "worldsim",
        "cpus_per_task": int(cluster.get("cpus", 1)),
        "timeout_min": int(float(cluster.get("hours", 4)) * 60),
    }
    if (gpus := float(cluster.get("gpus", 0))) > 0:
        settings["gpus_per_node"] = max(1, int(gpus))
    if cluster.get("partition"):
        settings["slurm_partition"] = cluster["partition"]
    executor.update_parameters(**settings)
    return executor
