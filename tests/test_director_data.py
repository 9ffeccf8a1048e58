"""Scenarios with events as datasets: starts, filters, expectations, streams, workers, and the same again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.config import compose
from worldsim.datasets.generate import main
from worldsim.datasets.identity import dataset_hash
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.regenerate import regenerate
from worldsim.datasets.verify import verify
from worldsim.envs.torch_env import TorchWorldEnv
from worldsim.envs.vector import WorldSimVectorEnv
from worldsim.envs.world import WorldSimEnv
from worldsim.episode import Conditioning

WILD = "{_target_: worldsim.policies.random.RandomPolicy, hold: [1, 1]}"
STILL = "{_target_: worldsim.policies.recorded.RecordedPolicy, actions: [[0.0, 0.0, 0.0]]}"
FULL = f"""
family:
  policies: {{wild: {WILD}, still: {STILL}}}
  policy: wild
  seeds: 2
  horizon: 7
  perturb:
    - {{kind: noise, gaussian: 0.1}}
    - {{kind: delay, steps: 1, start: 2}}
  events:
    - when: {{rate: 0.4, per: step}}
      do: {{frame: {{noise: 0.1}}}}
    - when: {{step: 3}}
      do: {{fork: [[], [{{switch: still}}], [{{cut: random}}, {{condition: {{tags: [wet]}}}}]]}}
  require:
    after:
      - {{that: "length >= 7", reason: too short}}
      - {{that: "max(step) < 3", else: mark, reason: long}}
  expect:
    - {{name: whole, that: "length == 7"}}
    - {{name: half, that: "length / 14"}}
    - {{name: never, that: "any(abs(reward) > 5)"}}
short:
  policy: {WILD}
  seeds: 1
  horizon: 7
  events:
    - when: {{predicate: "action[1] >= 0"}}
      do: {{stop: moved}}
  require: {{after: [{{that: "length >= 5", reason: too short}}]}}
"""


def run(world: Path, out: Path, scenarios: str, *more: str) -> EpisodeReader:
    file = out.with_suffix(".yaml")
    file.write_text(scenarios)
    keys = ["scenario=[]", f"files=[{file}]", "batch=4", "seed=11", "horizon=5", "count=1", "writer.preview=false"]
    main(compose("generate", [f"world={world}", f"out={out}", *keys, *more]))
    return EpisodeReader(out)


def one(keys: str) -> str:
    return f"one:\n  policy: {WILD}\n  {keys}\n"


@pytest.fixture(scope="module")
def family(endless_path: Path, tmp_path_factory: pytest.TempPathFactory) -> EpisodeReader:
    return run(endless_path, tmp_path_factory.mktemp("family") / "out", FULL)


def test_what_happened_is_kept(family: EpisodeReader) -> None:
    assert verify(family.path) == []
    records = read_commits(family.path)
    assert [record["status"] for record in records] == ["ok"] * 6 + ["rejected"]
    assert (records[6]["reason"], records[6]["params"]["stopped"]) == ("too short", [1, "moved"])
    for record in records[:6]:
        told = record["params"]
        assert told["expect"] == {"whole": True, "half": 0.5, "never": False}
        assert told["marked"] == ["long"]
        assert [3, 1, ["fork", *[[], ["switch"], ["cut", "condition"]][told["branch"]]]] in told["happened"]
        assert told.get("cuts") == ([3] if told["branch"] == 2 else None)
    assert len(family) == 6


def test_siblings_lie_side_by_side_even_in_two_groups(family: EpisodeReader) -> None:
    """Groups of four cut the second family in two."""
    episodes = [family[i] for i in range(6)]
    for siblings in (episodes[:3], episodes[3:]):
        for other in siblings[1:]:
            assert np.array_equal(siblings[0].frames[:3], other.frames[:3])
            assert np.array_equal(siblings[0].actions[:3], other.actions[:3])
        assert np.array_equal(siblings[0].frames[3], siblings[1].frames[3])
        assert not np.array_equal(siblings[0].frames[3], siblings[2].frames[3])
        assert not np.array_equal(siblings[0].actions[3:], siblings[1].actions[3:])


def test_two_workers_make_the_same_and_so_does_regenerating(family: EpisodeReader, endless_path: Path, tmp_path: Path) -> None:
    assert dataset_hash(run(endless_path, tmp_path / "two", FULL, "workers=2").path) == dataset_hash(family.path)
    assert all(regenerate(family.path, episode).equal for episode in (1, 5))


# ---------------------------------------------------------------- starts


def test_a_snapshot_is_a_start(endless_path: Path, tmp_path: Path) -> None:
    env = WorldSimVectorEnv(2, world=str(endless_path))
    frames = env.reset(seed=5)[0]
    for _ in range(3):
        frames = env.step(np.zeros((2, 3), np.float32))[0]
    (tmp_path / "state.bin").write_bytes(env.clone_state(1).to_bytes())
    store = run(endless_path, tmp_path / "out", one(f"initial: {{snapshot: {tmp_path / 'state.bin'}}}\n  seeds: 2"))
    first, second = store[0], store[1]
    assert np.array_equal(first.frames[0], frames[1])
    assert np.array_equal(second.frames[0], frames[1])
    assert not np.array_equal(first.frames[1:], second.frames[1:])
    assert len(first) == 5
    wet = run(
        endless_path, tmp_path / "wet", one(f"initial: {{snapshot: {tmp_path / 'state.bin'}}}\n  conditioning: {{tags: [wet]}}\n  seeds: 2")
    )
    assert wet[0].conditioning.tags == ("wet",)
    assert np.array_equal(wet[0].actions, first.actions)
    assert not np.array_equal(wet[0].frames[1:], first.frames[1:])


def test_a_query_finds_a_clip(endless_path: Path, tmp_path: Path) -> None:
    told = "told:\n  policy: {p}\n  seeds: 2\n  conditioning: {{tags: [wet], numbers: {{red: {red}}}}}\n"
    both = told.format(p=WILD, red=0.9) + told.replace("told:", "other:").format(p=STILL, red=0.1)
    source = run(endless_path, tmp_path / "source", both)
    ask = "initial: {{dataset: {path}, where: {{tags: [wet], numbers: {{red: [0.5, 1.0]}}}}}}\n  seeds: 3"
    store = run(endless_path, tmp_path / "out", one(ask.format(path=source.path)))
    shown = [frame.tobytes() for i in range(2) for frame in source[i].frames]
    assert all(store[i].frames[0].tobytes() in shown for i in range(3))
    assert store[0].conditioning.numbers == {"red": 0.9}
    with pytest.raises(ValueError, match=r"no episode of dataset .* is tags=.*'dark'"):
        run(endless_path, tmp_path / "none", one(ask.format(path=source.path).replace("wet", "dark")))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("initial: generate", "world 'tiny' cannot generate starts"),
        ("initial: [0, generate]\n  seeds: 20", "scenario 'one': world 'tiny' cannot generate starts"),
        ("initial: {snapshot: no.bin}", "snapshot no.bin cannot be read"),
        ("events: [{when: {step: 2}, do: {cut: 9}}]", "scenario 'one': start context 9 does not exist"),
        ("events: [{when: {step: 2}, do: {action: [0, 0]}}]", r"scenario 'one': action=\[0, 0\] does not fit"),
        ("events: [{when: {step: 2}, do: {action: [0, 0, 7]}}]", r"scenario 'one': action=\[0, 0, 7\] is outside"),
        ("events: [{when: {step: 2}, do: {condition: {tags: [snow]}}}]", "scenario 'one': conditioning tag 'snow' is unknown"),
        ("events: [{when: {predicate: 'uncertainty > 0.5'}, do: {stop: x}}]", "scenario 'one': .* reads 'uncertainty', which is not there"),
        ("perturb: [{kind: bias, amount: [1, 2]}]", "scenario 'one': perturb: bias has 2 amounts"),
        ("record: [frames, uncertainty]", "scenario 'one' records uncertainty, which the world does not foretell"),
        ("record: [frames, labels]", "does not tell what pixels show"),
    ],
)
def test_what_a_world_cannot_do_is_said_before_anything_is_written(endless_path: Path, tmp_path: Path, keys: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(endless_path, tmp_path / "out", one(keys))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- what is recorded


def test_record_says_which_streams_there_are(endless_path: Path, tmp_path: Path) -> None:
    plain = run(endless_path, tmp_path / "plain", one("record: [frames, state]"))
    bare = run(endless_path, tmp_path / "bare", one("record: [frames, latents]\n  expect: ['max(speed) < 1e9']"))
    assert (plain.info.state_names, plain[0].latents) == (("speed", "offset"), None)
    assert (bare.info.state_names, bare[0].state.shape) == ((), (6, 0))
    assert bare[0].latents is not None
    assert bare[0].latents.shape == (6, 4, 4, 4)
    assert np.array_equal(bare[0].frames, plain[0].frames)
    assert bare[0].params["expect"] == {"max(speed) < 1e9": True}
    assert regenerate(bare.path, 0).equal
    assert verify(bare.path) == []


# ---------------------------------------------------------------- what a world is told


def test_rows_are_told_something_else_and_the_others_are_not(endless_path: Path) -> None:
    def play(told: dict[int, Any]) -> np.ndarray[Any, Any]:
        env = WorldSimVectorEnv(3, world=str(endless_path))
        env.reset(seed=1)
        env.step(np.zeros((3, 3), np.float32))
        if told:
            env.set_conditioning(list(told), list(told.values()))
        return np.stack([env.step(np.zeros((3, 3), np.float32))[0] for _ in range(3)], axis=1)

    plain, wet = play({}), play({1: Conditioning(("wet",))})
    assert np.array_equal(plain[[0, 2]], wet[[0, 2]])
    assert not np.array_equal(plain[1], wet[1])
    assert np.array_equal(play({2: Conditioning(("wet",)), 1: Conditioning(("wet",))})[1], wet[1])
    with pytest.raises(ValueError, match="name each row once"):
        WorldSimVectorEnv(2, world=str(endless_path)).set_conditioning([0, 0], [Conditioning(), Conditioning()])
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        WorldSimVectorEnv(2, world=str(endless_path)).set_conditioning([0], [Conditioning()])
    with pytest.raises(ValueError, match="tag 'snow' is unknown"):
        play({0: Conditioning(("snow",))})


def test_all_environments_can_be_told(endless_path: Path) -> None:
    wet = {"tags": ["wet"]}

    def play(env: Any, tell: Callable[[Any], None] | None, action: Any) -> np.ndarray[Any, Any]:
        env.reset(seed=1)
        if tell is not None:
            tell(env)
        return np.asarray(env.step(action)[0])

    none = np.zeros(3, np.float32)
    both = np.zeros((2, 3), np.float32)
    single, tensors = WorldSimEnv(world=str(endless_path)), TorchWorldEnv(2, world=str(endless_path))
    rows = WorldSimVectorEnv(2, world=str(endless_path))
    dry = play(single, None, none)
    told = play(single, lambda env: env.set_conditioning(wet), none)
    assert not np.array_equal(dry, told)
    assert np.array_equal(play(single, lambda env: env.set_conditioning(Conditioning(("wet",))), none), told)
    one = play(rows, lambda env: env.set_conditioning([1], [wet]), both)
    assert np.array_equal(play(tensors, lambda env: env.set_conditioning([1], [wet]), torch.from_numpy(both)), one)
    assert not np.array_equal(one[1], play(rows, None, both)[1])
    with pytest.raises(ValueError, match=r"conditioning 3 must be a mapping"):
        single.set_conditioning(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        WorldSimEnv(world=str(endless_path)).set_conditioning(wet)
