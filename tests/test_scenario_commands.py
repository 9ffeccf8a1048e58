"""``worldsim scenario list | show | validate | expand``, and packs of scenarios."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from worldsim.cli import main
from worldsim.config import PACKS_VARIABLE
from worldsim.scenario import expand, load_scenarios, plan_hash

MINE = """\
# Slippery.
wet:
  policy: {_target_: worldsim.policies.random.RandomPolicy}
  conditioning: {numbers: {grip: $grip}}
  variants: {grid: {grip: [0.2, 0.4]}}
  seeds: 3
"""
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Told:
    def run(*args: object) -> tuple[int, str, str]:
        code = main(["scenario", *map(str, args)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_list_has_the_shipped_ones_and_those_of_files(tell: Told, mine: Path) -> None:
    code, out, _ = tell("list", mine)
    lines = [line.split(maxsplit=2) for line in out.splitlines()]
    assert code == 0
    assert {"calm", "night", "wet"} <= {line[0] for line in lines}
    assert ["wet", "6", "Slippery."] in lines
    assert all(len(line) == 3 for line in lines), "every shipped scenario has a description"


def test_show_reads_back(tell: Told, mine: Path, tmp_path: Path) -> None:
    for name, files in (("sticky", []), ("wet", [f"files=[{mine}]"])):
        code, out, _ = tell("show", name, *files)
        (tmp_path / "again.yaml").write_text(out)
        assert code == 0
        assert list(yaml.safe_load(out)) == [name]
        assert [scenario.name for scenario in load_scenarios(tmp_path / "again.yaml")] == [name]
    code, _, err = tell("show", "stiky")
    assert code == 2
    assert "did you mean 'sticky'" in err


def test_validate_counts_or_tells_every_mistake(tell: Told, mine: Path, tmp_path: Path) -> None:
    assert tell("validate", mine)[:2] == (0, "1 scenarios, 6 episodes\n")
    assert tell("validate")[0] == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(MINE.replace("wet:", "dry:").replace("seeds: 3", "seeds: 0\n  horizn: 3"))
    code, out, err = tell("validate", mine, bad)
    assert (code, out) == (2, "")
    assert [line.partition("bad.yaml")[2][:3] for line in err.splitlines()] == [":7:", ":6:"]
    code, _, err = tell("validate", mine, "world=carracing-nano")
    assert code == 2
    assert "world carracing-nano knows no number 'grip'" in err
    assert "did you mean 'carracing-nano'" in tell("validate", mine, "world=carracing-nan")[2]


def test_what_names_its_world_is_checked_against_it(tell: Told, mine: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.yaml"
    named.write_text(MINE.replace("wet:", "wet:\n  world: carracing-nano"))
    assert "world carracing-nano knows no number 'grip'" in tell("validate", named)[2]
    assert "[carracing-nano]" in next(line for line in tell("list", named)[1].splitlines() if line.startswith("wet "))
    named.write_text(MINE.replace("wet:", "wet:\n  world: carracing-nan"))
    assert "did you mean 'carracing-nano'" in tell("validate", named)[2]
    named.write_text(MINE.replace("wet:", "wet:\n  world: someone/on-the-hub"))
    assert tell("validate", named)[0] == 0


def test_expand_shows_a_table_or_writes_every_episode(tell: Told, mine: Path, tmp_path: Path) -> None:
    told = plan_hash(expand(load_scenarios(mine), 3))
    code, out, _ = tell("expand", mine, "seed=3", "rows=4")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 7
    assert lines[-2:] == ["... and 2 more", f"6 episodes, plan {told}"]
    assert "grip=0.4" in lines[4]
    file = tmp_path / "below" / "episodes.jsonl"
    code, out, _ = tell("expand", mine, "seed=3", f"out={file}")
    assert told in out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(6))
    assert [row["episode"]["conditioning"]["numbers"]["grip"] for row in rows] == [0.2] * 3 + [0.4] * 3
    assert tell("expand", mine, "seed=4")[1] != tell("expand", mine, "seed=3")[1]
    code, _, err = tell("expand")
    assert code == 2
    assert "there is no scenario: name some" in err


def test_packs_add_scenarios_but_replace_none(tell: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = tmp_path / "my_pack" / "settings"
    (pack / "scenario").mkdir(parents=True)
    for folder in (pack.parent, pack, pack / "scenario"):
        (folder / "__init__.py").touch()
    body = "description: A storm.\npolicy: {_target_: worldsim.policies.random.RandomPolicy}\n"
    (pack / "scenario" / "storm.yaml").write_text(f"# @package scenario.storm\n{body}")
    (pack / "scenario" / "calm.yaml").write_text(f"# @package scenario.calm\n{body}")
    assert "storm" not in tell("list")[1]
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_pack.settings", "pkg://my_pack.settings", str(pack)):
        monkeypatch.setenv(PACKS_VARIABLE, name)
        code, out, _ = tell("list")
        assert code == 0
        assert out.count("A storm.") == 1
        assert tell("expand", "scenario=[storm,calm]", "count=1")[0] == 0
    monkeypatch.setenv(PACKS_VARIABLE, "my_pak")
    code, _, err = tell("list")
    assert code == 2
    assert "'my_pak' is neither an installed package nor a folder" in err


def test_scenario_alone_lists_its_commands(tell: Told) -> None:
    code, out, _ = tell()
    assert code == 0
    assert all(f"scenario {name}" in out for name in ("list", "show", "validate", "expand"))
    assert "data plan" not in out
