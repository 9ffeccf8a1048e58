"""Datasets in an object store do what they do in a folder: against an S3 server on this machine."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from rich.console import Console
from s3_server import QUIET, make_bucket, planned, reading_key, refusing, run, serving, settings

if missing := [name for name in ("obstore", "moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]:
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

from worldsim.datasets import lease, objects
from worldsim.datasets.exporting import export
from worldsim.datasets.generate import generate
from worldsim.datasets.identity import dataset_hash, file_hashes
from worldsim.datasets.job import finalize_job
from worldsim.datasets.layout import FRAMES, DatasetSpec, commit_path, shard_path
from worldsim.datasets.lock import job_lock
from worldsim.datasets.merge import merge
from worldsim.datasets.objects import StorePath
from worldsim.datasets.plan import Plan, make_plan
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.regenerate import regenerate
from worldsim.datasets.stats import statistics
from worldsim.datasets.status import read_status
from worldsim.datasets.storage import name_in, sizes
from worldsim.datasets.torch_dataset import ClipDataset, EpisodeDataset, clip_loader
from worldsim.datasets.verify import verify
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec, read_plan
from worldsim.rollout import EpisodeJob


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    told = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "REGION": "us-east-1"}
    for name, value in told.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("WORLDSIM_TRUST", "toy_sources")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> str:
    make_bucket(endpoint, "data")
    return "s3://data"


@pytest.fixture
def out(bucket: str, request: pytest.FixtureRequest) -> StorePath:
    return StorePath.parse(f"{bucket}/tests/{request.node.name.replace('[', '-').replace(']', '')}")


def text_of(function: Any, *args: Any) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    function(*args, console=console)
    return console.export_text()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same dataset in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDSIM_TRUST", "toy_sources")
        patch.syspath_prepend(str(Path(__file__).parent))
        return Path(str(generate(settings(tmp_path_factory.mktemp("local") / "toy"), console=QUIET).path))


@pytest.fixture
def stored(bucket: str, local: Path) -> StorePath:
    """A finalized dataset in the store; made once."""
    path = StorePath.parse(f"{bucket}/stored")
    if not path.is_dir():
        generate(settings(path), console=QUIET)
    return path


# ---------------------------------------------------------------- jobs


def test_a_generated_dataset_is_the_one_of_a_folder(stored: StorePath, local: Path) -> None:
    assert file_hashes(stored) == file_hashes(local)
    assert dataset_hash(stored) == dataset_hash(local)
    assert set(sizes(stored)) == set(sizes(local))
    assert verify(stored) == []
    mine, theirs = EpisodeReader(stored), EpisodeReader(local)
    assert mine.info == theirs.info
    assert mine.split("heldout") == theirs.split("heldout")
    for a, b in zip(mine, theirs, strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.actions, b.actions)
    assert statistics(stored) == statistics(local)


def test_a_killed_worker_and_a_resumed_job_lose_nothing(out: StorePath, local: Path, tmp_path: Path) -> None:
    died = tmp_path / "died"
    planned(out, world_options={"die_once": str(died)})
    whole = planned(tmp_path / "whole", world_options={"die_once": str(died)})
    assert run(out, launcher="processes", workers=2, shuffle=3) == 0
    assert died.exists()
    assert run(whole) == 0
    assert dataset_hash(out) == dataset_hash(whole)
    for number in (1, 4):
        commit_path(out, *read_plan(out).place(number)).unlink()
    assert read_status(out).missing == 2
    assert run(out) == 0
    assert dataset_hash(out) == dataset_hash(whole)
    assert "8 of 8" in text_of(show, out)
    finalize_job({"dataset": str(out)}, console=QUIET)
    assert verify(out) == []
    assert read_status(out).finalized


def show(path: StorePath, *, console: Console) -> None:
    from worldsim.datasets.status import show_status

    show_status({"dataset": str(path), "minutes": 5}, console=console)


def test_running_again_is_a_no_op(stored: StorePath) -> None:
    before = {name: (stored / name).tag() for name in sizes(stored)}
    assert run(stored) == 0
    assert {name: (stored / name).tag() for name in sizes(stored)} == before


def test_failed_episodes_are_tried_again(out: StorePath, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = read_plan(local).jobs[4].seed
    planned(out, world_options={"fail_seed": seed})
    assert run(out) == 1
    assert {r["attempt"] for r in read_commits(out) if r["status"] == "failed"} == {1}
    monkeypatch.setenv("TOY_MENDED", "1")
    assert run(out, attempts=2) == 0
    assert {r["attempt"] for r in read_commits(out)} == {1, 2}
    assert not verify(out)


def test_a_second_commit_is_recognised_and_another_content_refused(out: StorePath, local: Path) -> None:
    planned(out)
    writer, other, plan = EpisodeWriter(out), EpisodeWriter(out), read_plan(out)
    episode, wrong = EpisodeReader(local)[0], EpisodeReader(local)[1]
    job = plan.jobs[0]
    first = writer.write(job, episode)
    assert other.write(job, episode) == first
    before = file_hashes(out)
    with pytest.raises(ValueError, match="written by another worker with other content, and committed"):
        other.write(job, wrong)
    with pytest.raises(ValueError, match=r"committed by another worker .* with other content; that one is kept"):
        other.fail(job, "broke")
    assert file_hashes(out) == before
    assert not verify(out)


def test_what_a_dead_planner_left_is_begun_again_and_other_things_are_left_alone(out: StorePath) -> None:
    planned(out)
    (out / "zarr.json").unlink()
    planned(out)
    assert run(out) == 0
    with pytest.raises(ValueError, match="holds a dataset of another plan"):
        planned(out, seed=6)
    letter = out.with_name("letters")
    (letter / "letter.txt").write_bytes(b"dear")
    with pytest.raises(ValueError, match="letters exists and is no worldsim dataset"):
        planned(letter)
    assert sizes(letter) == {"letter.txt": 4}


def test_more_episodes_are_new_parts(out: StorePath, tmp_path: Path) -> None:
    for path in (out, tmp_path / "folder"):
        for count in (2, 5):
            create_dataset(path, *described(count))
            writer = EpisodeWriter(path)
            for job in writer.plan.jobs[-2:]:
                writer.fail(job, "broke")
    assert set(sizes(out)) == set(sizes(tmp_path / "folder"))
    assert dataset_hash(out) == dataset_hash(tmp_path / "folder")


def described(count: int) -> tuple[DatasetSpec, Plan]:
    spec = make_spec(name="toy", frame_size=(16, 16), fps=10, action_space=Box(-1, 1, (2,), np.float32))
    return spec, make_plan([EpisodeJob(i, i, 8) for i in range(count)])


# ---------------------------------------------------------------- one job


def test_a_second_job_is_refused_until_the_first_is_done(out: StorePath) -> None:
    planned(out)
    with job_lock(out), pytest.raises(ValueError, match=r"another job runs in s3://data.*its hold ends in \d+ s; nothing was changed"):
        run(out)
    assert run(out) == 0
    assert not out.with_name(f".{out.name}.lock").exists()


def test_the_lease_of_a_dead_job_runs_out(out: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    held = out.with_name(f".{out.name}.lock")
    told = {"owner": "dead", "host": "gone", "process": 1, "expires": time.time() - 1}
    held.write_bytes(json.dumps(told).encode())
    with job_lock(out):
        assert json.loads(held.read_bytes())["owner"] != "dead"
    assert not held.exists()


def test_a_lease_is_renewed_and_its_loss_is_told(out: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.4)
    held = out.with_name(f".{out.name}.lock")

    def lose() -> None:
        with job_lock(out):
            first = json.loads(held.read_bytes())["expires"]
            until(lambda: json.loads(held.read_bytes())["expires"] > first)
            held.write_bytes(json.dumps({"owner": "thief", "host": "h", "process": 2, "expires": time.time() + 60}).encode())
            time.sleep(0.5)

    with pytest.raises(ValueError, match=r"another job took s3://data/tests/.* over"):
        lose()
    assert json.loads(held.read_bytes())["owner"] == "thief"


def until(true: Any) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("did not happen in time")


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "empty"])
def test_damage_is_found_and_never_read(out: StorePath, local: Path, harm: str) -> None:
    for name in sizes(local):
        (out / name).write_bytes((local / name).read_bytes())
    files = [shard_path(out, 0, FRAMES, 2, 5), commit_path(out, 0, 3), out / "parts/p00000/reward/zarr.json", out / "index/length/c/0"]
    for file in files:
        good = file.read_bytes()
        flipped = good[: len(good) // 3] + bytes([good[len(good) // 3] ^ 4]) + good[len(good) // 3 + 1 :]
        if harm == "gone":
            file.unlink()
        else:
            file.write_bytes({"cut": good[: len(good) // 2], "flipped": flipped, "empty": b""}[harm])
    found = {problem.file for problem in verify(out)}
    assert found >= {name_in(out, file) for file in files}
    for read in (lambda: EpisodeReader(out)[2], lambda: EpisodeReader(out).frames(2)):
        with pytest.raises(ValueError, match=r"s3://data/tests/.*(000003.json|c.2.0.0.0.0|zarr.json) (is|cannot)"):
            read()


# ---------------------------------------------------------------- readers


@pytest.mark.parametrize("workers", [0, 1])
def test_clips_are_those_of_a_folder(stored: StorePath, local: Path, workers: int) -> None:
    loaders = [clip_loader(ClipDataset(path, frames=4), batch=4, seed=1, workers=n) for path, n in ((stored, workers), (local, 0))]
    for mine, theirs in zip(*loaders, strict=True):
        assert set(mine) == set(theirs)
        assert all(bool((mine[name] == theirs[name]).all()) for name in mine)
    assert EpisodeDataset(str(stored), split=None)[1]["frames"].equal(EpisodeDataset(local, split=None)[1]["frames"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_reader_is_told_so_rather_than_hang(stored: StorePath) -> None:
    loader = clip_loader(ClipDataset(stored, frames=4), batch=2, workers=1, start_method="fork")
    with pytest.raises(ValueError, match="in a process forked off one that has read a store: start workers by 'spawn'"):
        next(iter(loader))


def test_xarray_reads_lazily(stored: StorePath, local: Path) -> None:
    pytest.importorskip("xarray")
    from worldsim.datasets.xarray_view import open_xarray

    mine, theirs = open_xarray(stored), open_xarray(local)
    assert mine.sizes == theirs.sizes
    np.testing.assert_array_equal(mine.frames[7:30, 2].values, theirs.frames[7:30, 2].values)
    assert mine.identical(theirs)


def test_an_unfinalized_dataset_is_read_by_its_records(out: StorePath, local: Path) -> None:
    planned(out)
    run(out)
    assert [len(episode) for episode in EpisodeReader(out)] == EpisodeReader(local).lengths().tolist()  # type: ignore[attr-defined]


# ---------------------------------------------------------------- from one place to the other


def test_merge_and_export_cross_from_store_to_folder_and_back(out: StorePath, stored: StorePath, tmp_path: Path) -> None:
    other = Path(str(generate(settings(tmp_path / "other", seed=8), console=QUIET).path))
    merge(tmp_path / "merged", [stored, other])
    merge(str(out), [str(stored), other])
    assert file_hashes(out) == file_hashes(tmp_path / "merged")
    assert not verify(out)
    with pytest.raises(ValueError, match="exists: choose another 'out'"):
        merge(out, [stored, other])
    export(str(out), tmp_path / "numpy", format="numpy", console=QUIET)
    assert any((tmp_path / "numpy").iterdir())


def test_an_episode_is_made_again(stored: StorePath) -> None:
    assert regenerate(stored, 3).equal


def test_pictures_go_where_the_dataset_is(out: StorePath) -> None:
    generate(settings(out, writer={"preview": True}), console=QUIET)
    assert (out / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "preview.mp4" in sizes(out) or "preview.gif" in sizes(out)
    assert not verify(out)


def test_lists_are_longer_than_a_page(out: StorePath) -> None:
    names = [f"{i:02d}" for i in range(45)]  # the server gives 20 at a time
    for name in names:
        (out / name).write_bytes(b"x")
    assert sizes(out) == dict.fromkeys(names, 1)
    out.remove_all()
    assert sizes(out) == {}


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("url", ["s3://", "s3://data", "s3:///name", "s3://data/../up"])
def test_an_address_without_bucket_or_name_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no place for a dataset: name a bucket and a folder in it"):
        EpisodeReader(url)


@pytest.mark.parametrize("use", [EpisodeReader, planned, run, verify, read_status])
def test_a_missing_bucket_is_one_sentence(use: Any) -> None:
    with pytest.raises(ValueError, match=r"^bucket s3://nowhere does not exist at http://127.0.0.1:\d+: make it, or correct its name$"):
        use("s3://nowhere/name")


def test_a_missing_dataset_is_one_sentence(bucket: str) -> None:
    for use in (EpisodeReader, run, verify, read_status):
        with pytest.raises(ValueError, match="dataset s3://data/none does not exist"):
            use(Path(f"{bucket}/none"))  # pathlib makes one slash of two


def test_credentials_are_told_from_what_they_may_not(stored: StorePath, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = reading_key(endpoint)
    fresh = StorePath("s3://data", "fresh")
    with refusing(endpoint):
        with pytest.raises(ValueError, match=r"^s3://data at http://.* refuses access to s3://data/.* \(InvalidAccessKeyId\): set AWS_"):
            EpisodeReader(stored)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        objects.forget()
        assert len(EpisodeReader(stored)[0]) > 0
        assert read_status(stored).missing == 0
        with pytest.raises(ValueError, match=r"refuses access to s3://data/\.fresh\.lock \(AccessDenied\)"):
            planned(fresh)
    assert not fresh.is_dir()


def test_a_store_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objects.RETRIES, "max_retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"^s3://unreached at http://127\.0\.0\.1:9 cannot be reached: look at the network"):
        EpisodeReader("s3://unreached/name")


def test_local_use_imports_no_client() -> None:
    code = "import sys, worldsim, worldsim.datasets.job, worldsim.datasets.verify; assert 'obstore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_package_is_one_sentence(bucket: str) -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\nfrom worldsim.datasets.reader import EpisodeReader\n"
        "try: EpisodeReader('s3://data/x')\nexcept ValueError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "obstore is not installed: run pip install 'worldsim-gym[s3]'" in told
