"""Scenarios: strict parsing, expansion to episodes, and the batch job over a world."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from worldsim.datasets.generate import generate, plan_scenarios, read_scenarios
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.verify import verify
from worldsim.episode import Conditioning
from worldsim.scenario import ScenarioError, load_scenarios, parse_scenario, script
from worldsim.scenario.parts import ContextStart, NoisePerturb, StickyPerturb

DICE = {"_target_": "toy_sources.Dice"}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("WORLDSIM_TRUST", "toy_sources")
    return {
        "env": "toy_sources:ToyWorld-v0",
        "world": "toy",
        "scenario": {
            "free": {"policy": DICE},
            "held": {"policy": {**DICE, "scale": 0.5}, "context": 42, "horizon": 6, "conditioning": {"text": "fog"}},
        },
        "horizon": 12,
        "count": 3,
        "seed": 5,
        "batch": 4,
        "out": str(tmp_path / "out"),
    }


def run(settings: dict[str, Any], **changes: Any) -> EpisodeReader:
    return generate({**settings, **changes}, console=Console(quiet=True))


def test_every_scenario_runs_with_every_seed(settings: dict[str, Any]) -> None:
    store = run(settings)
    episodes = [store[i] for i in range(len(store))]
    assert [e.scenario for e in episodes] == ["free"] * 3 + ["held"] * 3
    assert len({e.seed for e in episodes}) == 6
    held = store[3]
    assert (len(held), held.state[0, 1], held.conditioning, held.policy) == (6, 42, Conditioning(text="fog"), "Dice")
    assert set(held.params) == {"sha256"}
    assert store.info.source == {"id": "toy_sources:ToyWorld-v0", "kwargs": {"world": "toy"}, "checkpoint": {"name": "toy", "sha256": "0"}}
    assert verify(store.path) == []


def test_where_no_world_is_chosen_scenarios_run_in_the_one_they_name(settings: dict[str, Any]) -> None:
    named = {name: {**scenario, "world": "toy"} for name, scenario in settings["scenario"].items()}
    assert run(settings, scenario=named, world=None).info.source["kwargs"] == {"world": "toy"}
    with pytest.raises(ScenarioError, match="'free' is for world other, 'held' for toy"):
        run(settings, scenario={**named, "free": {**named["free"], "world": "other"}}, world=None)


def test_same_plan_and_seed_give_the_same_data_and_another_seed_other(settings: dict[str, Any], tmp_path: Path) -> None:
    prints = {name: run(settings, out=str(tmp_path / name), seed=seed).info.fingerprint for name, seed in (("a", 5), ("b", 5), ("c", 6))}
    assert prints["a"] == prints["b"] != prints["c"]


def test_running_again_adds_nothing(settings: dict[str, Any]) -> None:
    first = run(settings)
    times = {path: path.stat().st_mtime_ns for path in (Path(settings["out"]) / "commits").rglob("*.json")}
    assert run(settings).info.fingerprint == first.info.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (Path(settings["out"]) / "commits").rglob("*.json")} == times


def test_missing_episodes_of_a_group_are_made_again_alike(settings: dict[str, Any]) -> None:
    first = run(settings)
    (first.path / "commits/p00000/000001.json").unlink()
    again = run(settings)
    assert (len(again), again.info.fingerprint) == (6, first.info.fingerprint)


def test_worker_processes_give_the_same_data(settings: dict[str, Any], tmp_path: Path) -> None:
    assert run(settings, workers=2, out=str(tmp_path / "two")).info.fingerprint == run(settings).info.fingerprint


def test_rejected_episodes_are_counted_not_read(settings: dict[str, Any]) -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    one = {"free": settings["scenario"]["free"], "held": {**settings["scenario"]["held"], "horizon": 2}}
    store = generate({**settings, "scenario": one, "world_options": {"reject_at": 4}}, console=console)
    assert len(store) == 3
    assert json.loads((store.path / "MANIFEST.json").read_text())["rejected"] == 3
    assert "rejected" in console.export_text()


def test_nothing_usable_says_why(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"none of the 6 episodes .* the first reason: too blurred"):
        run(settings, world_options={"reject_at": 1})


def test_pictures_lie_beside_the_data(settings: dict[str, Any]) -> None:
    run(settings, writer={"preview": True})
    assert (Path(settings["out"]) / "contact_sheet.png").stat().st_size > 1000
    assert (Path(settings["out"]) / "preview.mp4").stat().st_size > 1000


# ---------------------------------------------------------------- scenarios


def test_scenario_of_all_keys(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("""
swerve:
  policy: {_target_: worldsim.policies.random.RandomPolicy, hold: [1, 5]}
  action_noise: {gaussian: 0.1, sticky: 0.25}
  context: 3
  horizon: 50
  seeds: [4, 8]
  weight: 2
  conditioning: {tags: [dark], numbers: {grip: 1}, text: a dark road}
""")
    (scenario,) = load_scenarios(file)
    assert (scenario.name, scenario.seeds, scenario.weight) == ("swerve", (4, 8), 2.0)
    plan = plan_scenarios([scenario], root_seed=0, batch=8)
    for job, seed in zip(plan.jobs, (4, 8), strict=True):
        told = script(job, plan.scenarios["swerve"])
        assert (job.seed, told.initial, told.horizon) == (seed, ContextStart(3), 50)
        assert told.policies == {"RandomPolicy": {"_target_": "worldsim.policies.random.RandomPolicy", "hold": [1, 5]}}
        assert told.perturb == (NoisePerturb(gaussian=0.1), StickyPerturb(p=0.25))
        assert told.conditioning == job.conditioning == Conditioning(("dark",), {"grip": 1.0}, "a dark road")


def test_defaults_fill_what_a_scenario_leaves_out(settings: dict[str, Any]) -> None:
    parsed = parse_scenario("a", {"policy": DICE, "count": 2}, where="here", defaults={"horizon": 7, "count": 9})
    assert (parsed.body["horizon"], parsed.seeds, parsed.body["initial"]) == (7, 2, "random")
    parsed = parse_scenario("a", {"policy": DICE, "horizon": 3}, where="here", defaults={"horizon": 7, "count": 9})
    assert (parsed.body["horizon"], parsed.seeds) == (3, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizn": 3}, "'horizn' is unknown: did you mean 'horizon'"),
        ({"policy": None}, r"policy=None must be a mapping"),
        ({"policy": {"scale": 1}}, "policy has no '_target_'"),
        ({"horizon": 0}, "horizon=0 must be a whole number, 1 or more"),
        ({"horizon": "long"}, "horizon='long' must be a whole number"),
        ({"horizon": True}, "horizon=True must be a whole number"),
        ({"context": "first"}, "context='first' must be 'random' or the index"),
        ({"context": -1}, "context=-1 must be 'random' or the index"),
        ({"seeds": 0}, r"seeds=0 must be a list, as \[0, 1, 2\], or a whole number, 1 or more"),
        ({"seeds": [1, -2]}, r"seeds.1=-2 must be a whole number in 0\.\."),
        ({"count": 0}, "count=0 must be"),
        ({"weight": 0}, "weight=0 must be a number above 0"),
        ({"action_noise": {"gausian": 0.1}}, "action_noise: key 'gausian' is unknown: did you mean 'gaussian'"),
        ({"action_noise": {"sticky": -1}}, r"action_noise.sticky=-1 must be a number, 0 or more"),
        ({"conditioning": {"tag": []}}, "conditioning: key 'tag' is unknown: did you mean 'tags'"),
        ({"conditioning": {"tags": "dark"}}, "conditioning.tags='dark' must be a list"),
        ({"conditioning": {"tags": [1]}}, "conditioning.tags.0=1 must be text"),
        ({"conditioning": {"text": 5}}, "conditioning.text=5 must be text"),
        ({"conditioning": {"numbers": {"grip": "low"}}}, "conditioning.numbers.grip='low' must be a number"),
    ],
)
def test_wrong_scenarios_name_key_file_and_way_out(settings: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"calm": {"policy": DICE, **change}}))
    with pytest.raises(ValueError, match=message) as caught:
        load_scenarios(file)
    assert str(caught.value).startswith(f"{file}:1: scenario 'calm': ")


def test_a_scenario_needs_a_policy_and_a_job_needs_scenarios(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="there is no 'policy'"):
        parse_scenario("a", {}, where="here")
    with pytest.raises(ValueError, match="there is no scenario"):
        run(settings, scenario={})


def test_names_are_there_once(settings: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"free": {"policy": DICE}}))
    with pytest.raises(ValueError, match="'free' is there twice"):
        run(settings, files=[str(file)])


def test_shipped_scenarios_parse_and_fill_whole_groups() -> None:
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        cfg: Any = OmegaConf.to_container(compose("generate"), resolve=True)
    scenarios = read_scenarios(cfg)
    assert len(scenarios) >= 5
    plan = plan_scenarios(scenarios, root_seed=cfg["seed"], batch=cfg["batch"])
    assert {len(group) for group in plan.groups()} == {cfg["batch"]}
