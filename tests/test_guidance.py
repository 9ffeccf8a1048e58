"""Guidance: at 1 nothing changes, elsewhere what a world is told is stressed, and training shows it rows that are told nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.conditioning import Vocabulary
from worldsim.contexts import Context
from worldsim.engine import open_world
from worldsim.episode import Conditioning
from worldsim.model import WorldModel
from worldsim.simulator import Simulator, State
from worldsim.spec import Sampling

MakeWorld = Callable[..., WorldModel]
ACTION = np.array([[0.3, 0.5, 0.0]], np.float32)


@pytest.fixture(scope="module")
def world(make_world: MakeWorld) -> WorldModel:
    return make_world()


def simulator(world: WorldModel, guidance: float | None = None, **settings: Any) -> Simulator:
    sampling = world.spec.sampling if guidance is None else replace(world.spec.sampling, guidance=guidance)
    return Simulator(world, sampling=sampling, **settings)


def begin(run: Simulator, *contexts: Context) -> State:
    return run.start(contexts, range(len(contexts)))


def rollout(run: Simulator, *contexts: Context, steps: int = 6) -> torch.Tensor:
    """Return latents ``(steps, B, C, h, w)``; six steps go round the ring of four."""
    state, made = begin(run, *contexts), []
    for _ in range(steps):
        state, step = run.step(state, ACTION.repeat(len(contexts), 0), decode=False)
        made.append(step.latents)
    return torch.stack(made)


def test_a_guidance_of_one_is_no_guidance(world: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = rollout(simulator(world), world.contexts[0])
    monkeypatch.setattr(Simulator, "_untold", lambda *_: pytest.fail("a pass for nothing"))
    assert torch.equal(rollout(simulator(world, 1.0), world.contexts[0]), plain)


def test_guidance_goes_on_from_what_is_told_nothing_through_what_is_told(world: WorldModel) -> None:
    sampling = replace(world.spec.sampling, steps=1)
    runs = {g: Simulator(world, sampling=replace(sampling, guidance=g)) for g in (0.0, 1.0, 2.5)}
    free, asked, guided = (rollout(run, world.contexts[0], steps=1) for run in runs.values())
    assert not torch.equal(free, asked)
    torch.testing.assert_close(guided, free + 2.5 * (asked - free), atol=1e-5, rtol=1e-4)


def test_a_guidance_of_nothing_leaves_out_what_is_told(world: WorldModel) -> None:
    run = simulator(world, 0.0)
    state = begin(run, world.contexts[0])
    other = replace(state, condition=world.spec.vocabulary.features(Conditioning(("wet",), {"red": 0.9}))[None])
    assert torch.equal(run.step(state, ACTION)[1].latents, run.step(other, ACTION)[1].latents)
    plain = simulator(world)
    assert not torch.equal(plain.step(state, ACTION)[1].latents, plain.step(other, ACTION)[1].latents)


def test_a_row_that_is_told_nothing_is_not_guided(world: WorldModel) -> None:
    silent = replace(world.contexts[0], conditioning=Conditioning())
    assert torch.equal(rollout(simulator(world, 2.5), silent), rollout(simulator(world), silent))


def test_rows_are_guided_each_on_its_own(world: WorldModel) -> None:
    silent = replace(world.contexts[1], conditioning=Conditioning())
    both = rollout(simulator(world, 2.0), world.contexts[0], silent)
    torch.testing.assert_close(both[:, 0], rollout(simulator(world, 2.0), world.contexts[0])[:, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both[:, 0], rollout(simulator(world), world.contexts[0])[:, 0], atol=1e-5)


def test_a_ring_that_is_written_in_place_gives_the_same(world: WorldModel) -> None:
    assert torch.equal(rollout(simulator(world, 2.0, in_place=True), world.contexts[0]), rollout(simulator(world, 2.0), world.contexts[0]))


@pytest.mark.parametrize("wrong", [-0.5, math.nan, math.inf])
def test_guidance_out_of_range_is_refused(wrong: float, endless_path: Path) -> None:
    with pytest.raises(ValueError, match=f"guidance={wrong}: 1 samples what was told"):
        Sampling(guidance=wrong)
    with pytest.raises(ValueError, match=f"guidance={wrong}"):
        gym.make("WorldSim-v0", world=str(endless_path), guidance=wrong)


def test_environments_take_guidance(endless_path: Path) -> None:
    def frames(**settings: Any) -> np.ndarray:
        env = gym.make("WorldSim-v0", world=str(endless_path), context=0, conditioning={"tags": ["wet"]}, **settings)
        env.reset(seed=0)
        return np.stack([env.step(ACTION[0])[0] for _ in range(4)])

    np.testing.assert_array_equal(frames(), frames(guidance=1.0))
    np.testing.assert_array_equal(frames(guidance=8.0), frames(guidance=8.0))
    assert (frames() != frames(guidance=8.0)).any()
    batch = gym.make_vec("WorldSim-v0", num_envs=2, world=str(endless_path), guidance=8.0)
    assert batch.unwrapped.rows.simulator.sampling.guidance == 8.0  # type: ignore[attr-defined]


def test_a_world_may_be_guided_by_itself(make_world: MakeWorld, tmp_path: Path) -> None:
    made = make_world()
    made.spec = replace(made.spec, sampling=replace(made.spec.sampling, guidance=1.5))
    made.save_pretrained(tmp_path)
    assert open_world(str(tmp_path))[1].sampling.guidance == 1.5
    assert open_world(str(tmp_path), guidance=1.0)[1].sampling.guidance == 1.0
    assert "guidance" not in make_world().spec.to_json()["sampling"]


def test_dropping_all_blanks_whole_rows_and_without_it_draws_are_as_ever() -> None:
    words = Vocabulary(tags=("dark", "wet"), words=("grey", "road"), numbers={"red": (0.5, 0.2), "blue": (0.5, 0.2)})
    told = words.features(Conditioning(("dark",), {"red": 0.9, "blue": 0.1}, "grey road")).repeat(2000, 1)

    def silent(**rates: float) -> float:
        return float((words.drop(told, torch.Generator().manual_seed(0), **rates) == 0).all(1).float().mean())

    assert silent(rate=0.15) < 0.01
    assert 0.25 < silent(rate=0.15, whole=0.3) < 0.35
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(words.drop(told, one, rate=0.15), words.drop(told, other, rate=0.15, whole=0.0))
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))


def test_temperature_scales_the_noise_that_frames_are_made_of(world: WorldModel) -> None:
    def frames(temperature: float, seed: int) -> torch.Tensor:
        run = Simulator(world, sampling=replace(world.spec.sampling, steps=1, context_level=1.0, temperature=temperature))
        return run.step(run.start([world.contexts[0]], [seed]), ACTION, decode=False)[1].latents

    plain = Simulator(world, sampling=replace(world.spec.sampling, steps=1, context_level=1.0))
    assert torch.equal(frames(1.0, 3), plain.step(plain.start([world.contexts[0]], [3]), ACTION, decode=False)[1].latents)
    assert torch.equal(frames(0.0, 3), frames(0.0, 4))
    assert not torch.equal(frames(1.0, 3), frames(1.0, 4))
    near, far = (float((frames(t, 3) - frames(0.0, 3)).abs().mean()) for t in (0.1, 1.0))
    assert 0 < near < far


def test_a_temperature_is_kept_by_the_world_and_one_out_of_range_refused(world: WorldModel, tmp_path: Path) -> None:
    assert "temperature" not in Sampling().to_json()
    warm = replace(world.spec, sampling=replace(world.spec.sampling, temperature=0.5))
    warm.save(tmp_path)
    assert type(warm).load(tmp_path).sampling.temperature == 0.5
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"temperature={wrong}: 1 is the noise of training"):
            Sampling(temperature=wrong)
