"""Recording sources: worker processes, enough frames, mixes of policies, and failures that a user can read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from worldsim.datasets import storage
from worldsim.datasets import writer as writing
from worldsim.datasets.collect import collect, main, policy_mix
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.verify import verify

DICE = {"_target_": "toy_sources.Dice"}
NOISE = {"_target_": "worldsim.policies.noise.ActionNoise"}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("WORLDSIM_TRUST", "toy_sources")
    return {
        "source": {"name": "toy", "env": "toy_sources:ToySource-v0", "length": 40},
        "policy": {"name": "dice", **DICE},
        "frames": 120,
        "horizon": 15,
        "seed": 3,
        "workers": 1,
        "out": str(tmp_path / "out"),
    }


def run(settings: dict[str, Any], **changes: Any) -> EpisodeReader:
    return collect({**settings, **changes}, console=Console(quiet=True))


def failing(settings: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    return {**settings, "source": {**settings["source"], **kwargs}}


def test_records_frames_actions_state_and_conditioning(settings: dict[str, Any]) -> None:
    store = run(settings)
    assert sum(store.lengths() + 1) >= 120
    assert (store.info.frame_size, store.info.fps, store.info.state_names, store.info.name) == ((16, 16), 10.0, ("step", "color"), "toy")
    assert store.info.source == {"id": "toy_sources:ToySource-v0", "kwargs": {"length": 40}}
    for i in range(len(store)):
        episode = store[i]
        shown = episode.frames[1:, 0, 0, 0].tolist()
        assert shown == np.round((episode.actions[:, 0] + 1) * 100).tolist()
        assert episode.conditioning.text == f"color {int(episode.state[0, 1])}"
    assert len({store[i].seed for i in range(len(store))}) == len(store)
    assert verify(store.path) == []


def test_two_workers_give_what_one_gives_and_another_seed_does_not(settings: dict[str, Any], tmp_path: Path) -> None:
    one = run(settings)
    two = run(settings, workers=2, out=str(tmp_path / "two"))
    other = run(settings, seed=4, out=str(tmp_path / "other"))
    assert one.info.fingerprint == two.info.fingerprint != other.info.fingerprint


def test_short_episodes_are_made_up_for(settings: dict[str, Any]) -> None:
    store = run(failing(settings, length=8))
    assert store.lengths().max() < 8
    assert sum(store.lengths() + 1) >= 120
    assert run(failing(settings, length=8)).info.fingerprint == store.info.fingerprint
    assert verify(store.path) == []


def test_more_frames_go_on_from_fewer(settings: dict[str, Any], tmp_path: Path) -> None:
    run(settings, frames=40)
    times = {path: path.stat().st_mtime_ns for path in (Path(settings["out"]) / "commits").rglob("*.json")}
    grown, whole = run(settings), run(settings, out=str(tmp_path / "whole"))
    assert grown.info.fingerprint == whole.info.fingerprint
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(run(settings, frames=40)) == len(grown)
    assert verify(grown.path) == []


def test_an_interrupted_recording_goes_on(settings: dict[str, Any]) -> None:
    whole = run(settings).info.fingerprint
    for name in ("000000", "000005"):
        (Path(settings["out"]) / "commits/p00000" / f"{name}.json").unlink()
    assert run(settings).info.fingerprint == whole


def test_a_mix_deals_policies_by_weight(settings: dict[str, Any]) -> None:
    mix = [{"name": "wild", "policy": DICE, "weight": 3}, {"name": "still", "policy": {**DICE, "scale": 0.0}, "weight": 1}]
    store = run(settings, policy={"mix": mix})
    names = [store[i].scenario for i in range(len(store))]
    assert (names.count("wild"), names.count("still")) == (6, 2)
    assert not any(store[i].actions.any() for i in range(len(store)) if names[i] == "still")


def test_noise_disturbs_any_policy(settings: dict[str, Any]) -> None:
    store = run(settings, policy={"name": "still", **DICE, "scale": 0.0}, action_noise=NOISE, action_noise_strength={"gaussian": 0.2})
    assert all(store[i].actions.std() > 0.05 for i in range(len(store)))


def test_wrong_mixes_are_refused() -> None:
    with pytest.raises(ValueError, match="two parts of one name"):
        policy_mix({"mix": [{"name": "a", "policy": DICE}] * 2}, {}, 5)
    with pytest.raises(ValueError, match="weight=0 of 'a' must be above 0"):
        policy_mix({"mix": [{"name": "a", "policy": DICE, "weight": 0}]}, {}, 5)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_breaks_is_one_sentence(settings: dict[str, Any], workers: int) -> None:
    with pytest.raises(ValueError, match=r"episode \d \(scenario 'dice', seed \d+\): RuntimeError: the toy broke"):
        run(failing(settings, fail_at=4), workers=workers)


def test_a_killed_worker_is_one_sentence_and_commits_stay(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a worker process died .* committed episodes are kept; run the same command again"):
        run(failing(settings, kill_at=5), workers=2)
    assert (Path(settings["out"]) / "plan.json").exists()


def test_failed_episodes_are_tried_again_and_nothing_usable_says_why(settings: dict[str, Any]) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="none of the 8 episodes is usable; the first reason: reward is not finite at step 3"):
            run(failing(settings, nan_at=3))
    assert {record["attempt"] for record in read_commits(Path(settings["out"]))} == {2}


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = storage.write_bytes, iter(range(1000))

    def full(path: Path, data: bytes) -> None:
        if next(calls) >= 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_bytes", full)
        with pytest.raises(ValueError, match="No space left on device; free space"):
            run(settings)
    assert 1 <= len(EpisodeReader(settings["out"])) < 8
    assert len(run(settings)) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames=0 must be 1 or more"),
        ({"horizon": 0}, "horizon=0 must be 1 or more"),
        ({"source": {"name": "x", "env": "Nowhere-v0"}}, "environment 'Nowhere-v0' with {} cannot be made"),
        ({"source": {"name": "x", "env": "toy_sources:ToySource-v0", "lenth": 3}}, "lenth"),
        ({"source": {"name": "x", "env": "CartPole-v1"}}, "not frames .* 'source=gym source.id=...'"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(settings, **changes)
    assert not Path(settings["out"]).exists()


def test_an_environment_that_renders_is_recorded_by_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["source=gym", "source.id=CartPole-v1", "policy=random", "frames=60", "workers=1", "writer.preview=false"]
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        main(compose("collect", [*overrides, f"out={tmp_path / 'pole'}"]))
    store = EpisodeReader(tmp_path / "pole")
    assert sum(store.lengths() + 1) >= 60
    assert store[0].frames.shape[1:] == (64, 64, 3)
    assert "fingerprint" in capsys.readouterr().out


def test_shipped_settings_compose() -> None:
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        cfg: Any = OmegaConf.to_container(compose("collect"), resolve=True)
    mix = policy_mix(cfg["policy"], cfg["action_noise_strength"], cfg["horizon"])
    assert len(mix) >= 2
