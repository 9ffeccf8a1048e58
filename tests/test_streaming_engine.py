"""The engine's options: precision, compilation, memory written in place; they change speed, and results by no more than is said."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldsim.diffusion import draw_noise, draw_noises
from worldsim.dit import VideoDiT
from worldsim.engine import open_world
from worldsim.envs.torch_env import TorchWorldEnv
from worldsim.model import WorldModel
from worldsim.networks import networks_of
from worldsim.oasis import NAME
from worldsim.simulator import Simulator, State

ROWS, STEPS = 3, 6


@pytest.fixture(scope="module")
def world(make_world: Any) -> WorldModel:
    built: WorldModel = make_world()
    return built


def tape(rows: int) -> NDArray[np.float32]:
    """Actions ``(STEPS, rows, 3)``."""
    return np.random.default_rng(0).uniform([-1, 0, 0], 1, (STEPS, rows, 3)).astype(np.float32)


def begin(simulator: Simulator, rows: int = ROWS) -> State:
    return simulator.start([simulator.world.contexts[i] for i in range(rows)], list(range(rows)))


def roll(simulator: Simulator, actions: NDArray[np.float32] | None = None, state: State | None = None) -> NDArray[np.int64]:
    """Frames ``(T, B, H, W, 3)``, signed, so that differences are."""
    actions = tape(ROWS) if actions is None else actions
    state, made = begin(simulator, actions.shape[1]) if state is None else state, []
    for one in actions:
        state, step = simulator.step(state, one)
        assert step.finite.all()
        made.append(step.frames)
    return np.stack(made).astype(np.int64)


# ---------------------------------------------------------------- precision


def test_half_precision_is_near_and_as_good_as_it_says(world: WorldModel) -> None:
    full, half = roll(Simulator(world)), roll(Simulator(world, precision="bf16"))
    assert 0 < np.abs(full - half).mean() < 3
    np.testing.assert_array_equal(half, roll(Simulator(world, precision="bf16")))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("in_place", [False, True])
def test_rows_stand_alone_in_every_precision(world: WorldModel, precision: str, in_place: bool) -> None:
    simulator = Simulator(world, precision=precision, in_place=in_place)
    together, actions = roll(simulator), tape(ROWS)
    order = [2, 0, 1]
    shuffled = roll(simulator, actions[:, order], begin(simulator).take(order))
    np.testing.assert_array_equal(shuffled, together[:, order])  # the same batch size: bit-equal
    for row in range(ROWS):
        alone = roll(simulator, actions[:, [row]], begin(simulator).take([row]))
        assert np.abs(alone[:, 0] - together[:, row]).max() <= 1


def test_a_state_goes_on_in_the_other_precision(world: WorldModel) -> None:
    full, half, actions = Simulator(world), Simulator(world, precision="bf16"), tape(ROWS)
    state, _ = half.step(begin(half), actions[0])
    assert (state.keys.dtype, state.history.dtype) == (torch.float32, torch.float32)
    assert np.abs(roll(full, actions[1:], state) - roll(half, actions[1:], state)).mean() < 3


def test_a_world_of_half_precision_runs_in_it(make_world: Any) -> None:
    world: WorldModel = make_world().to(torch.bfloat16)
    simulator = Simulator(world)
    assert simulator.networks.dtype == torch.bfloat16
    assert roll(simulator).shape == (STEPS, ROWS, 16, 16, 3)


def test_simulators_of_a_loaded_world_share_networks_and_others_see_new_weights(world_path: Path, make_world: Any) -> None:
    loaded, own = WorldModel.from_pretrained(world_path), make_world()
    assert networks_of(loaded, "bf16") is networks_of(loaded, "bf16")
    assert networks_of(loaded, "bf16") is not networks_of(loaded, "fp32")
    before, old = roll(Simulator(own)), Simulator(own)
    for parameter in own.dynamics.parameters():
        parameter.mul_(1.2)
    state = begin(Simulator(make_world()))
    np.testing.assert_array_equal(roll(old, state=state), before)
    assert (roll(Simulator(own), state=state) != before).any()


# ---------------------------------------------------------------- compilation


def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace whole networks and run what was traced without compiling it, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))


def test_a_traced_step_is_the_same(world: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    traced(monkeypatch)
    made, plain = Simulator(world, compile=True, in_place=True), Simulator(world)
    np.testing.assert_array_equal(roll(made), roll(plain))
    (_, one), (_, other) = (simulator.step(begin(simulator), tape(ROWS)[0], decode=False) for simulator in (made, plain))
    assert one.frames.shape == (ROWS, 0, 0, 3)
    assert torch.equal(one.latents, other.latents)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own parts, when its compiler is imported
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_a_compiled_network_is_the_same_but_for_rounding(world: WorldModel) -> None:
    torch.manual_seed(0)
    dynamics: VideoDiT = VideoDiT(**{**world.dynamics.config, "depth": 1, "temporal_every": 1})  # one block: it compiles in seconds
    dynamics.eval().requires_grad_(False)
    small = WorldModel(world.tokenizer, dynamics, world.heads, world.spec, world.contexts)
    made, plain = Simulator(small, compile=True), Simulator(small)
    (_, one), (_, other) = (simulator.step(begin(simulator), tape(ROWS)[0], decode=False) for simulator in (made, plain))
    torch.testing.assert_close(one.latents, other.latents, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(one.state, other.state, atol=1e-3)


def test_compile_is_refused_where_it_cannot_be(world: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="compile=True needs a C\\+\\+ compiler and 'no-such-compiler' is not there: install it"):
        Simulator(world, compile=True)
    Simulator(world, compile=False)
    with pytest.raises(ValueError, match="compile='yes' must be True or False"):
        Simulator(world, compile="yes")  # type: ignore[arg-type]


# ---------------------------------------------------------------- doors


def test_options_go_through_every_door(world_path: Path) -> None:
    half: dict[str, Any] = {"world": str(world_path), "precision": "bf16"}
    single: Any = gym.make("WorldSim-v0", **half).unwrapped
    batch: Any = gym.make_vec("WorldSim-v0", num_envs=2, **half).unwrapped
    for env in (single, batch, TorchWorldEnv(2, **half)):
        simulator: Any = env.rows.simulator
        assert (simulator.precision, simulator.in_place) == ("bf16", True)
    action = tape(2)[0]
    frames = []
    for precision in ("fp32", "bf16"):
        env = gym.make_vec("WorldSim-v0", num_envs=2, world=str(world_path), precision=precision)
        env.reset(seed=0)
        frames.append(env.step(action)[0].astype(np.int64))
    assert 0 < np.abs(frames[0] - frames[1]).mean() < 3


@pytest.mark.parametrize("given", ["fp16", "int8", None, 32])
def test_other_precisions_are_refused(world_path: Path, given: Any) -> None:
    with pytest.raises(ValueError, match=r"precision=.* is unknown: use 'fp32' or 'bf16'"):
        gym.make("WorldSim-v0", world=str(world_path), precision=given)
    with pytest.raises(ValueError, match=r"precision=.* is unknown"):
        open_world(NAME, precision=given)


@pytest.mark.parametrize("given", [{"precision": "bf16"}, {"compile": True}], ids=str)
def test_oasis_says_that_it_has_no_such_options(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'oasis-500m' runs with precision='fp32' and compile=False alone"):
        open_world(NAME, **given)


# ---------------------------------------------------------------- memory and noise


def test_memory_written_in_place_gives_the_same_frames(world: WorldModel) -> None:
    kept, plain, lean, actions = begin(Simulator(world)), Simulator(world), Simulator(world, in_place=True), tape(ROWS)
    first, used = plain.step(kept, actions[0])[0], lean.step(begin(lean), actions[0])[0]
    assert torch.equal(first.keys, used.keys)
    held, second = used.keys.data_ptr(), plain.step(first, actions[1])[0]
    again = lean.step(used, actions[1])[0]
    assert torch.equal(second.keys, again.keys)
    assert again.keys.data_ptr() == held
    assert second.keys.data_ptr() != first.keys.data_ptr() != kept.keys.data_ptr()
    assert torch.equal(first.keys, plain.step(kept, actions[0])[0].keys)
    assert torch.equal(kept.keys, begin(Simulator(world)).keys)
    np.testing.assert_array_equal(roll(Simulator(world)), roll(Simulator(world, in_place=True)))


def test_noise_is_what_it_always_was() -> None:
    generator = np.random.Generator(np.random.Philox(key=np.array([2**63 - 1, 7], dtype=np.uint64)))
    drawn = generator.standard_normal((2, 4, 2, 2), dtype=np.float32)
    np.testing.assert_array_equal(draw_noise(2**63 - 1, 7, (2, 4, 2, 2)), drawn)
    np.testing.assert_array_equal(draw_noise(2**63 - 1, 7, (1, 4, 2, 2)), drawn[:1])
    np.testing.assert_array_equal(draw_noises([3, 2**63 - 1], [1, 7], (2, 4, 2, 2))[1], drawn)
    assert (draw_noise(3, 7, (4,)) != draw_noise(3, 8, (4,))).all()
    assert (draw_noise(3, 7, (4,)) != draw_noise(4, 7, (4,))).all()
