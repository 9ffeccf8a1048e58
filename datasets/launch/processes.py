"""Run groups in processes of this machine; a group whose process dies is given to a fresh one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

from worldsim.datasets.launch import Group, Results, deadly
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.work import Recorded, Task, Worker, use_one_thread

_REPORT_SECONDS = 0.1


def launch(task: Task, groups: Sequence[Group], workers: int, on_step: Callable[[int], None], cluster: Mapping[str, Any]) -> Results:
    """Run the groups in ``workers`` processes; ``cluster`` means nothing here.

    Raises:
        ValueError: A group failed, processes die of one, or the disk refuses.
    """
    del cluster
    context = multiprocessing.get_context("spawn")
    waiting = deque(range(len(groups)))
    lost = [0] * len(groups)
    hands = [_Hand(context, task) for _ in range(min(workers, len(groups)))]
    try:
        while waiting or any(hand.held for hand in hands):
            for hand in [hand for hand in hands if hand.idle][: len(waiting)]:
                hand.give(number := waiting.popleft(), groups[number])
            for hand in [hand for hand in hands if hand.pipe in wait([hand.pipe for hand in hands], 0.2)]:
                try:
                    kind, value = hand.pipe.recv()
                except (EOFError, OSError):
                    for number in hand.held:
                        lost[number] += 1
                    if any(lost[number] > task.retries for number in hand.held):
                        raise deadly(task) from None
                    waiting.extendleft(hand.held)
                    hands[hands.index(hand)] = _Hand(context, task)
                    hand.end()
                    continue
                if kind == "frames":
                    on_step(value)
                elif kind == "rolled":
                    hand.idle = True
                elif kind == "committed":
                    hand.held.remove(value[0])
                    yield groups[value[0]], value[1]
                else:
                    raise DatasetError(value) if kind == "refused" else RuntimeError(value)
    finally:
        for hand in hands:
            hand.end()


class _Hand:
    """A worker process and what it was given."""

    def __init__(self, context: Any, task: Task) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(task, theirs))
        self.process.start()
        theirs.close()
        self.held: list[int] = []
        self.idle = True

    def give(self, number: int, jobs: Group) -> None:
        self.held.append(number)
        self.idle = False
        try:
            self.pipe.send((number, list(jobs)))
        except OSError:
            return  # it has died: its pipe tells

    def end(self) -> None:
        """Have the process end now, wherever it is: what is not committed by now does not count."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def _serve(task: Task, pipe: Connection) -> None:
    """Run what comes through the pipe; end at once when the other side closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal: the parent answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    inbox: SimpleQueue[tuple[int, Group]] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    tell = _Teller(pipe)
    try:
        use_one_thread()
        worker = Worker(task, tell.frames)
        use_one_thread()
        while True:
            number, jobs = inbox.get()
            future = worker.run_group(jobs)
            tell("rolled", number)
            future.add_done_callback(partial(tell.done, number))
    except Exception as error:
        tell.error(error)


def _listen(pipe: Connection, inbox: SimpleQueue[tuple[int, Group]]) -> None:
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)  # without clean-up: what is not committed by now does not count


class _Teller:
    """Sends to the parent, from any thread."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self._lock = threading.Lock()
        self._frames, self._sent = 0, 0.0

    def __call__(self, kind: str, value: Any) -> None:
        try:
            with self._lock:
                self.pipe.send((kind, value))
        except OSError:
            os._exit(1)  # the parent is gone

    def frames(self, count: int) -> None:
        self._frames += count
        if time.monotonic() - self._sent > _REPORT_SECONDS:
            self("frames", self._frames)
            self._frames, self._sent = 0, time.monotonic()

    def done(self, number: int, future: Future[list[Recorded]]) -> None:
        if (error := future.exception()) is not None:
            self.error(error)
        else:
            self("committed", (number, future.result()))

    def error(self, error: BaseException) -> None:
        users = isinstance(error, ValueError)
        self("refused" if users else "broke", str(error) if users else "".join(traceback.format_exception(error)))
