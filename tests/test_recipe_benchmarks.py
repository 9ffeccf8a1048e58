"""The scripts that compare recipes: their table holds settings that exist, and they count and lay out what they say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_recipe import ToyTask, same, weights

from worldsim.config import compose
from worldsim.episode import Conditioning, Episode
from worldsim.evaluation.openloop import cut_segments
from worldsim.training.loop import Trainer
from worldsim.training.objective import Objective
from worldsim.types import EpisodeStore

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The scripts by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = ("ablation_referee", "ablation_variants", "ablation", "compare_diamond_footage", "compare_diamond_ours")
        yield SimpleNamespace(**{name: import_module(name) for name in names})
    finally:
        sys.path.remove(str(BENCHMARKS))


def store(episodes: int = 3, steps: int = 7) -> EpisodeStore:
    """Episodes whose frame t of episode e is one colour, 20 e + t, and whose action there is (e, t) / 10."""

    def episode(e: int) -> Episode:
        ramp = np.arange(steps + 1)
        return Episode(
            frames=np.broadcast_to((20 * e + ramp)[:, None, None, None], (steps + 1, 16, 16, 3)).astype(np.uint8),
            actions=np.stack((np.full(steps, e / 10), ramp[:-1] / 10), axis=1).astype(np.float32),
            rewards=np.zeros(steps, np.float32),
            terminated=np.zeros(steps, bool),
            truncated=np.zeros(steps, bool),
            state=ramp[:, None].astype(np.float32),
            seed=e,
            conditioning=Conditioning(),
        )

    class Store:
        def __init__(self) -> None:
            self.info: Any = SimpleNamespace(state_names=("t",), action_space=spaces.Box(-1, 1, (2,), np.float32))

        def __len__(self) -> int:
            return episodes

        def __getitem__(self, index: int) -> Episode:
            return episode(index)

        def split(self, name: str) -> list[int]:
            return list(range(episodes))

    return Store()


def test_every_variant_is_a_recipe_that_exists(scripts: Any) -> None:
    table, base = scripts.ablation_variants.VARIANTS, list(scripts.ablation_variants.BASE)
    usual, names = compose("train_dynamics", base), list(table)
    for place, (name, variant) in enumerate(table.items()):
        cfg = compose("train_dynamics", [*base, *variant.overrides])
        Objective(**cfg.objective)
        changed = cfg != usual or variant.of or variant.init or variant.tokenizer
        assert changed or name == "base", f"{name} is the base"
        for other in filter(None, (variant.of, variant.init)):
            assert names.index(other) < place, f"{name} comes before {other}, which it needs"
            assert not table[other].of, f"{other} has no weights of its own"


def test_the_referee_knows_the_truth_from_a_copy_of_the_last_frame(scripts: Any) -> None:
    segments = cut_segments(store(), split="heldout", context=2, horizon=4, per_episode=1, limit=3)
    referee = scripts.ablation_referee.Referee(segments, (), None, {})
    truth = np.stack([segment.frames for segment in segments])
    exact, copied = referee.judge(truth, truth), referee.baselines()["copy_last"]
    assert referee.steps == [1, 4]
    assert exact["psnr"]["4"] > copied["psnr"]["4"] < copied["psnr"]["1"]
    assert exact["other_actions"] == 0
    assert "probe" not in exact
    mean, error = scripts.ablation_referee.apart([3.0, 5.0], [1.0, 1.0])
    assert (mean, error) == (3.0, 1.0)


def test_probe_errors_are_shares_of_a_guess(scripts: Any) -> None:
    segments = cut_segments(store(), split="heldout", context=2, horizon=4, per_episode=2, limit=6)

    class Reads:
        """A probe that reads the number of the frame from its colour, off by a constant."""

        def __init__(self, off: float) -> None:
            self.off = off

        def read(self, frames: Any) -> Any:
            return frames[:, 1, 0, 0, :1].astype(np.float32) % 20 + self.off

    truth = np.stack([segment.frames for segment in segments])
    right = scripts.ablation_referee.Referee(segments, ("t",), Reads(0.0), {}).judge(truth)
    wrong = scripts.ablation_referee.Referee(segments, ("t",), Reads(5.0), {}).judge(truth)
    assert right["probe"] == {"4": 0.0}
    assert wrong["probe"]["4"] > 1


def test_clips_stay_in_their_episode_and_carry_the_action_taken_at_each_frame(scripts: Any) -> None:
    footage = scripts.compare_diamond_footage.Footage.load(store(), "train")
    frames, actions = footage.clips(64, 4, torch.Generator().manual_seed(0))
    assert frames.shape == (64, 4, 16, 16, 3)
    shade = frames[..., 0, 0, 0].astype(int)  # (B, T)
    assert (np.diff(shade, axis=1) == 1).all()
    assert np.allclose(actions[:, :-1, 0], shade[:, :-1] // 20 / 10)
    assert np.allclose(actions[:, :-1, 1], shade[:, :-1] % 20 / 10)
    assert set(shade[:, 0] % 20) == set(range(5))  # every place where a clip fits, the last too


def test_a_clock_goes_on_where_it_stopped(scripts: Any, tmp_path: Path) -> None:
    now = [100.0]
    clock = scripts.compare_diamond_footage.Clock(tmp_path / "clock.json", lambda: now[0])
    clock.start()
    now[0] += 7
    assert clock.used == 7
    clock.stop(step=3)
    now[0] += 50  # between stretches no time counts
    again = scripts.compare_diamond_footage.Clock(tmp_path / "clock.json", lambda: now[0])
    assert again.used == clock.used == 7


@pytest.mark.parametrize(("gone", "learns"), [(0.0, True), (1.0, False)])
def test_a_timed_loop_trains_until_its_time_is_gone(scripts: Any, tmp_path: Path, gone: float, learns: bool) -> None:
    task = ToyTask()
    before = [p.detach().clone() for p in task.module.parameters()]
    loop = scripts.compare_diamond_ours.TimedLoop(steps=2, lr=1e-2, warmup=1, weight_decay=0.0, gone=lambda: gone)
    trainer = Trainer(task, loop, tmp_path)
    trainer.run()
    assert same(before, weights(trainer)) is not learns


def test_the_table_sets_variants_against_the_base_on_the_same_segments(scripts: Any) -> None:
    def told(name: str, psnr: list[float]) -> dict[str, Any]:
        return {
            "says": name,
            "steps": 5,
            "tflop": 1.0,
            "gflop_a_frame": 0.3,
            "psnr": {"16": float(np.mean(psnr))},
            "segments": psnr,
            "other_actions": 1.0,
            "probe": {"16": 0.5},
        }

    made = {"versions": {"torch": "2"}, "load": [1.0], "date": "today", "cpu": "one", "cores": 1, "threads": 1}
    figures: dict[str, Any] = {
        "made": made,
        "segments": 2,
        "horizon": 16,
        "baselines": {"copy_last": {"psnr": {"16": 18.0}, "segments": [17.0, 19.0]}, "real": {"probe": {"16": 0.1}}},
        "variants": {"base": told("the base", [20.0, 22.0]), "base-seed1": told("seed", [20.5, 22.5]), "ramp": told("ramp", [21.0, 25.0])},
    }
    text = scripts.ablation.text_of(figures)
    assert "| `ramp`: ramp | 5 | 1.0 | 0.300 | 23.00 | +2.00 ± 1.00 | +1.00 | 0.50 |" in text
    assert "Two seeds of the base are 0.50 dB apart" in text
    assert "Trained in bf16" not in text
    figures["variants"]["ramp"]["precision"] = "bf16"
    assert "Trained in bf16, the others in fp32: `ramp`." in scripts.ablation.text_of(figures)


def test_results_of_another_budget_are_not_mixed(scripts: Any, tmp_path: Path) -> None:
    settings = {"equal": "flop", "tflop": 30.0, "steps": 9, "segments": 4, "horizon": 16, "pairs": 0, "probe_steps": 1}
    scripts.ablation.check_settings(SimpleNamespace(work=tmp_path, **settings))
    scripts.ablation.check_settings(SimpleNamespace(work=tmp_path, **{**settings, "steps": 10}))  # nobody asked for steps
    with pytest.raises(ValueError, match=r"holds results of .*'tflop': 30\.0.*choose another folder"):
        scripts.ablation.check_settings(SimpleNamespace(work=tmp_path, **{**settings, "tflop": 5.0}))
