"""``TorchWorldEnv``: what the NumPy environment gives, as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from gymnasium.error import ResetNeeded

from worldsim.envs.tensor_actions import TensorActions
from worldsim.envs.torch_env import TorchWorldEnv
from worldsim.envs.vector import WorldSimVectorEnv
from worldsim.spaces import to_features, to_row

ROWS = 3
SPACES: list[Space[Any]] = [
    spaces.Box(np.array([-1, 0, 10], np.float32), np.array([1, 0.5, 30], np.float32)),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
    spaces.Box(0, 9, (2,), np.int64),
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([2, 3], start=[0, 5]),
    spaces.MultiBinary(2),
    spaces.Dict({"steer": spaces.Box(-2, 1, (2,), np.float32), "gear": spaces.Discrete(2)}),
]


@pytest.fixture
def env(endless_path: Path) -> TorchWorldEnv:
    return TorchWorldEnv(ROWS, world=str(endless_path), device="cpu", horizon=3)


def tape(steps: int) -> torch.Tensor:
    """Actions ``(steps, rows, 3)``."""
    return torch.from_numpy(np.random.default_rng(0).random((steps, ROWS, 3), dtype=np.float32))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_it_gives_what_the_numpy_environment_gives(endless_path: Path, mode: str, observation: str) -> None:
    keywords: dict[str, Any] = {"device": "cpu", "horizon": 3, "autoreset_mode": mode, "observation": observation}
    keywords["world"] = str(endless_path)
    ours, theirs = TorchWorldEnv(ROWS, **keywords), WorldSimVectorEnv(ROWS, **keywords)
    assert ours.observation_space == theirs.observation_space
    assert ours.metadata == theirs.metadata
    observations, infos = ours.reset(seed=1)
    wanted, told = theirs.reset(seed=1)
    assert observations.dtype == (torch.uint8 if observation == "frame" else torch.float32)
    np.testing.assert_array_equal(observations, wanted)
    for t, actions in enumerate(tape(8)):
        if t == 1:  # so that rows end apart
            mask = torch.tensor([True, False, False])
            observations, _ = ours.reset(options={"reset_mask": mask})
            np.testing.assert_array_equal(observations, theirs.reset(options={"reset_mask": mask.numpy()})[0])
        observations, rewards, terminated, truncated, infos = ours.step(actions)
        wanted, *flags, told = theirs.step(actions.numpy())
        np.testing.assert_array_equal(observations, wanted)
        for one, other in zip((rewards, terminated, truncated), flags, strict=True):
            np.testing.assert_array_equal(one, other)
        for i, name in enumerate(ours.state_names):
            np.testing.assert_array_equal(infos["state"][:, i], told["state"][name])
        for row in range(ROWS):
            if "final_obs" in told and told["_final_obs"][row]:
                np.testing.assert_array_equal(infos["final_obs"][row], told["final_obs"][row])
                assert infos["final_state"][row, 0] == pytest.approx(told["final_info"]["state"]["speed"][row])
    assert ("final_obs" in infos) == (mode == "SameStep")


def test_tensors_are_the_callers_and_may_enter_autograd(endless_path: Path) -> None:
    env = TorchWorldEnv(ROWS, world=str(endless_path), device="cpu", observation="latent")
    layer = torch.nn.Linear(64, 3)
    latents, _ = env.reset(seed=0)
    total = torch.zeros(())
    for _ in range(2):
        actions = layer(latents.flatten(1)).sigmoid()
        latents, rewards, *_ = env.step(actions)
        total = total + (actions.sum(1) * rewards).sum() + layer(latents.flatten(1)).sum()
    (slope,) = torch.autograd.grad(total, layer.weight)
    assert slope.any()
    kept = env.rows.observations.clone()
    latents.zero_()
    assert torch.equal(env.rows.observations, kept)


def test_snapshots_go_between_the_environments(env: TorchWorldEnv, endless_path: Path) -> None:
    env.reset(seed=0)
    env.step(tape(1)[0])
    other = WorldSimVectorEnv(ROWS, world=str(endless_path), horizon=3)
    np.testing.assert_array_equal(other.restore_state(env.clone_state()), env.frames())
    branched = env.restore_state(other.clone_state([2]), [0, 1])
    assert torch.equal(branched[0], branched[2])


def test_autoreset_disabled_asks_for_a_reset(endless_path: Path) -> None:
    env = TorchWorldEnv(ROWS, world=str(endless_path), device="cpu", horizon=1, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.step(tape(1)[0])
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(tape(1)[0])
    with pytest.raises(ResetNeeded, match="autoreset is disabled"):
        env.step(tape(1)[0])
    env.reset(options={"reset_mask": terminated | truncated})
    env.step(tape(1)[0])
    env.close()


def test_nan_is_told(env: TorchWorldEnv) -> None:
    env.reset(seed=0)
    assert env.rows.state is not None
    broken = env.rows.state.take([1])
    broken.history.fill_(torch.nan)
    env.rows.state = env.rows.state.put([1], broken)
    _, rewards, _, truncated, infos = env.step(tape(1)[0])
    assert infos["finite"].tolist() == [True, False, True]
    assert (truncated.tolist(), float(rewards[1])) == ([False, True, False], 0.0)
    assert env.step(tape(1)[0])[4]["finite"].all()


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_features_are_those_of_the_numpy_path(space: Space[Any]) -> None:
    space.seed(0)
    rows = np.stack([to_row(space, space.sample()) for _ in range(5)])
    door = TensorActions(space, torch.device("cpu"))
    skip = torch.tensor([False, False, True, False, False])
    features = door.features(torch.from_numpy(rows), skip)
    wanted = to_features(space, rows)
    np.testing.assert_allclose(features[~skip], wanted[~skip.numpy()], atol=1e-6)
    assert features.dtype == torch.float32
    if not isinstance(space, spaces.Dict):
        batch = np.stack([space.sample() for _ in range(5)])
        door.features(torch.from_numpy(batch), skip)


def test_wrong_actions_are_refused(env: TorchWorldEnv) -> None:
    env.reset(seed=0)
    good = tape(1)[0]
    wrong: list[tuple[Any, str]] = [
        (good.numpy(), "actions are ndarray: give a tensor, or use the NumPy environment"),
        (good[:2], r"actions have shape \(2, 3\): 3 of Box.* are \(3, 3\)"),
        (good.flatten(), "actions have shape"),
        (good * torch.nan, r"row 0: action \[nan, nan, nan\] is outside Box"),
        (good + torch.tensor([0, 9, 0]), r"row 0: action .* is outside Box.*: keep each number in \[-1.0, 0.0, 0.0\]\.\.\[1.0, 1.0, 1.0\]"),
    ]
    state = env.rows.state
    for actions, message in wrong:
        with pytest.raises(ValueError, match=message):
            env.step(actions)
    assert env.rows.state is state
    door = TensorActions(spaces.Discrete(3), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"actions are torch.float32: Discrete\(3\) takes whole numbers"):
        door.features(torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"row 1: action \[3\] is outside"):
        door.features(torch.tensor([0, 3]), torch.zeros(2, dtype=torch.bool))


def test_an_action_counts_for_nothing_where_a_row_starts(endless_path: Path) -> None:
    env = TorchWorldEnv(ROWS, world=str(endless_path), device="cpu", horizon=1)
    env.reset(seed=0)
    env.step(tape(1)[0])
    _, rewards, terminated, truncated, _ = env.step(tape(1)[0] * torch.nan)
    assert not torch.cat((rewards, terminated, truncated)).any()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(endless_path: Path) -> None:
    assert TorchWorldEnv(1, world=str(endless_path)).device.type == "cpu"
    for make in (TorchWorldEnv, WorldSimVectorEnv):
        with pytest.raises(ValueError, match="device 'cuda' was asked for, but torch sees no GPU here: use device='cpu'"):
            make(1, world=str(endless_path), device="cuda")
