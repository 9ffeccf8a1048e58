"""Snapshots: a restored row goes on bit for bit, in another process too; what does not belong together is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from worldsim.model import WorldModel
from worldsim.simulator import Simulator, State
from worldsim.snapshot import Snapshot, from_bytes, to_bytes


@pytest.fixture(scope="module")
def folder(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("snapshot") / "world"
    make_world().save_pretrained(path)
    return path


@pytest.fixture
def world(folder: Path) -> WorldModel:
    return WorldModel.from_pretrained(folder)


def actions(steps: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).uniform(0, 1, (steps, 1, 3)).astype(np.float32)


def roll(simulator: Simulator, state: State, steps: int) -> tuple[State, list[np.ndarray[Any, Any]]]:
    frames = []
    for action in actions(steps):
        state, step = simulator.step(state, np.repeat(action, len(state), axis=0))
        frames.append(step.frames)
    return state, frames


def taken(world: WorldModel) -> State:
    simulator = Simulator(world)
    return roll(simulator, simulator.start([world.contexts[0], world.contexts[1]], [5, 6]), 7)[0]


SCRIPT = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.snapshot import from_bytes
world = WorldModel.from_pretrained(sys.argv[1])
state, frames = from_bytes(open(sys.argv[2], "rb").read(), world).state, []
for action in np.random.default_rng(3).uniform(0, 1, (100, 1, 3)).astype(np.float32):
    state, step = Simulator(world).step(state, np.repeat(action, 2, axis=0))
    frames.append(step.frames)
np.save(sys.argv[3], np.stack(frames))
"""


def test_a_restored_rollout_goes_on_bit_for_bit_in_another_process_too(world: WorldModel, folder: Path, tmp_path: Path) -> None:
    state = taken(world)
    data = to_bytes(Snapshot(state), world)
    _, went_on = roll(Simulator(world), state, 100)
    _, restored = roll(Simulator(world), from_bytes(data, world).state, 100)
    assert np.array_equal(np.stack(went_on), np.stack(restored))
    (tmp_path / "snapshot").write_bytes(data)
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "snapshot"), str(tmp_path / "frames.npy")], check=True)
    assert np.array_equal(np.stack(went_on), np.load(tmp_path / "frames.npy"))


def test_arrays_and_notes_travel_with_the_rows(world: WorldModel) -> None:
    given = Snapshot(taken(world), {"elapsed": np.array([3, 4])}, {"seed": 2**70, "who": ["a"]})
    back = from_bytes(to_bytes(given, world), world)
    assert back.notes == {"seed": 2**70, "who": ["a"]}
    assert back.arrays["elapsed"].tolist() == [3, 4]
    assert back.arrays["elapsed"].dtype == np.int64
    assert torch.equal(back.state.keys, given.state.keys)
    assert to_bytes(back, world) == to_bytes(given, world)


def test_one_row_branches_into_many(world: WorldModel) -> None:
    row = from_bytes(to_bytes(Snapshot(taken(world).take([1])), world), world).state
    simulator = Simulator(world)
    pushed = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0]], np.float32)
    _, step = simulator.step(row.take([0, 0, 0]), pushed)
    assert np.array_equal(step.frames[0], step.frames[1])
    assert not np.array_equal(step.frames[0], step.frames[2])


def test_another_world_is_refused(world: WorldModel, make_world: Any, tmp_path: Path) -> None:
    data = to_bytes(Snapshot(taken(world)), world)
    make_world(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"snapshot belongs to checkpoint .*restore it in its own world"):
        from_bytes(data, WorldModel.from_pretrained(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"world 'tiny' was not loaded from files: save it"):
        to_bytes(Snapshot(taken(world)), make_world())


def test_another_type_of_weights_is_refused(world: WorldModel, folder: Path) -> None:
    data = to_bytes(Snapshot(taken(world)), world)
    with pytest.raises(ValueError, match=r"snapshot holds torch.float32, the world runs in torch.bfloat16"):
        from_bytes(data, WorldModel.from_pretrained(folder, dtype=torch.bfloat16))


def test_versions(world: WorldModel) -> None:
    data = to_bytes(Snapshot(taken(world)), world)
    assert from_bytes(data.replace(b'version\\": \\"2.0', b'version\\": \\"2.9'), world).state.seed.tolist() == [5, 6]
    with pytest.raises(ValueError, match=r"snapshot has version 1.0, this worldsim reads 2.0"):
        from_bytes(data.replace(b'version\\": \\"2.0', b'version\\": \\"1.0'), world)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_damage_is_noticed(world: WorldModel, damage: str) -> None:
    data = to_bytes(Snapshot(taken(world)), world)
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    bad = {"cut": data[:-100], "flip": flipped, "empty": b"", "text": b"hello there, this is no snapshot"}[damage]
    with pytest.raises(ValueError, match="snapshot is damaged"):
        from_bytes(bad, world)


def test_other_safetensors_are_no_snapshot(world: WorldModel) -> None:
    with pytest.raises(ValueError, match="are safetensors but no snapshot"):
        from_bytes(save({"a": torch.zeros(1)}, metadata={"format": "pt"}), world)
