"""Uncertainty: the error head learns what errors follow from, says it in environments and snapshots, and travels with its world."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.checkpoint import content_hash
from worldsim.config import compose
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode
from worldsim.evaluation.openloop import log_error
from worldsim.model import WorldModel
from worldsim.rollout import reset
from worldsim.simulator import Simulator
from worldsim.training.uncertainty import Errors, calibrate, calibrating, chances, fit, rank, train_uncertainty
from worldsim.uncertainty import ErrorHead, likelihood_loss

MakeWorld = Callable[..., WorldModel]


def errors(seed: int, count: int = 600) -> Errors:
    """Make frames whose error follows the first number of their first token, but for a little noise."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 4, 8, generator=generator)
    return Errors(hidden.half(), 2 + hidden[:, 0, 0] + 0.05 * torch.randn(count, generator=generator))


def learn(data: Errors, *, steps: int = 300, seed: int = 0) -> ErrorHead:
    return fit(data, steps=steps, batch_size=64, lr=3e-3, seed=seed)


def test_a_head_that_learned_ranks_errors_it_has_not_seen_and_a_fresh_one_does_not() -> None:
    assert rank(learn(errors(0)), errors(1)) > 0.95
    assert 0.2 < rank(ErrorHead(tokens=4, width=8).eval(), errors(1)) < 0.8


def test_the_chance_is_that_of_a_normal_distribution_above_the_threshold() -> None:
    head = learn(errors(0))
    hidden = errors(1).hidden.float()
    mean, spread = head(hidden)
    chance = head.chance(hidden)
    assert head.threshold == pytest.approx(float(errors(0).error.quantile(0.9)))
    above = [1 - NormalDist(float(m), float(s)).cdf(head.threshold) for m, s in zip(mean, spread, strict=True)]
    np.testing.assert_allclose(chance.numpy(), above, atol=1e-5)
    found = float((errors(1).error > head.threshold).float().mean())
    assert abs(float(chance.mean()) - found) < 0.05


def test_what_is_foretold_of_new_errors_is_set_right() -> None:
    """A head that is too sure, of errors that came out larger, foretells them about right once it is calibrated."""
    head = learn(errors(0))
    new = errors(1)
    larger = Errors(new.hidden, new.error + 0.3 + 0.5 * torch.randn(600, generator=torch.Generator().manual_seed(2)))
    found = float((larger.error > head.threshold).float().mean())
    before = chances(head, larger)
    mean, spread = (values.detach() for values in head(larger.hidden.float()))
    loss = likelihood_loss(mean, spread, larger.error)
    calibrate(head, larger)
    assert abs(float(chances(head, larger).mean()) - found) < 0.5 * abs(float(before.mean()) - found)
    mean, spread = head(larger.hidden.float())
    assert likelihood_loss(mean, spread, larger.error) < loss - 1
    assert rank(head, new) > 0.9


def test_the_last_sixth_of_the_episodes_is_kept_for_it() -> None:
    segments = [SimpleNamespace(context=SimpleNamespace(name=f"episode seed {i // 2}, frame {i}")) for i in range(26)]
    assert calibrating(segments) == 22  # type: ignore[arg-type]
    assert calibrating(segments[:10]) == 10  # type: ignore[arg-type]


def test_the_likelihood_is_best_where_mean_and_spread_are_those_of_the_errors() -> None:
    data = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 2 + 3
    best = likelihood_loss(torch.tensor(3.0), torch.tensor(2.0), data)
    for mean, spread in ((2.0, 2.0), (3.0, 1.0), (3.0, 4.0)):
        assert likelihood_loss(torch.tensor(mean), torch.tensor(spread), data) > best


def test_the_same_seed_fits_the_same_head_and_another_seed_another() -> None:
    one, same, other = (learn(errors(0), steps=5, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_error_of_frames_is_the_logarithm_of_their_mean_square() -> None:
    truth, made = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    made[1] = 10
    np.testing.assert_allclose(log_error(truth, made), [-1.0, 2.0], rtol=1e-6)


@pytest.fixture(scope="module")
def unsure_path(make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny world with an error head."""
    torch.manual_seed(1)
    world = make_world(end_logit=-50.0)
    world.uncertainty = ErrorHead(tokens=4, width=32, mean=2.0, spread=1.0, threshold=2.0).eval()
    folder = tmp_path_factory.mktemp("unsure") / "tiny"
    world.save_pretrained(folder)
    return folder


def test_a_world_keeps_its_head_on_disk_and_a_world_without_one_has_none(unsure_path: Path, endless_path: Path, tmp_path: Path) -> None:
    loaded = WorldModel.from_pretrained(unsure_path)
    assert loaded.uncertainty is not None
    assert loaded.uncertainty.threshold == 2.0
    assert not loaded.uncertainty.training
    assert WorldModel.from_pretrained(endless_path).uncertainty is None
    before = content_hash(unsure_path)
    loaded.save_pretrained(tmp_path)
    assert content_hash(tmp_path) == before
    config = json.loads((tmp_path / "uncertainty" / "config.json").read_text())
    (tmp_path / "uncertainty" / "config.json").write_text(json.dumps({**config, "threshold": 3.0}))
    assert content_hash(tmp_path) != before


def test_a_head_of_another_width_is_refused(unsure_path: Path, tmp_path: Path, make_world: MakeWorld) -> None:
    world = make_world()
    world.uncertainty = ErrorHead(tokens=4, width=16).eval()
    world.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"tokens and width of uncertainty and heads are \(4, 16\) and \(4, 32\)"):
        WorldModel.from_pretrained(tmp_path)


def test_environments_tell_it_beside_the_state_and_worlds_without_a_head_do_not(unsure_path: Path, endless_path: Path) -> None:
    env = gym.make("WorldSim-v0", world=str(unsure_path))
    _, info = env.reset(seed=0)
    assert info["state"]["uncertainty"] == 0.0  # a start is real
    told = []
    for _ in range(3):
        info = env.step(env.action_space.sample())[4]
        told.append(info["state"]["uncertainty"])
    assert all(0 <= value <= 1 for value in told)
    assert len(set(told)) == 3
    bare = gym.make("WorldSim-v0", world=str(endless_path))
    assert list(bare.reset(seed=0)[1]["state"]) == ["speed", "offset"]


def test_rows_of_a_batch_tell_what_single_environments_tell(unsure_path: Path) -> None:
    many = gym.make_vec("WorldSim-v0", num_envs=2, vectorization_mode="vector_entry_point", world=str(unsure_path))
    one = gym.make("WorldSim-v0", world=str(unsure_path))
    reset(many, seeds=[7, 8])
    one.reset(seed=8)
    action = np.array([0.3, 0.5, 0.1], np.float32)
    together = many.step(np.stack([action, action]))[4]["state"]["uncertainty"]
    assert together[1] == pytest.approx(one.step(action)[4]["state"]["uncertainty"], abs=1e-5)
    assert together[0] != together[1]


def test_a_simulator_gives_what_the_head_reads_and_nothing_where_there_is_none(unsure_path: Path, endless_path: Path) -> None:
    for path in (unsure_path, endless_path):
        world = WorldModel.from_pretrained(path)
        simulator = Simulator(world)
        state = simulator.start([world.contexts[0]], [0])
        _, step = simulator.step(state, np.zeros((1, 3), np.float32))
        assert step.hidden.shape == (1, 4, 32)
        if world.uncertainty is None:
            assert np.isnan(step.uncertainty).all()
        else:
            np.testing.assert_allclose(step.uncertainty, world.uncertainty.chance(step.hidden).numpy(), atol=1e-6)


def test_training_saves_a_head_into_the_world(endless_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, place = tmp_path / "toy.worldsim", tmp_path / "world"
    WorldModel.from_pretrained(endless_path).save_pretrained(place)
    world = WorldModel.from_pretrained(place)
    episodes = [_episode(seed) for seed in range(20)]
    write_dataset(data, episodes, name="toy", fps=25.0, action_space=world.spec.action_space, state_names=("speed", "offset"))
    small = ["segments=6", "context=4", "horizon=6", "batch=3", "steps=3", "batch_size=8", f"out={tmp_path / 'run'}"]
    quality = train_uncertainty(compose("train_uncertainty", [f"world={place}", f"data.path={data}", *small]))
    assert 0 <= quality <= 1
    assert "held-out frames" in capsys.readouterr().out
    assert not list((tmp_path / "run").iterdir())
    taught = WorldModel.from_pretrained(place)
    assert taught.uncertainty is not None
    assert taught.fingerprint != world.fingerprint


class _Killed(Exception):
    """What a test ends training with."""


def test_rollouts_that_were_done_are_not_done_again_after_a_kill(
    endless_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, world, steps, step = tmp_path / "toy.worldsim", WorldModel.from_pretrained(endless_path), [0, 0], Simulator.step
    episodes = [_episode(seed) for seed in range(20)]
    write_dataset(data, episodes, name="toy", fps=25.0, action_space=world.spec.action_space, state_names=("speed", "offset"))

    def train(name: str, *, most: int) -> dict[str, torch.Tensor]:
        steps[:] = [0, most]
        place, run = tmp_path / name, tmp_path / f"{name}.run"
        if not place.exists():
            world.save_pretrained(place)
        small = ["segments=6", "context=4", "horizon=6", "batch=3", "steps=3", "batch_size=8", f"out={run}"]
        train_uncertainty(compose("train_uncertainty", [f"world={place}", f"data.path={data}", *small]))
        head = WorldModel.from_pretrained(place).uncertainty
        assert head is not None
        return head.state_dict()

    def counted(self: Simulator, *args: Any) -> Any:
        steps[0] += 1
        if steps[0] > steps[1]:
            raise _Killed
        return step(self, *args)

    monkeypatch.setattr(Simulator, "step", counted)
    whole = train("whole", most=1000)
    all_steps = steps[0]
    with pytest.raises(_Killed):
        train("killed", most=8)
    resumed = train("killed", most=1000)
    assert steps[0] == all_steps - 6  # the first batch of three was whole, the second was not
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def _episode(seed: int, steps: int = 20) -> Episode:
    random = np.random.default_rng(seed)
    return Episode(
        random.integers(0, 256, (steps + 1, 16, 16, 3), dtype=np.uint8),
        random.uniform(0, 1, (steps, 3)).astype(np.float32),
        random.normal(size=steps).astype(np.float32),
        np.zeros(steps, np.bool_),
        np.zeros(steps, np.bool_),
        random.normal(size=(steps + 1, 2)).astype(np.float32),
        seed=seed,
    )
