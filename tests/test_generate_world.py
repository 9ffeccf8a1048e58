"""The whole path from a learned world to a scenario dataset, by the shipped settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.config import compose
from worldsim.datasets.generate import main
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.verify import verify
from worldsim.envs.world import WorldSimEnv
from worldsim.spaces import from_row


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> str:
    """Save a tiny world whose episodes do not end by themselves."""
    built, folder = make_world(end_logit=-50.0), tmp_path / "tiny"
    built.save_pretrained(folder)
    return str(folder)


SCENARIOS = """
free:
  policy: {_target_: worldsim.policies.random.RandomPolicy, hold: [1, 3]}
told:
  policy: {_target_: worldsim.policies.random.RandomPolicy}
  action_noise: {sticky: 0.5}
  context: 2
  horizon: 5
  conditioning: {tags: [wet], numbers: {red: 0.7}, text: a grey road}
"""


def run(world: str, out: Path, *more: str, scenarios: str = SCENARIOS) -> EpisodeReader:
    file = out.with_suffix(".yaml")
    file.write_text(scenarios)
    main(
        compose(
            "generate",
            [f"world={world}", f"out={out}", "scenario=[]", f"files=[{file}]", "horizon=8", "count=3", "batch=4", "seed=11", *more],
        )
    )
    return EpisodeReader(out)


def test_scenarios_become_a_dataset(world: str, tmp_path: Path) -> None:
    store = run(world, tmp_path / "out", scenarios=SCENARIOS.replace("a grey road", "grey road"))
    assert verify(store.path) == []
    episodes = [store[i] for i in range(len(store))]
    assert [(e.scenario, len(e)) for e in episodes] == [("free", 8)] * 3 + [("told", 5)] * 3
    assert len({e.seed for e in episodes}) == 6
    assert store.info.state_names == ("speed", "offset")
    assert store.info.fps == 25
    source = store.info.source
    assert (source["id"], source["kwargs"]["world"], source["checkpoint"]["name"]) == ("WorldSim-v0", world, "tiny")
    assert len(source["checkpoint"]["sha256"]) == 64
    told = episodes[3]
    assert (told.conditioning.tags, told.conditioning.numbers, told.conditioning.text) == (("wet",), {"red": 0.7}, "grey road")
    assert all(np.isfinite(e.state).all() and np.isfinite(e.rewards).all() for e in episodes)
    assert (tmp_path / "out/contact_sheet.png").stat().st_size > 1000
    assert (tmp_path / "out/preview.mp4").stat().st_size > 1000


def test_an_episode_is_what_the_single_environment_gives(world: str, tmp_path: Path) -> None:
    """Row by row within 1/255: the batch is another one."""
    store = run(world, tmp_path / "out", "writer.preview=false", scenarios=SCENARIOS.replace("a grey road", "grey road"))
    env = WorldSimEnv(world)
    for episode in (store[1], store[4]):
        told = {"tags": ["wet"], "numbers": {"red": 0.7}, "text": "grey road"}
        frame, _ = env.reset(seed=episode.seed, options={"context": 2, "conditioning": told} if episode.scenario == "told" else {})
        frames = [frame, *(env.step(from_row(env.action_space, row))[0] for row in episode.actions)]
        assert np.abs(np.stack(frames).astype(int) - episode.frames.astype(int)).max() <= 1


def test_two_runs_give_the_same_bytes_and_another_seed_other_ones(world: str, tmp_path: Path) -> None:
    calm = SCENARIOS.partition("told:")[0]
    one, two, other = (
        run(world, tmp_path / name, "writer.preview=false", *more, scenarios=calm).info.fingerprint
        for name, more in (("one", ()), ("two", ()), ("other", ("seed=12",)))
    )
    assert one == two != other


def test_wrong_worlds_and_conditionings_stop_the_job(world: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="world 'moon' is neither shipped nor a folder"):
        run("moon", tmp_path / "a")
    with pytest.raises(ValueError, match="conditioning tag 'snow' is unknown to this world"):
        run(world, tmp_path / "b", scenarios=SCENARIOS.replace("wet", "snow").replace("a grey", "grey"))
    with pytest.raises(ValueError, match="start context 9 does not exist"):
        run(world, tmp_path / "c", scenarios=SCENARIOS.replace("context: 2", "context: 9").replace("a grey", "grey"))
