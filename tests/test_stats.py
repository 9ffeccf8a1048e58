"""Statistics, card and Croissant metadata of a dataset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium import Space, spaces
from PIL import Image

from worldsim.config import compose
from worldsim.datasets.card import escape
from worldsim.datasets.layout import canonical_json
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.stats import describe, main, statistics, write_statistics
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode

EVIL = "a | [b](http://x) <script>alert(1)</script>\n\n# c `d`"
BOX = spaces.Box(-1, 1, (2,), np.float32)


def episode(steps: int, seed: int, **kwargs: Any) -> Episode:
    return Episode(
        frames=np.zeros((steps + 1, 16, 16, 3), np.uint8),
        actions=np.tile(np.array([[0.5, -0.5]], np.float32), (steps, 1)),
        rewards=np.full(steps, seed, np.float32),
        terminated=np.zeros(steps, np.bool_),
        truncated=np.zeros(steps, np.bool_),
        state=np.arange(steps + 1, dtype=np.float32)[:, None],
        **{"seed": seed, "scenario": "calm", "policy": "dice", **kwargs},
    )


def write(path: Path, episodes: list[Episode], space: Space[Any] = BOX, **kwargs: Any) -> Path:
    write_dataset(path, episodes, **{"name": "toy", "fps": 10.0, "action_space": space, "state_names": ("x",), **kwargs})
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lost = [replace(episode(3, 5), status="rejected", reason=EVIL), replace(episode(3, 6), status="failed", reason="nan")]
    good = [episode(4, 1), episode(8, 2, scenario=EVIL, policy="driver")]
    return write(tmp_path_factory.mktemp("stats") / "toy", [*good, *lost], name=EVIL, licence="CC0-1.0", source={"id": EVIL})


def test_counts_are_those_of_the_episodes(root: Path) -> None:
    found = statistics(root)
    assert {key: found["all"][key] for key in ("episodes", "frames", "steps", "rejected", "failed")} == {
        "episodes": 2,
        "frames": 14,
        "steps": 12,
        "rejected": 1,
        "failed": 1,
    }
    assert found["scenario"]["calm"]["return"]["mean"] == 4
    assert found["scenario"][EVIL]["length"]["max"] == 8
    assert (found["policy"]["driver"]["episodes"], found["policy"]["dice"]["rejected"]) == (1, 1)
    assert found["lost"] == {f"rejected: {EVIL}": 1, "failed: nan": 1}
    columns = {column["name"]: column for column in found["columns"]}
    assert (columns["action 1"]["mean"], columns["x"]["max"], columns["reward"]["count"]) == (-0.5, 8, 12)


def test_columns_that_are_odd() -> None:
    found = describe(np.array([1, np.nan, np.inf, 3], np.float32), bins=4)
    assert (found["count"], found["nonfinite"], found["min"], found["max"]) == (2, 2, 1, 3)
    assert describe(np.array([np.nan], np.float32), bins=4)["min"] is None
    assert describe(np.array([2, 2, 4]), bins=10)["histogram"] == {"counts": [2, 0, 1], "edges": [1.5, 2.5, 3.5, 4.5]}
    assert len(describe(np.arange(100), bins=10)["histogram"]["counts"]) == 10
    assert sum(describe(np.full(5, 7.0), bins=3)["histogram"]["counts"]) == 5


def test_files_are_json_and_pictures(root: Path, tmp_path: Path) -> None:
    files = write_statistics(statistics(root, bins=5), tmp_path / "out")
    assert [file.name for file in files] == ["stats.json", "action.png", "reward.png", "state.png", "lengths.png", "returns.png"]
    assert json.loads(files[0].read_text())["all"]["episodes"] == 2
    for file in files[1:]:
        with Image.open(file) as image:
            assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 3


def test_command_prints_tables_and_leaves_markup_alone(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(compose("data_stats", [f"dataset={root}"], None))
    out = capsys.readouterr().out
    assert "1 failed: nan" in out
    assert "[b](http://x)" in out
    main(compose("data_stats", [f"dataset={root}", f"out={tmp_path / 'out'}"], None))
    assert (tmp_path / "out" / "returns.png").exists()
    with pytest.raises(ValueError, match="bins=0 must be 1 or more"):
        statistics(root, bins=0)


def test_discrete_actions_and_no_state(tmp_path: Path) -> None:
    one = replace(episode(4, 1), actions=np.array([[0], [2], [2], [1]]), state=np.zeros((5, 0), np.float32))
    found = statistics(write(tmp_path / "toy", [one], spaces.Discrete(3), state_names=()))
    first = found["columns"][0]
    assert (first["name"], first["histogram"]["counts"]) == ("action 0", [1, 1, 2])
    assert "state" not in {column["kind"] for column in found["columns"]}


def test_a_dataset_without_usable_episodes(tmp_path: Path) -> None:
    found = statistics(write(tmp_path / "toy", [replace(episode(4, 1), status="rejected", reason="dark")]))
    assert (found["all"]["episodes"], found["all"]["length"], found["columns"]) == (0, None, [])
    assert [file.name for file in write_statistics(found, tmp_path / "out")] == ["stats.json"]


# ---------------------------------------------------------------- card


def test_card_is_a_hub_card_and_its_texts_stay_texts(root: Path) -> None:
    card = (root / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["pretty_name"], head["size_categories"]) == ("cc0-1.0", EVIL, ["n<1K"])
    body = card.split("---\n", 2)[2]
    assert "<script" not in body
    assert "[b]" not in body
    assert [line for line in body.splitlines() if line.startswith("#")] == [f"# {escape(EVIL)}"]
    rows = [line for line in body.splitlines() if line.startswith("| a ")]
    assert all(line.replace("\\|", "").count("|") == 7 for line in rows)
    assert "| episodes | 2 (1 rejected, 1 failed) |" in body
    assert EpisodeReader(root).info.fingerprint in body


def test_card_of_an_unknown_licence(tmp_path: Path) -> None:
    card = (write(tmp_path / "toy", [episode(3, 0)], licence="ask me: first") / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", "ask me: first")


# ---------------------------------------------------------------- Croissant


def test_croissant_names_files_by_hash_and_streams_by_pattern(root: Path) -> None:
    about = json.loads((root / "croissant.json").read_text())
    assert (about["@type"], about["conformsTo"]) == ("sc:Dataset", "http://mlcommons.org/croissant/1.0")
    assert about["license"] == "https://spdx.org/licenses/CC0-1.0.html"
    objects = {item["@id"]: item for item in about["distribution"] if item["@type"] == "cr:FileObject"}
    assert {"zarr.json", "plan.json", "index/stats.json"} <= set(objects)
    for name, item in objects.items():
        assert item["sha256"] == hashlib.sha256((root / name).read_bytes()).hexdigest()
    sets = [item for item in about["distribution"] if item["@type"] == "cr:FileSet"]
    for item in sets:
        assert len(list(root.glob(item["includes"]))) == 4, item["includes"]
    assert canonical_json(about) == canonical_json(json.loads((root / "croissant.json").read_text()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib", "ignore::DeprecationWarning:mlcroissant")
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
def test_croissant_is_read_by_its_own_library(root: Path) -> None:
    library = pytest.importorskip("mlcroissant")
    dataset = library.Dataset(str(root / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    records = list(dataset.records("episodes"))
    assert [record["episodes/length"] for record in records] == [4, 8, 3, 3]
    assert records[1]["episodes/scenario"].decode() == EVIL
    assert {record["streams/dtype"] for record in dataset.records("streams")} >= {"uint8", "float32"}
