"""Several datasets as one: nothing lost, nothing altered, and what does not fit refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from worldsim.cli import main
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.merge import merge
from worldsim.datasets.plan import make_plan
from worldsim.datasets.reader import EpisodeReader, read_attributes
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec, read_plan
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob

CALM = {"calm": {"policy": {"_target_": "x"}, "seeds": [], "count": 2}}


def make(path: Path, count: int, *, seed: int = 0, scenarios: Any = CALM, bad: tuple[int, ...] = (), skip: int = -1, **spec: Any) -> Path:
    about = {"name": path.name, "frame_size": (8, 8), "fps": 10.0, "action_space": spaces.Discrete(3), "source": {"id": "Toy-v0"}, **spec}
    jobs = [EpisodeJob(i, seed + i, 5, "calm", "dice") for i in range(count)]
    create_dataset(path, make_spec(**about), make_plan(jobs, scenarios=scenarios))
    writer = EpisodeWriter(path)
    for job in jobs:
        rng, steps = np.random.default_rng(job.seed), 2 + job.id % 3
        frames = rng.integers(0, 255, (steps + 1, *about["frame_size"], 3), dtype=np.uint8)
        flags, status = np.zeros(steps, np.bool_), "rejected" if job.id in bad else "ok"
        actions, rewards = rng.integers(0, 3, (steps, 1)), rng.random(steps).astype(np.float32)
        state = np.zeros((steps + 1, 0), np.float32)
        episode = Episode(
            frames, actions, rewards, flags, flags, state, job.seed, "calm", "dice", status=status, reason="" if status == "ok" else "dark"
        )
        if job.id != skip:
            writer.write(job, episode)
    return path


def test_merged_episodes_are_those_of_the_parts(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 3, bad=(1,)), make(tmp_path / "b", 4, seed=50, skip=2)
    told = merge(tmp_path / "c", [a, b])
    merged, parts = EpisodeReader(tmp_path / "c"), [EpisodeReader(a), EpisodeReader(b)]
    assert (told["episodes"], told["rejected"], len(merged)) == (5, 1, 5)
    for i, one in enumerate([store[j] for store in parts for j in range(len(store))]):
        np.testing.assert_array_equal(merged[i].frames, one.frames)
        np.testing.assert_array_equal(merged[i].actions, one.actions)
        assert merged[i].seed == one.seed
    plan = read_plan(tmp_path / "c")
    assert [plan.place(i) for i in range(7)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert [one["episodes"] for one in read_attributes(tmp_path / "c")["merged"]] == [3, 4]
    assert not list(tmp_path.glob(".*"))


def test_the_order_counts_and_equal_merges_are_equal(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 2), make(tmp_path / "b", 2, seed=9)
    prints = {name: merge(tmp_path / name, order)["fingerprint"] for name, order in (("c", [a, b]), ("d", [a, b]), ("e", [b, a]))}
    assert prints["c"] == prints["d"] != prints["e"]


def test_a_merge_can_be_merged(tmp_path: Path) -> None:
    a, b, c = (make(tmp_path / name, 2, seed=10 * i) for i, name in enumerate("abc"))
    merge(tmp_path / "ab", [a, b])
    merge(tmp_path / "abc", [tmp_path / "ab", c])
    assert EpisodeReader(tmp_path / "abc").records[5]["seed"] == 21


def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    a = make(tmp_path / "a", 2)
    wrong = {
        "fps is 5.0 there and 10.0 here": make(tmp_path / "b", 1, fps=5.0),
        "action_space is": make(tmp_path / "c", 1, action_space=spaces.Discrete(4)),
        "licence is 'MIT' there": make(tmp_path / "d", 1, licence="MIT"),
        "source.id is 'Other-v0' there": make(tmp_path / "e", 1, source={"id": "Other-v0"}),
        "scenario 'calm' is another one": make(tmp_path / "f", 1, scenarios={"calm": {"policy": {"_target_": "y"}}}),
    }
    for message, path in wrong.items():
        with pytest.raises(DatasetError, match=message):
            merge(tmp_path / "out", [a, path])
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "must name two datasets or more"),
        (["a"], "must name two"),
        (["a", "a"], "names a dataset twice"),
        (["a", "none"], "does not exist"),
    ],
)
def test_wrong_lists_are_one_sentence(tmp_path: Path, sources: list[str], message: str) -> None:
    make(tmp_path / "a", 1)
    with pytest.raises(DatasetError, match=message):
        merge(tmp_path / "out", [tmp_path / name for name in sources])


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 1), make(tmp_path / "b", 1, seed=4)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match="a exists: choose another 'out'"):
        merge(a, [a, b])
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make(tmp_path / "a", 1), make(tmp_path / "b", 2, seed=4)
    assert main(["data", "merge", f"out={tmp_path / 'c'}", f"from=[{a},{b}]"]) == 0
    assert "3 episodes of 2 datasets" in capsys.readouterr().out
    assert json.loads((tmp_path / "c/MANIFEST.json").read_text())["episodes"] == 3
    assert main(["data", "merge", f"out={tmp_path / 'd'}", f"from={a}"]) == 2
    assert "must be a list of folders, as 'from=[A,B]'" in capsys.readouterr().err
