"""Ray and Slurm run the same groups to the same bytes, and survive what they are for: lost nodes and preempted tasks."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from worldsim.datasets.generate import plan_dataset
from worldsim.datasets.identity import dataset_hash
from worldsim.datasets.job import run_job
from worldsim.datasets.launch import find_launcher, processes
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.status import read_status

TESTS = Path(__file__).parent


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(TESTS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", str(TESTS.parent))]))
    monkeypatch.setenv("WORLDSIM_TRUST", "toy_sources")

    def _plan(name: str = "out", **options: Any) -> Path:
        scenario = {"free": {"policy": {"_target_": "toy_sources.Dice"}}}
        about = {"env": "toy_jobs:FailingWorld-v0", "world": "toy", "scenario": scenario, "horizon": 12, "count": 8, "seed": 5, "batch": 2}
        plan_dataset({**about, "out": str(tmp_path / name), "world_options": options}, console=Console(quiet=True))
        return tmp_path / name

    return _plan


def run(path: Path, launcher: str, **changes: Any) -> int:
    cfg = {"out": str(path), "launcher": launcher, "workers": 2, "attempts": 1, "finalize": False, **changes}
    return run_job(cfg, console=Console(quiet=True))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "worldsim.datasets.launch.ray_cluster", None)
    with pytest.raises(DatasetError, match=r"launcher=ray needs the package .*: pip install 'worldsim-gym\[ray\]'"):
        find_launcher("ray")


# ---------------------------------------------------------------- processes


class ReadyHand:
    """A worker that has rolled what it is given, and committed it, whenever it is asked."""

    def __init__(self, context: Any, task: Any) -> None:
        self.pipe, self.held, self.idle = self, list[int](), True
        self._told = list[tuple[str, Any]]()

    def give(self, number: int, jobs: Any) -> None:
        self.held.append(number)
        self.idle = False
        self._told += [("rolled", number), ("committed", (number, []))]

    def recv(self) -> tuple[str, Any]:
        return self._told.pop(0) if self._told else ("frames", 0)

    def end(self) -> None:
        pass


@pytest.mark.parametrize("groups", [1, 3, 4, 5])
def test_workers_that_are_ready_at_once_share_what_is_left(monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    monkeypatch.setattr(processes, "_Hand", ReadyHand)
    monkeypatch.setattr(processes, "wait", lambda pipes, timeout: pipes)
    wanted: Any = [[f"job {k}"] for k in range(groups)]
    done = processes.launch(None, wanted, 2, lambda frames: None, {})  # type: ignore[arg-type]
    assert sorted(str(jobs) for jobs, _ in done) == sorted(map(str, wanted))


# ---------------------------------------------------------------- Slurm


def test_slurm_tasks_give_what_this_process_gives(planned: Any, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    path = planned()
    moved = Path(shutil.copytree(path, tmp_path / "moved"))
    assert run(path, "slurm", cluster={"executor": "local"}) == 0
    run(moved, "here")
    assert dataset_hash(path) == dataset_hash(moved)


def test_a_lost_slurm_task_is_submitted_again(planned: Any, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    path = planned(die_once=str(tmp_path / "died"))
    assert run(path, "slurm", workers=1, cluster={"executor": "local"}) == 0
    assert (tmp_path / "died").exists()
    assert read_status(path).ok == 8


def test_slurm_tells_what_went_wrong(planned: Any) -> None:
    pytest.importorskip("submitit")
    path = planned()
    with pytest.raises(DatasetError, match="world 'other' is not the plan's"):
        run(path, "slurm", world="other", workers=1, cluster={"executor": "local", "retries": 0})


def test_a_preempted_slice_goes_on_from_its_commits(planned: Any) -> None:
    slurm = pytest.importorskip("worldsim.datasets.launch.slurm", exc_type=ImportError)
    again = slurm.Slice().checkpoint("task", "groups")
    assert (type(again.function), again.args) == (slurm.Slice, ("task", "groups"))


# ---------------------------------------------------------------- Ray


@pytest.mark.filterwarnings("ignore")
def test_ray_actors_on_two_nodes_of_which_one_is_lost(planned: Any, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    path = planned()
    whole = Path(shutil.copytree(path, tmp_path / "whole"))
    run(whole, "here")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        killer = threading.Thread(target=_lose, args=(cluster, node, path))
        killer.start()
        assert run(path, "ray", cluster={"cpus": 0.5}) == 0
        killer.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert dataset_hash(path) == dataset_hash(whole)


@pytest.mark.filterwarnings("ignore")
def test_a_killed_ray_worker_is_replaced(planned: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    path = planned(die_once=str(tmp_path / "died"))
    assert run(path, "ray", workers=1) == 0
    assert (tmp_path / "died").exists()
    assert read_status(path).ok == 8


def _lose(cluster: Any, node: Any, path: Path) -> None:
    """Kill a node once the job has begun."""
    deadline = time.monotonic() + 60
    while read_status(path).ok == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
