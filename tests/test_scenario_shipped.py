"""The scenarios that ship: every one is sound, and a few happen on a tiny world."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from worldsim.cli import WORLDS
from worldsim.config import CONFIGS, compose
from worldsim.datasets.generate import main
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.scenario_preview import thinned
from worldsim.datasets.scenario_report import report
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.rollout import EpisodeJob
from worldsim.scenario import Scenario, check_world, expand, parse_scenarios, script
from worldsim.scenario.parts import ContextStart

NAMES = sorted(path.stem for path in (CONFIGS / "scenario").glob("*.yaml"))
WORLD: Any = json.loads((WORLDS / "carracing-nano" / "world.json").read_text())
CONTEXTS = 64
QUICK = ["aimless", "calm", "clumsy", "hurried", "night", "sticky"]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Scenario]:
    composed = OmegaConf.to_container(compose("scenario_expand", [f"scenario=[{','.join(NAMES)}]"]))
    assert isinstance(composed, dict)
    return {scenario.name: scenario for scenario in parse_scenarios(composed["scenario"], where="shipped", defaults={"count": 2})}


def test_there_are_many() -> None:
    assert len(set(NAMES) - set(QUICK)) >= 15


@pytest.mark.parametrize("name", NAMES)
def test_each_is_sound_and_fits_its_world(name: str, shipped: dict[str, Scenario]) -> None:
    scenario = shipped[name]
    assert len(scenario.description) > 20
    world = json.loads((WORLDS / (scenario.world or "carracing-nano") / "world.json").read_text())
    vocabulary = world["vocabulary"]
    check_world([scenario], fps=world["fps"], state_names=world["state_names"], tags=vocabulary["tags"], numbers=vocabulary["numbers"])
    episodes = list(expand([scenario]))
    assert 1 <= len(episodes) <= 64
    assert len({episode.sha256 for episode in episodes}) == len(episodes)
    for episode in expand([thinned(scenario, 64)]):
        told = script(EpisodeJob(episode.id, episode.seed, 1, name, params=episode.params()), scenario)
        assert told.horizon <= 200
        assert all(event.when.step is None or event.when.step < told.horizon for event in told.events)
        assert not isinstance(told.initial, ContextStart) or told.initial.index < CONTEXTS
        for condition in _conditions(episode.resolved()):
            assert set(condition.get("tags") or ()) <= set(vocabulary["tags"])


def _conditions(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in _conditions(item)]
    if not isinstance(node, dict):
        return []
    own = [value for key, value in node.items() if key in ("condition", "conditioning")]
    return own + [found for value in node.values() for found in _conditions(value)]


def test_generate_takes_the_quick_ones_where_nothing_is_said() -> None:
    assert sorted(compose("generate").scenario) == QUICK


@pytest.fixture(scope="module")
def driving_path(tmp_path_factory: pytest.TempPathFactory, make_world: Any) -> Path:
    """A tiny world with the labelled state of the shipped one, and as many starts."""
    names = tuple(WORLD["state_names"])
    world = make_world(contexts=CONTEXTS, end_logit=-50.0)
    spec = dataclasses.replace(world.spec, state_names=names, state_mean=tuple(WORLD["state_mean"]), state_std=tuple(WORLD["state_std"]))
    heads = Heads(tokens=4, width=32, state_size=len(names), hidden=16)
    last: Any = heads.mlp[-1]
    torch.nn.init.constant_(last.bias[heads.sizes[0] : heads.sizes[0] + 1], -50.0)  # it ends no episode
    folder = tmp_path_factory.mktemp("driving") / "tiny"
    WorldModel(world.tokenizer, world.dynamics, heads, spec, world.contexts).eval().save_pretrained(folder)
    return folder


def test_some_happen_on_a_tiny_world(driving_path: Path, tmp_path: Path, shipped: dict[str, Scenario]) -> None:
    names = ["counterfactual", "tunnel", "stuck_throttle", "link_loss", "late_braking"]
    out, file = tmp_path / "out", tmp_path / "few.yaml"
    file.write_text(yaml.safe_dump({name: thinned(shipped[name], 1).to_json() for name in names}))
    settings = ["scenario=[]", f"files=[{file}]", f"world={driving_path}", f"out={out}", "batch=16", "writer.preview=false"]
    main(compose("generate", settings))
    store = EpisodeReader(out)
    episodes = [store[i] for i in range(len(store))]
    assert {episode.scenario for episode in episodes} == set(names)
    brake, swerve, keep = (episode for episode in episodes[:3])
    assert [episode.params["branch"] for episode in (brake, swerve, keep)] == [0, 1, 2]
    for sibling in (brake, swerve):
        np.testing.assert_array_equal(sibling.frames[:41], keep.frames[:41])
        assert (sibling.frames[41:] != keep.frames[41:]).any()
    assert (brake.actions[40:, 2] == np.float32(0.8)).all()
    stuck = next(episode for episode in episodes if episode.scenario == "stuck_throttle")
    assert (stuck.actions[30:92, 1:] == (1.0, 0.0)).all()
    tunnel = next(episode for episode in episodes if episode.scenario == "tunnel")
    assert tunnel.frames[25].mean() < 0.2 * tunnel.frames[24].mean()
    results = {result.name: result for result in report(out)}
    assert [results[name].ok + results[name].rejected for name in names] == [results[name].planned for name in names]
    assert all(verdict.episodes == results[name].ok for name in names for verdict in results[name].verdicts)
