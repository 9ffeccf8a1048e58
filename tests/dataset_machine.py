"""A dataset beside a model of it in memory: episodes are added, writers crash, jobs go on, plans grow, and both must tell the same."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from dataset_drills import Disk
from gymnasium import spaces
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from worldsim.datasets.finalize import finalize
from worldsim.datasets.layout import read_json, sweep
from worldsim.datasets.plan import Plan, make_plan
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec, read_plan
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob

HORIZON = 3


class Crash(BaseException):
    """The process is gone: no handler of errors runs its course."""


class CrashingDisk(Disk):
    """Ends the process at a call, rather than refusing it."""

    def check(self, name: str) -> None:
        self.calls += 1
        if self.refuse_at is not None and self.calls > self.refuse_at:
            raise Crash


def job(number: int) -> EpisodeJob:
    return EpisodeJob(number, 100 + number, HORIZON, "calm", "dice")


def episode(number: int, status: str) -> Episode:
    """Make the one episode that a job and its fate give."""
    rng, steps = np.random.default_rng([number, len(status)]), number % HORIZON + 1
    return Episode(
        frames=rng.integers(0, 255, (steps + 1, 4, 4, 3), dtype=np.uint8),
        actions=rng.integers(0, 3, (steps, 1)),
        rewards=rng.random(steps).astype(np.float32),
        terminated=np.zeros(steps, np.bool_),
        truncated=np.arange(steps) == steps - 1,
        state=np.zeros((steps + 1, 0), np.float32),
        seed=100 + number,
        scenario="calm",
        policy="dice",
        status=status,
        reason="" if status == "ok" else "dark",
    )


class DatasetMachine(RuleBasedStateMachine):
    """Every rule does the same to the folder and to ``self.model``, a mapping of episodes to what became of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "toy"
        self.model: dict[int, str] = {}
        self.count = 0
        self.finalized: dict[str, Any] = {}
        self.fast = contextlib.ExitStack()
        self.fast.enter_context(mock.patch("os.fsync", return_value=None))

    def teardown(self) -> None:
        self.fast.close()
        shutil.rmtree(self.folder)

    @initialize(count=st.integers(1, 4))
    def plan(self, count: int) -> None:
        self.count = count
        self.grow(0)

    def grow(self, more: int) -> None:
        self.count += more
        old = read_plan(self.root) if self.root.exists() else None
        fresh = [job(i) for i in range(len(old.jobs) if old else 0, self.count)]
        plan: Plan = old.extended(fresh) if old else make_plan(fresh, scenarios={"calm": {}})
        spec = make_spec(name="toy", frame_size=(4, 4), fps=5.0, action_space=spaces.Discrete(3))
        create_dataset(self.root, spec, plan)
        self.writer = EpisodeWriter(self.root)

    @rule(more=st.integers(1, 2), at=st.none() | st.integers(0, 40))
    def append(self, more: int, at: int | None) -> None:
        """Let the plan grow; a crash leaves the old plan or the new one, and the next growth mends what lies between."""
        if self.count + more > 12:
            return
        before = self.count
        try:
            with CrashingDisk(at).mounted():
                self.grow(more)
        except Crash:
            self.count = len(read_json(self.root / "plan.json")["episodes"])
            assert self.count in (before, before + more)
            self.grow(0 if self.count > before else more)

    @rule(pick=st.integers(0, 11), status=st.sampled_from(["ok", "ok", "rejected", "failed"]))
    def add(self, pick: int, status: str) -> None:
        number = pick % self.count
        if not self.writer.is_done(number):
            self.writer.write(job(number), episode(number, status))
            self.model[number] = status
        assert self.writer.is_done(number) == (self.model[number] != "failed")

    @rule(pick=st.integers(0, 11), at=st.integers(0, 30), status=st.sampled_from(["ok", "rejected"]))
    def crash(self, pick: int, at: int, status: str) -> None:
        """Die somewhere in writing an episode: afterwards it is there whole, or as it was."""
        number = pick % self.count
        if self.writer.is_done(number):
            return
        try:
            with CrashingDisk(at).mounted():
                self.writer.write(job(number), episode(number, status))
            self.model[number] = status
        except Crash:
            found = {record["episode"]: record["status"] for record in read_commits(self.root)}
            assert found.get(number) in (status, self.model.get(number))
            if number in found:
                self.model[number] = found[number]
        self.writer = EpisodeWriter(self.root)

    @rule()
    def resume(self) -> None:
        sweep(self.root)
        self.writer = EpisodeWriter(self.root)
        for number in range(self.count):
            if not self.writer.is_done(number):
                self.writer.write(job(number), episode(number, "ok"))
                self.model[number] = "ok"

    @rule()
    def finish(self) -> None:
        if any(status == "ok" for status in self.model.values()):
            self.finalized = finalize(self.root)
            assert self.finalized["episodes"] == sum(status == "ok" for status in self.model.values())
            assert self.finalized["rejected"] == sum(status == "rejected" for status in self.model.values())

    @rule()
    def reopen(self) -> None:
        """Every usable episode reads back as it was made."""
        store = EpisodeReader(self.root)
        for i, record in enumerate(store.records):
            read, made = store[i], episode(int(record["episode"]), "ok")
            for name in ("frames", "actions", "rewards", "terminated", "truncated"):
                np.testing.assert_array_equal(getattr(read, name), getattr(made, name))

    @invariant()
    def tells_the_same(self) -> None:
        if not self.root.exists():
            return
        records = {record["episode"]: record["status"] for record in read_commits(self.root)}
        assert records == self.model
        assert [int(record["episode"]) for record in EpisodeReader(self.root).records] == sorted(
            number for number, status in self.model.items() if status == "ok"
        )
        assert len(read_plan(self.root).jobs) == self.count
