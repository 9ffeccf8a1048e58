"""Verification: whatever is damaged is found, named with its episode, and never read as data."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from omegaconf import OmegaConf

from worldsim.config import compose
from worldsim.datasets.finalize import finalize
from worldsim.datasets.layout import FRAMES, canonical_json, commit_path, shard_path
from worldsim.datasets.plan import make_plan
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.seal import SEAL, check_seal, file_sha256, seal
from worldsim.datasets.units import Problem
from worldsim.datasets.verify import main, verify
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def corruption() -> Iterator[Any]:
    """The benchmark of the same name, whose short form is run here."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield import_module("dataset_corruption")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, corruption: Any) -> Path:
    path = tmp_path_factory.mktemp("written") / "toy"
    corruption.make_dataset(path, episodes=4, preview=False)
    (path / "contact_sheet.png").write_bytes(b"picture")
    finalize(path)
    return path


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "toy")


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_random_damage_over_every_kind_of_file_is_found_and_never_read(root: Path, corruption: Any) -> None:
    outcomes = corruption.corrupt(root, 30, seed=3, show=lambda _: None)
    assert [one for one in outcomes if not (one.found and one.named)] == []
    assert [one for one in outcomes if one.read == "wrong"] == []
    assert {one.how for one in outcomes} >= {"flip", "truncate"}
    kinds = {one.kind for one in outcomes}
    assert {"commit records", "array metadata", "index", "MANIFEST.json", "croissant.json", "README.md", "plan.json", "previews"} <= kinds


def test_findings_are_the_same_in_every_number_of_processes(root: Path) -> None:
    assert verify(root) == []
    shard_path(root, 0, FRAMES, 2, 5).unlink()
    (root / "README.md").write_text("other")
    assert {p.line() for p in verify(root)} == {p.line() for p in verify(root, workers=2)}
    assert len(verify(root)) == 2


@pytest.mark.parametrize(
    ("file", "episode", "affects"),
    [
        ("parts/p00000/action/c.2.0.0", 2, "episode 2"),
        ("commits/p00000/000001.json", 1, "episode 1"),
        ("parts/p00000/action/zarr.json", None, "episodes 0 to 3"),
        ("plan.json", None, "all episodes"),
        ("contact_sheet.png", None, "all episodes"),
        ("index/stats.json", None, "all episodes"),
    ],
)
def test_a_cut_file_is_named_with_the_episodes_that_need_it(root: Path, file: str, episode: int | None, affects: str) -> None:
    (root / file).write_bytes((root / file).read_bytes()[:-1])
    found = next(problem for problem in verify(root) if problem.file == file)
    assert (found.episode, found.affects) == (episode, affects)
    assert str(root / file) in found.line()
    assert found.line().startswith(affects)
    assert "\n" not in found.line()


def test_kinds_of_damage(root: Path) -> None:
    (root / "letter.txt").write_text("dear")
    assert (only(verify(root)).kind, only(verify(root)).file) == ("extra", "letter.txt")
    (root / "letter.txt").unlink()
    file = shard_path(root, 0, "reward", 1, 2)
    data = file.read_bytes()
    file.write_bytes(data[:5])
    assert only(verify(root)).kind == "truncated"
    assert f"5 of {len(data)} bytes are left" in only(verify(root)).message
    file.unlink()
    assert only(verify(root)).kind == "missing"
    file.write_bytes(data)
    (root / "MANIFEST.json").unlink()
    assert only(verify(root)).kind == "missing"


def test_a_shard_that_was_swapped_before_the_manifest_was_written_is_found(root: Path) -> None:
    manifest = json.loads((root / "MANIFEST.json").read_text())
    swapped = shard_path(root, 0, FRAMES, 0, 5)
    shutil.copy(shard_path(root, 0, FRAMES, 2, 5), swapped)
    about = {"size": swapped.stat().st_size, "sha256": file_sha256(swapped)}
    manifest["files"][swapped.relative_to(root).as_posix()] = about
    (root / "MANIFEST.json").write_text(canonical_json(seal(manifest)))
    found = only(verify(root))
    assert (found.episode, found.file) == (0, swapped.relative_to(root).as_posix())
    assert "is not what was committed" in found.message


def test_a_manifest_that_leads_out_of_the_dataset_is_refused(root: Path) -> None:
    manifest = json.loads((root / "MANIFEST.json").read_text())
    manifest["files"]["../secret"] = {"size": 1, "sha256": ""}
    (root / "MANIFEST.json").write_text(canonical_json(seal(manifest)))
    assert "'../secret', which is not inside the dataset" in only(verify(root)).message


def test_names_cannot_forge_lines(root: Path) -> None:
    (root / "a\nall is well\x1b[2J").write_text("")
    line = only(verify(root)).line()
    assert "\n" not in line
    assert "\x1b" not in line


# ---------------------------------------------------------------- before finalize


def started(path: Path) -> EpisodeWriter:
    spec = make_spec(name="toy", frame_size=(16, 16), fps=5.0, action_space=spaces.Discrete(3))
    create_dataset(path, spec, make_plan([EpisodeJob(i, i, 9, "calm", "dice") for i in range(3)]))
    return EpisodeWriter(path)


def blank(seed: int) -> Episode:
    frames, flags = np.full((10, 16, 16, 3), seed, np.uint8), np.zeros(9, np.bool_)
    return Episode(frames, np.zeros((9, 1), np.int64), np.zeros(9, np.float32), flags, flags, np.zeros((10, 0), np.float32), seed=seed)


def test_a_dataset_that_is_still_written_is_checked(tmp_path: Path) -> None:
    writer = started(tmp_path / "toy")
    for i in range(2):
        writer.write(writer.plan.jobs[i], blank(i))
    assert verify(tmp_path / "toy") == []
    file = commit_path(tmp_path / "toy", 0, 1)
    text = file.read_text()
    file.write_text(text.replace('"attempt":1', '"attempt":3'))
    assert (only(verify(tmp_path / "toy")).episode, only(verify(tmp_path / "toy")).file) == (1, "commits/p00000/000001.json")
    with pytest.raises(ValueError, match=r"000001\.json is not what was written"):
        EpisodeReader(tmp_path / "toy")
    file.write_text(text)
    shard_path(tmp_path / "toy", 0, "action", 0, 3).unlink()
    assert "is missing" in only(verify(tmp_path / "toy")).line()
    shutil.copy(shard_path(tmp_path / "toy", 0, "action", 1, 3), shard_path(tmp_path / "toy", 0, "action", 0, 3))
    assert verify(tmp_path / "toy") == []
    (tmp_path / "toy/parts/p00000/action/c.9.0.0").write_text("")
    assert only(verify(tmp_path / "toy")).kind == "extra"


def test_an_episode_that_failed_has_nothing_to_check(tmp_path: Path) -> None:
    writer = started(tmp_path / "toy")
    writer.write(writer.plan.jobs[0], blank(0))
    writer.fail(writer.plan.jobs[1], "the wheel fell off")
    assert verify(tmp_path / "toy") == []
    finalize(tmp_path / "toy")
    assert verify(tmp_path / "toy") == []


def test_a_dataset_that_grew_after_finalize_says_so_once(tmp_path: Path) -> None:
    writer = started(tmp_path / "toy")
    for job in writer.plan.jobs:
        writer.write(job, blank(job.seed))
    finalize(tmp_path / "toy")
    more = writer.plan.extended([EpisodeJob(3, 3, 9, "calm", "dice")])
    spec = make_spec(name="toy", frame_size=(16, 16), fps=5.0, action_space=spaces.Discrete(3))
    create_dataset(tmp_path / "toy", spec, more)
    EpisodeWriter(tmp_path / "toy").write(more.jobs[3], blank(3))
    assert only(verify(tmp_path / "toy")).kind == "stale"
    finalize(tmp_path / "toy")
    assert verify(tmp_path / "toy") == []


@pytest.mark.parametrize(("number", "value"), [(2, 17), (3, 20), (4, 2), (1, 5)])
def test_array_metadata_of_another_shape_is_never_read(root: Path, written: Path, number: int, value: int) -> None:
    file = root / f"parts/p00000/{FRAMES}/zarr.json"
    about = json.loads(file.read_text())
    about["shape"][number] = value
    file.write_text(json.dumps(about))
    try:
        frames = EpisodeReader(root, check=False).frames(0, 3, 12)
    except ValueError as error:
        assert str(file.parent) in str(error)  # noqa: PT017 - reading rightly is as good
        return
    np.testing.assert_array_equal(frames, EpisodeReader(written, check=False).frames(0, 3, 12))


def test_chunk_keys_of_another_form_are_never_read_as_zeros(root: Path, written: Path) -> None:
    file = root / f"parts/p00000/{FRAMES}/zarr.json"
    file.write_text(file.read_text().replace('"separator": "."', '"separator": "/"'))
    try:
        frames = EpisodeReader(root, check=False).frames(0)
    except ValueError as error:
        assert str(file.parent) in str(error)  # noqa: PT017
        return
    np.testing.assert_array_equal(frames, EpisodeReader(written).frames(0))


# ---------------------------------------------------------------- the command and the seal


def test_command_prints_one_line_a_problem_and_exits_with_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose("data_verify", [f"dataset={root}", "workers=1"], None)
    assert main(cfg) == 0
    assert "all as they were written" in capsys.readouterr().out
    shard_path(root, 0, "action", 1, 3).unlink()
    assert main(cfg) == 1
    out = capsys.readouterr().out
    assert "episode 1: " in out
    assert "1 problem found" in out
    assert main(OmegaConf.merge(cfg, {"json": True})) == 1  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out)[0]["file"] == "parts/p00000/action/c.1.0.0"


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        verify(tmp_path / "nothing")
    with pytest.raises(ValueError, match="workers=0 must be 1 or more"):
        verify(tmp_path, workers=0)
    assert {problem.file for problem in verify(tmp_path)} == {"zarr.json", "plan.json"}


def test_a_seal_is_broken_by_any_change(tmp_path: Path) -> None:
    record = seal({"a": 1, "b": [1.5, "é"]})
    check_seal(record, tmp_path)
    check_seal({"a": 1}, tmp_path)
    for change in ({"a": 2}, {"c": 1}, {SEAL: "0"}):
        with pytest.raises(ValueError, match="is not what was written"):
            check_seal({**record, **change}, tmp_path)
    assert seal(record) == record
