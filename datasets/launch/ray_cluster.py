"""Run groups on a Ray cluster: actors that hold the world; a lost actor or node is made again elsewhere and its groups repeated."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
from ray.exceptions import RayActorError, RayTaskError  # pyright: ignore[reportMissingImports]

from worldsim.datasets.launch import Group, Results, deadly
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.work import Recorded, Task, Worker, use_one_thread

_CALLS = 2  # of an actor at a time: one group rolls out while another is written


class _Actor:
    """A worker in its actor; two calls at a time, of which one rolls out."""

    def __init__(self, task: Task) -> None:
        use_one_thread()
        self.rolling = threading.Lock()
        self.refusal = ""
        try:
            self.worker = Worker(task)
        except ValueError as error:
            self.refusal = str(error)
        use_one_thread()

    def run_group(self, jobs: Group) -> list[Recorded]:
        if self.refusal:
            raise DatasetError(self.refusal)
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
    cores, gpus = float(cluster.get("cpus", 1)), float(cluster.get("gpus", 0))
    own = not ray.is_initialized()
    if own:
        address = cluster.get("address")
        about: dict[str, Any] = (
            {"address": address} if address else {"num_cpus": max(1, round(workers * cores)), "include_dashboard": False}
        )
        ray.init(log_to_driver=False, **about)
    remote: Any = ray.remote(_Actor)
    # Retries are ours: while a node is being lost, Ray spends an actor's own within a second.
    make = remote.options(num_cpus=cores, num_gpus=gpus, max_concurrency=_CALLS, max_restarts=0, max_task_retries=0)
    crew = _Crew(task, groups, lambda: make.remote(task), min(workers, len(groups)))
    try:
        yield from crew.run(on_step)
    finally:
        crew.end()
        if own:
            ray.shutdown()


class _Crew:
    """Actors and the groups that they were given."""

    def __init__(self, task: Task, groups: Sequence[Group], make: Callable[[], Any], size: int) -> None:
        self.task, self.groups, self.make = task, groups, make
        self.waiting = deque(range(len(groups)))
        self.lost = [0] * len(groups)
        self.actors = [make() for _ in range(size)]
        self.calls: dict[Any, tuple[Any, int]] = {}

    def run(self, on_step: Callable[[int], None]) -> Results:
        while self.waiting or self.calls:
            self._give()
            done, _ = ray.wait(list(self.calls), num_returns=1, timeout=1.0)
            for call in done:
                actor, number = self.calls.pop(call, (None, -1))
                if actor is not None and (recorded := self._result(call, actor, number)) is not None:
                    on_step(sum(one.frames for one in recorded))
                    yield self.groups[number], recorded

    def end(self) -> None:
        for actor in self.actors:
            ray.kill(actor)

    def _give(self) -> None:
        for _ in range(_CALLS):
            for actor in self.actors:
                if self.waiting and sum(one is actor for one, _ in self.calls.values()) < _CALLS:
                    number = self.waiting.popleft()
                    self.calls[actor.run_group.remote(list(self.groups[number]))] = actor, number

    def _result(self, call: Any, actor: Any, number: int) -> list[Recorded] | None:
        """Return what became of a group; None where its actor is lost, whose groups then wait again."""
        try:
            recorded: list[Recorded] = ray.get(call)
        except RayActorError:
            self._replace(actor, number)
            return None
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise DatasetError(str(error.cause)) from error
            raise
        return recorded

    def _replace(self, actor: Any, number: int) -> None:
        theirs = {call: other for call, (one, other) in self.calls.items() if one is actor}
        for call in theirs:
            del self.calls[call]
        for group in (number, *theirs.values()):
            self.lost[group] += 1
            if self.lost[group] > self.task.retries:
                raise deadly(self.task)
            self.waiting.appendleft(group)
        ray.kill(actor)
        self.actors[self.actors.index(actor)] = self.make()
