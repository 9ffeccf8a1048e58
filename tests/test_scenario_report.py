"""``worldsim scenario report``: what held, of hand-made episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from gymnasium import spaces

from worldsim.cli import main
from worldsim.datasets.junit import junit_xml
from worldsim.datasets.scenario_report import report
from worldsim.datasets.scenarios import plan_scenarios
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec
from worldsim.episode import Episode
from worldsim.scenario import parse_scenarios

SPACE = spaces.Box(-1, 1, (2,), np.float32)
POLICY = {"_target_": "worldsim.policies.random.RandomPolicy"}
BRAKING: Mapping[str, Any] = {
    "policy": POLICY,
    "horizon": 6,
    "variants": {"grid": {"top": [10, 20]}},
    "seeds": 2,
    "expect": [{"name": "slow", "that": "max(speed) <= $top"}, {"name": "most last", "that": "length == 6", "share": 0.75}],
}
FREE: Mapping[str, Any] = {"policy": POLICY, "horizon": 6, "seeds": 2}


def make(
    path: Path,
    scenarios: Mapping[str, Any],
    speeds: Sequence[float | None],
    *,
    judged: Mapping[int, Any] | None = None,
    statuses: Mapping[int, str] | None = None,
) -> Path:
    """Write a dataset whose episode i has speed ``speeds[i]`` throughout; None leaves it unrecorded."""
    plan = plan_scenarios(parse_scenarios(scenarios, where="test"), root_seed=0, batch=2)
    spec = make_spec(name="toy", frame_size=(8, 8), fps=10.0, action_space=SPACE, state_names=("speed",))
    plan = create_dataset(path, spec, plan)
    writer = EpisodeWriter(path)
    for job, speed in zip(plan.jobs, speeds, strict=True):
        if speed is None:
            continue
        status = (statuses or {}).get(job.id, "ok")
        params = {**job.params, **({"expect": judged[job.id]} if judged and job.id in judged else {})}
        flags, frames = np.zeros(6, np.bool_), np.zeros((7, 8, 8, 3), np.uint8)
        episode = Episode(
            frames,
            np.zeros((6, 2), np.float32),
            np.ones(6, np.float32),
            flags,
            flags,
            np.full((7, 1), speed, np.float32),
            seed=job.seed,
            scenario=job.scenario,
            params=params,
            status=status,
            reason="" if status == "ok" else f"too {status}",
        )
        writer.write(job, episode)
    return path


def test_episodes_are_judged_with_their_own_values(tmp_path: Path) -> None:
    (result,) = report(make(tmp_path / "a", {"brake": BRAKING}, [9, 10, 19, 21]))
    slow, last = result.verdicts
    assert (result.name, result.planned, result.ok, result.passed) == ("brake", 4, 4, False)
    assert (slow.held, slow.episodes, slow.missed, slow.passed) == (3, 4, (3,), False)
    assert [(share.values, share.held, share.episodes) for share in slow.variants] == [({"top": 10}, 2, 2), ({"top": 20}, 1, 2)]
    assert (last.held, last.wanted, last.passed) == (4, 0.75, True)
    assert report(make(tmp_path / "b", {"brake": BRAKING}, [9, 10, 19, 20]))[0].passed


def test_what_was_judged_when_an_episode_was_made_counts(tmp_path: Path) -> None:
    judged = {0: {"slow": False, "most last": True}}
    (result,) = report(make(tmp_path / "a", {"brake": BRAKING}, [9, 10, 19, 20], judged=judged))
    assert result.verdicts[0].missed == (0,)


def test_lost_episodes_do_not_count_and_are_told(tmp_path: Path) -> None:
    statuses = {1: "rejected", 3: "rejected"}
    (result,) = report(make(tmp_path / "a", {"brake": BRAKING}, [9, 99, None, 99], statuses=statuses))
    assert (result.planned, result.ok, result.rejected, result.failed, result.missing) == (4, 1, 2, 0, 1)
    assert result.reasons == {"too rejected": 2}
    assert result.passed
    assert [(verdict.held, verdict.episodes) for verdict in result.verdicts] == [(1, 1), (1, 1)]


def test_nothing_to_judge_by_is_a_failure_but_nothing_expected_is_none(tmp_path: Path) -> None:
    brake, free = report(make(tmp_path / "a", {"brake": BRAKING, "free": FREE}, [None] * 4 + [1, 2]))
    assert not brake.passed
    assert brake.verdicts[0].said() == "there is no usable episode to judge it by"
    assert free.passed
    assert free.verdicts == ()


def test_command_prints_writes_and_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make(tmp_path / "a", {"brake": BRAKING, "free": FREE}, [9, 10, 19, 21, 1, 2])
    files = tmp_path / "out" / "report.json", tmp_path / "report.xml"
    assert main(["scenario", "report", str(dataset), f"json={files[0]}", f"junit={files[1]}"]) == 1
    out = capsys.readouterr().out
    assert "2 scenarios, 2 expectations, 1 failed" in out
    assert "brake: 'slow' held in 3 of 4 episodes; not in episode 3" in out
    assert "top=20: 1 of 2" in out
    told = json.loads(files[0].read_text())
    assert (told["passed"], [item["name"] for item in told["scenarios"]]) == (False, ["brake", "free"])
    assert told["scenarios"][0]["verdicts"][0]["missed"] == [3]
    suites = ElementTree.parse(files[1]).getroot()
    assert {key: suites.get(key) for key in ("tests", "failures", "errors")} == {"tests": "2", "failures": "1", "errors": "0"}
    cases = suites.findall("testsuite/testcase")
    assert [(case.get("classname"), case.get("name"), len(case)) for case in cases] == [("brake", "slow", 1), ("brake", "most last", 0)]
    assert cases[0][0].text == "max(speed) <= $top"
    good = make(tmp_path / "b", {"brake": BRAKING}, [9, 10, 19, 20])
    assert main(["scenario", "report", str(good)]) == 0


def test_reasons_that_xml_does_not_have_are_written() -> None:
    text = junit_xml("a & b", [("x", {"ok": 1}, [("<case>", "held\x00 not", "speed < 3")], "lost: \x1b[31m")])
    root = ElementTree.fromstring(text.encode())
    assert [root.get("name"), root.findtext("testsuite/system-out")] == ["a & b", "lost: ?[31m"]


def test_what_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario", "report", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
