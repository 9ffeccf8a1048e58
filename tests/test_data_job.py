"""A planned dataset: run, resumed, watched, regenerated; launchers and failures."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from worldsim.cli import main
from worldsim.config import compose
from worldsim.datasets.generate import generate, plan_dataset
from worldsim.datasets.identity import dataset_hash
from worldsim.datasets.job import finalize_job, run_job
from worldsim.datasets.layout import DatasetError, canonical_json, commit_path
from worldsim.datasets.lock import job_lock
from worldsim.datasets.reader import EpisodeReader, read_attributes, read_commits
from worldsim.datasets.regenerate import regenerate, regenerate_command
from worldsim.datasets.status import read_status, show_status
from worldsim.datasets.writer import EpisodeWriter, read_plan

DICE = {"_target_": "toy_sources.Dice"}
QUIET = Console(quiet=True)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("WORLDSIM_TRUST", "toy_sources")
    return {
        "env": "toy_sources:ToyWorld-v0",
        "world": "toy",
        "scenario": {"free": {"policy": DICE}, "held": {"policy": {**DICE, "scale": 0.5}, "horizon": 6}},
        "horizon": 12,
        "count": 4,
        "seed": 5,
        "batch": 3,
        "out": str(tmp_path / "out"),
    }


def run(path: Path | str, **changes: Any) -> int:
    cfg = {"out": str(path), "launcher": "here", "workers": 1, "attempts": 1, "finalize": False, **changes}
    return run_job(cfg, console=QUIET)


def planned(settings: dict[str, Any], **changes: Any) -> Path:
    cfg = {**settings, **changes}
    plan_dataset(cfg, console=QUIET)
    return Path(cfg["out"])


def text_of(function: Any, *args: Any) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    function(*args, console=console)
    return console.export_text()


def test_plan_then_run_is_generate(settings: dict[str, Any], tmp_path: Path) -> None:
    path = planned(settings)
    assert read_commits(path) == []
    assert run(path, finalize=True) == 0
    whole = generate({**settings, "out": str(tmp_path / "whole")}, console=QUIET)
    assert dataset_hash(path) == dataset_hash(whole.path)
    assert EpisodeReader(path).info.fingerprint == whole.info.fingerprint


def test_the_plan_is_canonical_and_its_hash_is_the_identity(settings: dict[str, Any], tmp_path: Path) -> None:
    path = planned(settings)
    text = (path / "plan.json").read_text()
    assert text == canonical_json(json.loads(text))
    assert read_attributes(path)["plan_sha256"] == read_plan(path).sha256()
    assert read_plan(planned(settings, out=str(tmp_path / "again"))).sha256() == read_plan(path).sha256()
    for change in ({"seed": 6}, {"batch": 2}, {"horizon": 19}):
        assert read_plan(planned(settings, out=str(tmp_path / str(change)[2:6]), **change)).sha256() != read_plan(path).sha256()


def test_running_again_is_a_no_op(settings: dict[str, Any]) -> None:
    path = planned(settings)
    run(path)
    times = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert run(path) == 0
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == times


@pytest.mark.parametrize("seed", [1, 2])
def test_order_of_groups_and_a_moved_folder_change_nothing(settings: dict[str, Any], tmp_path: Path, seed: int) -> None:
    path = planned(settings)
    moved = Path(shutil.copytree(path, tmp_path / "moved"))
    run(path)
    run(moved, shuffle=seed)
    assert dataset_hash(moved) == dataset_hash(path)
    other = planned(settings, out=str(tmp_path / "other"), seed=9)
    run(other)
    assert dataset_hash(other) != dataset_hash(path)


def test_processes_give_what_this_one_gives(settings: dict[str, Any], tmp_path: Path) -> None:
    path = planned(settings)
    moved = Path(shutil.copytree(path, tmp_path / "moved"))
    run(path)
    assert run(moved, launcher="processes", workers=2, shuffle=3) == 0
    assert dataset_hash(moved) == dataset_hash(path)


# ---------------------------------------------------------------- failures


def failing(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a world that breaks, with seeds that are known."""
    seeds = list(range(5, 5 + settings["count"]))
    scenario = {name: {**body, "seeds": seeds} for name, body in settings["scenario"].items()}
    return {**settings, "env": "toy_jobs:FailingWorld-v0", "scenario": scenario}


def test_what_fails_is_committed_and_tried_again(settings: dict[str, Any]) -> None:
    path = planned(failing(settings), world_options={"fail_seed": 7})
    assert run(path) == 1
    status = read_status(path)
    assert (status.ok, status.failed, status.missing) == (3, 5, 0)
    assert "RuntimeError: the toy broke" in next(iter(status.reasons))
    times = {file: file.stat().st_mtime_ns for file in path.rglob("*.json")}
    assert run(path) == 1, "what was tried once is not tried by run again"
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*.json")} == times
    assert run(path, attempts=3) == 1
    assert {record["attempt"] for record in read_commits(path) if record["status"] == "failed"} == {3}


def test_resume_mends_what_failed(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = planned(failing(settings), world_options={"fail_seed": 7})
    whole = Path(shutil.copytree(path, tmp_path / "whole"))
    run(path)
    monkeypatch.setenv("TOY_MENDED", "1")
    assert run(path, attempts=2) == 0
    assert run(whole) == 0
    assert dataset_hash(path) == dataset_hash(whole)


def test_a_worker_that_dies_once_is_replaced(settings: dict[str, Any], tmp_path: Path) -> None:
    path = planned({**settings, "env": "toy_jobs:FailingWorld-v0"}, world_options={"die_once": str(tmp_path / "died")})
    assert run(path, launcher="processes", workers=2) == 0
    assert (tmp_path / "died").exists()
    assert read_status(path).ok == 8


def test_a_half_written_file_is_swept(settings: dict[str, Any]) -> None:
    path = planned(settings)
    (path / "commits/p00000/000001.json.host.12.34.tmp").write_text("{")
    run(path)
    assert not list(path.rglob("*.tmp"))


# ---------------------------------------------------------------- bad input


def test_two_jobs_in_one_directory(settings: dict[str, Any]) -> None:
    path = planned(settings)
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom worldsim.datasets.lock import job_lock\n"
        f"with job_lock(Path({str(path)!r})):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DatasetError, match=r"another job runs in .*out: wait for it, follow it by 'worldsim data status"):
            run(path)
        assert read_status(path).missing == 8
        process.kill()
    assert run(path) == 0, "a dead process holds no lock"
    with job_lock(path):
        pass
    assert not list(path.parent.glob(".*.lock"))


def test_a_plan_changed_under_a_running_job(settings: dict[str, Any]) -> None:
    path = planned(settings)
    writer = EpisodeWriter(path)
    plan = json.loads((path / "plan.json").read_text())
    (path / "plan.json").write_text(canonical_json({**plan, "batch": 2}))
    with pytest.raises(DatasetError, match=r"plan.json was changed while a job ran by it: what was committed is kept"):
        writer.fail(writer.plan.jobs[0], "x")
    assert read_commits(path) == []
    with pytest.raises(DatasetError, match=r"plan.json is not the plan that .*zarr.json names"):
        run(path)


def test_a_plan_file_touched_but_equal_goes_on(settings: dict[str, Any]) -> None:
    path = planned(settings)
    writer = EpisodeWriter(path)
    (path / "plan.json").write_text((path / "plan.json").read_text())
    assert writer.fail(writer.plan.jobs[0], "x")["status"] == "failed"


def test_another_world_than_the_plans(settings: dict[str, Any]) -> None:
    path = planned({**settings, "env": "toy_jobs:FailingWorld-v0"})
    with pytest.raises(DatasetError, match=r"world 'other' is not the plan's: its weights are 1, the plan was made for toy with 0"):
        run(path, world="other")
    assert read_status(path).missing == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"launcher": "cloud"}, r"launcher='cloud' does not exist: choose one of here, processes, ray, slurm"),
        ({"workers": 0}, "workers=0 must be 1 or more"),
        ({"attempts": 0}, "attempts=0 must be 1 or more"),
        ({"out": "nowhere"}, "dataset nowhere does not exist"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    path = planned(settings)
    with pytest.raises(DatasetError, match=message):
        run(change.pop("out", path), **change)


def test_another_format_version(settings: dict[str, Any]) -> None:
    path = planned(settings)
    about = json.loads((path / "zarr.json").read_text())
    for version, readable in (("1.7", True), ("2.0", False)):
        about["attributes"]["worldsim"]["version"] = version
        (path / "zarr.json").write_text(json.dumps(about))
        if readable:
            assert run(path) == 0
        else:
            with pytest.raises(DatasetError, match=r"version 2\.0, this release reads 1\.x"):
                run(path)


def test_names_that_lead_out_of_the_dataset_are_refused(settings: dict[str, Any]) -> None:
    path = planned(settings)
    run(path)
    file = commit_path(path, 0, 0)
    record = json.loads(file.read_text())
    record.pop("seal")
    record["sha256"]["../../../../secret"] = "0"
    file.write_text(canonical_json(record))
    with pytest.raises(DatasetError, match=r"'../../../../secret' is no name of an array"):
        EpisodeReader(path)[0]


# ---------------------------------------------------------------- status, finalize, provenance


def test_status_counts_and_says_what_is_left(settings: dict[str, Any]) -> None:
    path = planned(settings)
    assert read_status(path).idle is None
    run(path)
    commit_path(path, 0, 7).unlink()
    now = max(record["committed"] for record in read_commits(path))
    status = read_status(path, now=now + 10)
    assert (status.planned, status.ok, status.missing, status.idle, status.finalized) == (8, 7, 1, 10.0, False)
    assert status.rate > 0
    assert status.seconds_left is not None
    assert status.seconds_left > 0
    assert read_status(path, now=now + 3600).seconds_left is None
    told = text_of(show_status, {"dataset": str(path), "minutes": 5.0, "json": False})
    assert "7 of 8 episodes (88%), 7 ok, 0 rejected, 0 failed" in told
    assert json.loads(text_of(show_status, {"dataset": str(path), "minutes": 5.0, "json": True}))["missing"] == 1


def test_reasons_are_counted(settings: dict[str, Any]) -> None:
    path = planned(settings, world_options={"reject_at": 8})
    run(path)
    assert read_status(path).reasons == {"too blurred": 4}
    assert "too blurred" in text_of(show_status, {"dataset": str(path), "minutes": 5.0, "json": False})


def test_finalize_wants_all_episodes_or_leave(settings: dict[str, Any]) -> None:
    path = planned(settings)
    run(path)
    commit_path(path, 0, 7).unlink()
    with pytest.raises(DatasetError, match="lacks 1 episodes of its plan: 'worldsim data resume"):
        finalize_job({"dataset": str(path)}, console=QUIET)
    finalize_job({"dataset": str(path), "partial": True}, console=QUIET)
    assert json.loads((path / "MANIFEST.json").read_text())["episodes"] == 7
    assert run(path, finalize=True) == 0
    assert json.loads((path / "MANIFEST.json").read_text())["episodes"] == 8


def test_every_commit_tells_where_it_comes_from(settings: dict[str, Any]) -> None:
    path = planned(settings)
    run(path)
    made = read_commits(path)[0]["made"]
    assert (made["plan"], made["world"], made["licence"]) == (read_plan(path).sha256(), "0", "unknown")
    assert {"worldsim", "python", "numpy", "device", "host"} <= set(made)
    generator = read_attributes(path)["generator"]
    assert {key: made[key] for key in generator} == generator


# ---------------------------------------------------------------- regenerate


def test_an_episode_is_made_again_bit_by_bit(settings: dict[str, Any]) -> None:
    path = planned(settings)
    run(path)
    for episode in (0, 4, 7):
        told = regenerate(path, episode)
        assert told.equal
        assert not told.streams
        assert not told.provenance
    assert regenerate_command({"dataset": str(path), "episode": 4}, console=QUIET) == 0


def test_regenerate_says_how_far_off(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = planned({**settings, "env": "toy_jobs:FailingWorld-v0"})
    run(path)
    monkeypatch.setenv("TOY_SHIFT", "3")
    told = regenerate(path, 2)
    assert not told.equal
    assert set(told.streams) == {"observation/images/main"}
    assert told.streams["observation/images/main"].maximum == 3
    monkeypatch.setattr("worldsim.datasets.regenerate.provenance", lambda: {"numpy": "9"})
    console = Console(record=True, width=200, file=io.StringIO())
    assert regenerate_command({"dataset": str(path), "episode": 2}, console=console) == 1
    out = console.export_text()
    assert "episode 2: not equal" in out
    assert "observation/images/main: at most 3 off, 3 on average" in out
    assert "is '9'" in out


def test_regenerate_needs_an_episode(settings: dict[str, Any]) -> None:
    path = planned(settings)
    with pytest.raises(ValueError, match="episode 99 is not in the plan: it has episodes 0 to 7"):
        regenerate(path, 99)
    with pytest.raises(ValueError, match=r"episode 2 of .* is not recorded as ok"):
        regenerate(path, 2)


# ---------------------------------------------------------------- command line


def test_the_commands_take_a_bare_path(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = planned(settings)
    assert main(["data", "run", str(path), "launcher=here", "writer.preview=false"]) == 0
    assert main(["data", "status", str(path), "json=true"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"] == 8
    assert main(["data", "regenerate", str(path), "episode=3"]) == 0
    assert "bit-equal" in capsys.readouterr().out
    assert main(["data", "run", str(path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_plan_and_generate_share_their_settings() -> None:
    mine, theirs = (set(compose(name)) for name in ("data_plan", "generate"))
    assert theirs - mine == {"workers", "writer"}
    assert mine <= theirs
