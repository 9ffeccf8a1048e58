"""Run groups on a Ray cluster: actors that hold the world; a lost actor or node is made again elsewhere and its groups repeated."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from worldsim.datasets.launch import Group, Results, deadly
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.work import Recorded, Task, Worker, use_one_thread

_CALLS = 2  # of an actor at a time: one group rolls out while another is written


class _Actor:
    """A worker in its actor; two calls at a time, of which one rolls out."""

    def __init__(self, task: Task) -> None:
        use_one_thread()
        self.worker = Worker(task)
        use_one_thread()
        self.rolling = threading.Lock()

    def run_group(self, jobs: Group) -> list[Recorded]:
        with self.rolling:
            future = self.worker.run_group(jobs)
        return future.result()


def launch(task: Task, groups: Sequence[Group], workers: int, on_step: Callable[[int], None], cluster: Mapping[str, Any]) -> Results:
    """Run the groups in ``workers`` actors.

    Args:
        task: What to run; its folder must be the same one on every node.
        groups: The groups.
        workers: Number of actors.
        on_step: Called with the frames of each group once it is committed.
        cluster: ``address`` of a running cluster (None starts one here), ``cpus`` and ``gpus`` of an actor, the latter may be a fraction.

    Raises:
        ValueError: A group failed, actors die of one more than ``task.retries`` times, or the disk refuses.
    """
    own = not ray.is_initialized()
    if own:
        address = cluster.get("address")
        about: dict[str, Any] = (
            {"address": address} if address else {"num_cpus": workers * float(cluster.get("cpus", 1)), "include_dashboard": False}
        )
        ray.init(log_to_driver=False, **about)
    options = {
        "num_cpus": float(cluster.get("cpus", 1)),
        "num_gpus": float(cluster.get("gpus", 0)),
        "max_concurrency": _CALLS,
        "max_restarts": task.retries,
        "max_task_retries": task.retries,
    }
    make: Any = ray.remote(_Actor)
    actors = [make.options(**options).remote(task) for _ in range(min(workers, len(groups)))]
    try:
        yield from _share_out(task, groups, actors, on_step)
    finally:
        for actor in actors:
            ray.kill(actor)
        if own:
            ray.shutdown()


def _share_out(task: Task, groups: Sequence[Group], actors: Sequence[Any], on_step: Callable[[int], None]) -> Results:
    waiting = deque(groups)
    busy: dict[Any, tuple[Any, Group]] = {}
    free = deque(actor for _ in range(_CALLS) for actor in actors)
    while waiting or busy:
        while waiting and free:
            actor, jobs = free.popleft(), waiting.popleft()
            busy[actor.run_group.remote(list(jobs))] = actor, jobs
        done, _ = ray.wait(list(busy), num_returns=1, timeout=1.0)
        for call in done:
            actor, jobs = busy.pop(call)
            recorded = _result(task, call)
            on_step(sum(one.frames for one in recorded))
            free.append(actor)
            yield jobs, recorded


def _result(task: Task, call: Any) -> list[Recorded]:
    try:
        recorded: list[Recorded] = ray.get(call)
    except RayActorError as error:
        cause = error.cause if hasattr(error, "cause") else None
        raise (DatasetError(str(cause)) if isinstance(cause, ValueError) else deadly(task)) from error
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise DatasetError(str(error.cause)) from error
        raise
    return recorded
