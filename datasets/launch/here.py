"""Run groups in this process."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from worldsim.datasets.launch import Group, Results
from worldsim.datasets.work import Recorded, Task, Worker


def launch(task: Task, groups: Sequence[Group], workers: int, on_step: Callable[[int], None], cluster: Mapping[str, Any]) -> Results:
    """Run the groups one after another; ``workers`` and ``cluster`` mean nothing here.

    Raises:
        ValueError: A group failed, or the disk refuses.
    """
    del workers, cluster
    waiting: deque[tuple[Group, Future[list[Recorded]]]] = deque()
    worker = Worker(task, on_step)
    try:
        with one_thread():
            for jobs in groups:
                waiting.append((jobs, worker.run_group(jobs)))
                while waiting and waiting[0][1].done():
                    yield waiting[0][0], waiting.popleft()[1].result()
            while waiting:
                yield waiting[0][0], waiting.popleft()[1].result()
    finally:
        worker.close()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as every worker process does: the bits of a dataset depend on no machine's cores."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
