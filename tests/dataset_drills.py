"""What datasets must survive, short in the tests and long in the benchmarks: kills, shuffled workers, disks that refuse."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from zarr.storage import LocalStore

from worldsim.datasets.generate import plan_dataset
from worldsim.datasets.identity import dataset_hash
from worldsim.datasets.job import run_job
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.writer import read_plan

TESTS = Path(__file__).parent
ERRORS = (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS)


def environment() -> dict[str, str]:
    """Return the environment in which other processes find the toys."""
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "WORLDSIM_TRUST": "toy_sources", "OMP_NUM_THREADS": "1"}


def plan(path: Path, *, count: int, horizon: int = 12, batch: int = 4, seed: int = 5) -> Path:
    """Plan ``2 * count`` episodes of a toy world."""
    dice = {"_target_": "toy_sources.Dice"}
    scenario = {"free": {"policy": dice}, "held": {"policy": {**dice, "scale": 0.5}, "horizon": 6}}
    about = {"env": "toy_sources:ToyWorld-v0", "world": "toy", "scenario": scenario, "horizon": horizon, "count": count, "seed": seed}
    plan_dataset({**about, "batch": batch, "out": str(path)}, console=Console(quiet=True))
    return path


def run(path: Path, **changes: Any) -> int:
    """Run a job to its end."""
    cfg = {"out": str(path), "launcher": "here", "workers": 1, "attempts": 1, "finalize": False, **changes}
    return run_job(cfg, console=Console(quiet=True))


def copy(path: Path, name: str) -> Path:
    """Copy a planned dataset beside itself."""
    return Path(shutil.copytree(path, path.with_name(name)))


def is_whole(path: Path) -> bool:
    """Whether every planned episode is there once."""
    return [record["episode"] for record in EpisodeReader(path).records] == [job.id for job in read_plan(path).jobs]


# ---------------------------------------------------------------- kills


@dataclass
class Kills:
    """What a drill of kills did."""

    job: int = 0
    everything: int = 0
    worker: int = 0
    starts: int = 0
    datasets: int = 0
    identical: int = 0
    lost: int = 0
    doubled: int = 0
    left_over: int = 0
    waits: list[float] = field(default_factory=list)

    def total(self) -> int:
        return self.job + self.everything + self.worker


def kill_drill(folder: Path, *, kills: int, count: int, workers: int = 4, seed: int = 0, most: float = 1.5, forked: bool = False) -> Kills:
    """Kill jobs with SIGKILL at random times, resume each, and compare what comes of it with an undisturbed run.

    A kill hits the job's main process, all its processes at once, or one worker. A dataset that gets whole is compared, and the next begun.

    Args:
        folder: Where to work.
        kills: How many.
        count: Half the episodes of a dataset.
        workers: Worker processes.
        seed: Of times and kinds of kills.
        most: Longest time between two kills in seconds, drawn evenly.
        forked: Whether jobs and workers are forked from this process, which starts them in no time, rather than started by the command.
            Workers of a killed job then go on for a while, as those on another machine would.
    """
    chance, told = random.Random(seed), Kills()
    start = _Forked if forked else _Command
    apart = _apart if forked else _here
    first, undisturbed = folder / "planned", folder / "undisturbed"
    apart(lambda: plan(first, count=count))
    shutil.copytree(first, undisturbed)
    apart(lambda: run(undisturbed))
    expected = dataset_hash(undisturbed)
    while told.total() < kills:
        path = copy(first, f"killed{told.datasets}")
        told.datasets += 1
        while told.total() < kills and len(read_commits(path)) < 2 * count:
            _disturb(start(path, workers), chance, told, kills, most)
        told.starts += 1
        assert start(path, workers).wait() == 0  # the last resume is left alone
        records = [record["episode"] for record in read_commits(path)]
        told.lost += len(set(range(2 * count)) - set(records))
        told.doubled += len(records) - len(set(records))
        told.left_over += len([file for pattern in ("*.tmp", "*.partial") for file in path.rglob(pattern)])
        told.identical += dataset_hash(path) == expected and is_whole(path)
        shutil.rmtree(path)
    return told


def _here(action: Callable[[], Any]) -> None:
    action()


def _apart(action: Callable[[], Any]) -> None:
    """Act in a forked process: one that has used Zarr has threads, and is not to be forked."""
    if (pid := os.fork()) == 0:
        try:
            action()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


class _Command:
    """A job that the command runs, in a session of its own."""

    def __init__(self, path: Path, workers: int) -> None:
        command = [sys.executable, "-m", "worldsim.cli", "data", "resume", str(path), f"workers={workers}", "finalize=false"]
        settings = ["cluster.retries=1000"]
        quiet, known = subprocess.DEVNULL, {**os.environ, **environment()}
        self.process = subprocess.Popen([*command, *settings], env=known, stdout=quiet, stderr=quiet, start_new_session=True)
        self.pid, self.workers = self.process.pid, workers

    def ready(self) -> bool:
        """Whether its workers are there."""
        return len(self.children()) >= self.workers

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        return self.process.wait()

    def children(self) -> list[int]:
        """Return its worker processes."""
        return [child for child in _children(self.pid) if b"spawn_main" in _read(f"/proc/{child}/cmdline")]

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)

    def kill_all(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class _Forked(_Command):
    """A job in a process forked from this one, and its workers forked from it."""

    def __init__(self, path: Path, workers: int) -> None:
        self.workers, self.code = workers, -1
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                context = multiprocessing.get_context("fork")
                with mock.patch("multiprocessing.get_context", return_value=context):
                    code = run(path, launcher="processes", workers=workers, attempts=3, cluster={"retries": 1000})
            finally:
                os._exit(code)

    def ended(self) -> bool:
        if self.code < 0:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = self.code if pid == 0 else os.waitstatus_to_exitcode(status) & 0xFF
        return self.code >= 0

    def wait(self) -> int:
        while not self.ended():
            time.sleep(0.01)
        return self.code

    def children(self) -> list[int]:
        return _children(self.pid)


def _disturb(job: _Command, chance: random.Random, told: Kills, kills: int, most: float) -> None:
    """Kill a job that has been started; its workers perhaps several times before."""
    told.starts += 1
    while not job.ready() and not job.ended():
        time.sleep(0.01)
    while told.total() < kills and not job.ended():
        told.waits.append(chance.uniform(0, most))
        time.sleep(told.waits[-1])
        children = job.children()
        how = chance.choices(["job", "everything", "worker"], [1, 1, 3])[0]
        if job.ended():
            break
        if how == "worker" and children:
            job.kill(chance.choice(children))
            told.worker += 1
            continue
        job.kill_all() if how == "everything" else job.kill(job.pid)
        told.everything += how == "everything"
        told.job += how != "everything"
        time.sleep(chance.uniform(0, most))
        break
    job.kill_all()
    job.wait()
    while any(_alive(child) for child in job.children()):
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    return [int(text) for text in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _alive(pid: int) -> bool:
    return bool(_read(f"/proc/{pid}/cmdline"))


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    return b""


# ---------------------------------------------------------------- disks that refuse


class Disk:
    """Counts every call by which the package writes, and refuses from call ``refuse_at`` on, ``times`` times (None: for good)."""

    def __init__(self, refuse_at: int | None = None, number: int = errno.ENOSPC, times: int | None = None) -> None:
        self.calls, self.refuse_at, self.number, self.times = 0, refuse_at, number, times
        self.names: list[str] = []

    def check(self, name: str) -> None:
        """Count a call, and refuse it where it is its turn."""
        self.calls += 1
        self.names.append(name)
        at = self.refuse_at
        if at is not None and self.calls > at and (self.times is None or self.calls <= at + self.times):
            raise OSError(self.number, os.strerror(self.number))

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Put the disk under everything that is written."""
        with contextlib.ExitStack() as stack:
            for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "mkdir")):
                stack.enter_context(mock.patch.object(owner, name, self._checked(name, getattr(owner, name))))
            stack.enter_context(mock.patch.object(Path, "open", self._opened(Path.open)))
            real = LocalStore.set

            async def put(store: LocalStore, key: str, value: Any) -> None:
                self.check("set")
                await real(store, key, value)

            stack.enter_context(mock.patch.object(LocalStore, "set", put))
            yield

    def _checked(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.check(name)
            return real(*args, **kwargs)

        return call

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if set(mode) & set("wax+"):
                self.check("open")
            return real(path, mode, *args, **kwargs)

        return call


@dataclass
class Faults:
    """What a drill of refusing disks did."""

    calls: int = 0
    injected: int = 0
    clear: int = 0
    completed: int = 0
    wrong: list[str] = field(default_factory=list)


def fault_drill(folder: Path, command: Callable[[list[str]], tuple[int, str]], *, count: int, every: int = 1, each: bool = False) -> Faults:
    """Refuse each ``every``-th write of a job; the job must say so, and a later one end as if nothing had been.

    Args:
        folder: Where to work.
        command: Runs the command line; returns exit code and what it said on standard error.
        count: Half the episodes of the dataset.
        every: 1 for every write call.
        each: Whether a call is refused by each of ``ERRORS``, rather than by one of them in turn.
    """
    told = Faults()
    first = plan(folder / "planned", count=count)
    whole, disk = copy(first, "undisturbed"), Disk()
    words = ["launcher=here", "writer.preview=false"]
    with disk.mounted():
        assert command(["data", "run", str(whole), *words]) == (0, "")
    expected, told.calls = dataset_hash(whole), disk.calls
    for turn, at in enumerate(range(0, disk.calls, every)):
        for number in ERRORS if each else [ERRORS[turn % len(ERRORS)]]:
            path, where = copy(first, "refused"), f"call {at} ({disk.names[at]}), {errno.errorcode[number]}"
            told.injected += 1
            with Disk(at, number).mounted():
                code, said = command(["data", "run", str(path), *words])
            clear = code == 2 and said.count("\n") == 1 and os.strerror(number) in said and "cannot write to dataset" in said
            code, _ = command(["data", "resume", str(path), *words])
            done = code == 0 and dataset_hash(path) == expected and is_whole(path)
            told.clear, told.completed = told.clear + clear, told.completed + done
            if not (clear and done):
                told.wrong.append(f"{where}: {'unclear: ' + said if not clear else 'not completed'}")
            shutil.rmtree(path)
    return told
