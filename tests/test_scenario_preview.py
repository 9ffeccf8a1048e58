"""``worldsim scenario preview``: which episodes it shows, and what it writes beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from rich.console import Console

from worldsim.cli import main
from worldsim.config import compose
from worldsim.datasets.plan import make_plan
from worldsim.datasets.preview import Note, contact_sheet, preview_video
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.scenario_preview import find_scenarios, note_of, preview, shortened, thinned
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob
from worldsim.scenario import Scenario, expand, parse_scenario

MINE = """\
# Someone else takes over.
taken:
  policies:
    calm: {_target_: worldsim.policies.random.RandomPolicy, hold: [4, 4]}
    wild: {_target_: worldsim.policies.random.RandomPolicy, hold: [1, 1]}
  policy: calm
  events:
    - {when: {step: $at}, do: {fork: [[], [{switch: wild}], {action: [0, 1, 0], for: 3}]}}
  horizon: 40
  variants: {grid: {at: [2, 4, 6]}}
  seeds: 5
  expect: [{name: lasts, that: length > 2}]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def sweep(seeds: Any, count: int) -> Scenario:
    policy = {"_target_": "worldsim.policies.random.RandomPolicy"}
    grid, draws = {"grid": {"a": list(range(count))}}, {"b": {"uniform": [0, 1]}}
    body = {"policy": policy, "variants": grid, "seeds": seeds, "randomize": draws, "conditioning": {"numbers": {"x": "$b"}}}
    return parse_scenario("sweep", body, where="test")


@pytest.mark.parametrize("seeds", [3, [7, 8]])
def test_shown_episodes_are_those_of_the_whole_scenario(seeds: Any) -> None:
    every = {episode.sha256: episode for episode in expand([sweep(seeds, 9)], 5)}
    shown = list(expand([thinned(sweep(seeds, 9), 3)], 5))
    assert [episode.values["a"] for episode in shown] == [0, 4, 8]
    for episode in shown:
        whole = every[episode.sha256]
        assert (whole.seed, whole.draws, whole.values) == (episode.seed, episode.draws, episode.values)
    assert len(list(expand([thinned(sweep(seeds, 9), 20)], 5))) == 9
    assert [episode.values["a"] for episode in expand([thinned(sweep(seeds, 9), 1)], 5)] == [0]


def test_long_episodes_are_cut_alike() -> None:
    plan = make_plan([EpisodeJob(i, i, horizon) for i, horizon in enumerate((100, 10, 50, 50))], batch=2)
    cut = shortened(plan, 3, 93)
    assert [job.horizon for job in cut.jobs] == [30, 10, 30]
    assert len(cut.groups()) == 1
    assert [job.horizon for job in shortened(plan, 4, 1000).jobs] == [100, 10, 50, 50]


def test_preview_draws_every_branch(endless_path: Path, mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "look"
    cfg: Any = {**compose("scenario_preview", [f"name={mine}", f"out={out}", f"world={endless_path}", "rows=6", "frames=60"])}
    files = preview(cfg, console=Console(quiet=True))
    assert files == [out / "contact_sheet.png", out / "preview.mp4"]
    with Image.open(files[0]) as sheet:
        assert sheet.height == 16 + 6 * (16 + 48 + 7 + 4 + 16)
    with av.open(str(files[1])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["look", "mine.yaml"]


def test_command_says_what_it_left_out(
    endless_path: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["scenario", "preview", str(mine), f"world={endless_path}", "rows=3", "frames=30"]) == 0
    out = capsys.readouterr().out
    assert "3 of 45 episodes, 9 steps of 40" in out
    assert (tmp_path / "mine.preview" / "preview.mp4").stat().st_size > 500


def test_notes_tell_variant_branch_events_and_fate(mine: Path) -> None:
    (scenario,) = find_scenarios(str(mine))
    episodes = list(expand([scenario]))[:3]
    jobs = [EpisodeJob(e.id, e.seed, 40, "taken", params=e.params()) for e in episodes]
    plan = make_plan(jobs, scenarios={"taken": scenario.body})
    notes = []
    for job in jobs:
        params = {**job.params, "happened": [[2, 0, ["fork"]]], "expect": {"lasts": job.id != 2}}
        record = {"scenario": "taken", "params": params, "length": 9, "return": 1.5, "status": "ok", "reason": ""}
        notes.append(note_of(record, plan, alone=True))
    assert [note.caption for note in notes] == [
        "at=2  branch 0: nothing",
        "at=2  branch 1: switch wild",
        "at=2  branch 2: action [0, 1, 0] for 3",
    ]
    assert [dict(note.marks) for note in notes] == [{2: "nothing"}, {2: "switch wild"}, {2: "action [0, 1, 0] for 3"}]
    assert notes[0].remark == "9 steps, return 1.5   lasts: yes"
    assert notes[2].remark.endswith("lasts: no")
    lost = {"scenario": "taken", "params": jobs[0].params, "length": 9, "return": 1.5, "status": "rejected", "reason": "too short"}
    assert note_of(lost, plan).caption.startswith("taken  at=2")
    assert note_of(lost, plan).remark.endswith("rejected: too short")


def test_marks_are_seen_where_they_happen(tmp_path: Path) -> None:
    frames, flags = np.full((21, 64, 64, 3), 90, np.uint8), np.zeros(20, np.bool_)
    zeros = np.zeros(20, np.float32)

    episode = Episode(frames, zeros[:, None], zeros, flags, flags, np.zeros((21, 0), np.float32))
    write_dataset(tmp_path / "toy", [episode], name="toy", fps=10.0, action_space=spaces.Box(-1, 1, (1,), np.float32))
    store = EpisodeReader(tmp_path / "toy")

    def orange(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        light = image.astype(int)
        return np.asarray((light[..., 0] > 200) & (light[..., 2] < 110))

    for mark, cell in ((0, 0), (7, 1), (99, 2)):
        file = contact_sheet(store, tmp_path / "a.png", steps=[0, 10, 20], notes=[Note("x", {mark: "switch"})])
        seen = orange(np.asarray(Image.open(file).convert("RGB")))
        assert [bool(seen[:, i * 196 : (i + 1) * 196].any()) for i in range(3)] == [i == cell for i in range(3)]
    with av.open(str(preview_video(store, tmp_path / "a.mp4", notes=[Note("x", {5: "switch"})]))) as container:
        shown = [bool(orange(frame.to_ndarray(format="rgb24")).any()) for frame in container.decode(video=0)]
    assert shown == [5 <= t < 17 for t in range(21)]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["late_brakin"], "did you mean 'late_braking'"),
        (["none.yaml"], "none.yaml: No such file"),
        (["calm", "rows=0"], "rows=0"),
        (["calm", "frames=3", "rows=2"], "frames=3"),
        (["calm", "world=moon"], "world 'moon' is neither shipped nor a folder"),
    ],
)
def test_mistakes_are_told(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario", "preview", *args]) == 2
    assert said in capsys.readouterr().err
