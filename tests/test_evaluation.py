"""Evaluation: scores with known values, alignment in time, the probe, the report and the model card, on a tiny untrained world."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from toy_store import ListStore

from worldsim.config import compose
from worldsim.episode import Episode
from worldsim.evaluation import endings as endings_module
from worldsim.evaluation import run as run_module
from worldsim.evaluation.chart import line_chart
from worldsim.evaluation.endings import Endings, endings
from worldsim.evaluation.figures import Evidence, from_another_episode, moved, open_loop, reward, state, uncertainty
from worldsim.evaluation.openloop import Rollouts, Segment, copy_last, cut_segments, imagine, log_error, other_actions, psnr, real, ssim
from worldsim.evaluation.probe import draw_pairs, pairs_at, train_probe
from worldsim.evaluation.report import model_card, number, record_quality, to_markdown
from worldsim.evaluation.run import Protocol, evaluate, write
from worldsim.evaluation.scores import area_under_curve, correlation, mean_and_error
from worldsim.evaluation.speed import count_flops, frame_flops, machine_facts, matmul_gflops, peak_memory_mb
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import WorldSpec
from worldsim.targets import instantiate_allowed
from worldsim.types import EpisodeStore, StoreInfo

MakeWorld = Callable[..., WorldModel]
SPACE = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
SMALL = Protocol(context=4, horizon=6, segments=4, per_episode=2, batch=2, pairs=40, probe_steps=3)


class ToyStore(ListStore):
    """Episodes whose frame ``t + 1`` is as bright as ``action[t]`` says, which is also its reward and its state."""

    def __init__(self, *, episodes: int = 6, steps: int = 20, size: int = 16, space: spaces.Box = SPACE) -> None:
        info = StoreInfo("toy", (size, size), 25.0, space, ("offset", "speed"), {"id": "toy"}, "0" * 64, "CC0-1.0")
        super().__init__(info, [_episode(seed, steps, size) for seed in range(episodes)])


def _episode(seed: int, steps: int, size: int) -> Episode:
    random = np.random.default_rng(seed)
    actions = random.uniform(0, 1, (steps, 3)).astype(np.float32)
    light = np.concatenate(([0.0], actions[:, 0])).astype(np.float32)
    frames = np.broadcast_to((light * 255).round().astype(np.uint8)[:, None, None, None], (steps + 1, size, size, 3))
    ends = np.zeros(steps, np.bool_)
    ends[-1] = seed % 2 == 0
    return Episode(frames.copy(), actions, actions[:, 0], ends, np.zeros(steps, np.bool_), np.stack((-light, light * 50), 1), seed=seed)


@pytest.fixture
def store() -> EpisodeStore:
    return ToyStore()


@pytest.fixture
def segments(store: EpisodeStore) -> list[Segment]:
    return cut_segments(store, split="heldout", context=4, horizon=6, per_episode=2, limit=4)


def look(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def brightness(frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = frames.mean(axis=(-3, -2, -1)) / 255
    return values


# ---------------------------------------------------------------- scores


def test_psnr_and_ssim_of_known_pictures() -> None:
    grey = np.full((2, 3, 16, 16, 3), 100, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, grey.shape, dtype=np.uint8)
    assert psnr(grey, grey + 1) == pytest.approx(np.full((2, 3), 20 * np.log10(255)))
    assert psnr(grey, grey) == pytest.approx(np.full((2, 3), 10 * np.log10(255**2 / 1e-3)))
    assert ssim(noise, noise) == pytest.approx(np.ones((2, 3)))
    assert (ssim(noise, noise[::-1]) < 0.2).all()


def test_correlation_says_nothing_where_nothing_varies() -> None:
    line = np.arange(5.0)
    assert correlation(line, 3 * line + 1) == pytest.approx(1)
    assert correlation(line, -line) == pytest.approx(-1)
    assert correlation(line, np.ones(5)) is None
    assert number(None) == "–"


def test_area_under_curve_counts_ties_half() -> None:
    assert area_under_curve(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1
    assert area_under_curve(np.array([0.5]), np.array([0.5, 0.5])) == 0.5
    assert area_under_curve(np.array([0.1]), np.array([0.9])) == 0
    assert area_under_curve(np.array([]), np.array([0.9])) is None


def test_mean_and_error() -> None:
    assert mean_and_error(np.array([1.0, 3.0])) == pytest.approx((2.0, 1.0))
    assert mean_and_error(np.array([4.0])) == (4.0, 0.0)


# ---------------------------------------------------------------- time


def test_segments_are_aligned(segments: list[Segment]) -> None:
    assert len(segments) == 4
    for segment in segments:
        assert brightness(segment.context.frames[1:]) == pytest.approx(segment.context.actions[:, 0], abs=0.01)
        assert brightness(segment.frames) == pytest.approx(segment.actions[:, 0], abs=0.01)
        assert segment.rewards == pytest.approx(segment.actions[:, 0])
        assert segment.state[:, 1] == pytest.approx(50 * segment.actions[:, 0])
        assert len(segment.context.frames) == 4
        assert len(segment.frames) == 6


def test_pairs_are_a_frame_and_the_one_before(segments: list[Segment]) -> None:
    last, frames = np.stack([segment.context.frames[-1] for segment in segments]), real(segments)
    first, later = pairs_at(1, last, frames), pairs_at(6, last, frames)
    assert (first[:, 0] == last).all()
    assert (first[:, 1] == frames[:, 0]).all()
    assert (later[:, 0] == frames[:, 4]).all()
    assert (later[:, 1] == frames[:, 5]).all()
    assert (copy_last(segments) == last[:, None]).all()


def test_other_actions_come_from_other_episodes(segments: list[Segment]) -> None:
    changed = other_actions(segments)
    assert from_another_episode(segments).all()
    for mine, theirs in zip(segments, changed, strict=True):
        assert not np.allclose(mine.actions, theirs.actions)
        assert (mine.frames == theirs.frames).all()
        assert mine.context is theirs.context
        assert mine.seed == theirs.seed


def test_segments_of_one_episode_have_no_other_actions(make_world: MakeWorld) -> None:
    alone = cut_segments(ToyStore(episodes=1), split="heldout", context=4, horizon=6, per_episode=4, limit=4)
    assert not from_another_episode(alone).any()
    evidence = Evidence(alone, _copied(alone), _copied(alone))
    report = open_loop(make_world(), evidence)
    assert report["psnr"]["other_actions"] == [None, None]
    assert "other_actions" not in report["margins"]


def _copied(segments: list[Segment]) -> Rollouts:
    """Return the rollouts of a world that knows everything."""
    rewards, state = np.stack([segment.rewards for segment in segments]), np.stack([segment.state for segment in segments])
    return Rollouts(real(segments), rewards, state, np.zeros_like(rewards))


def test_a_world_that_knows_everything_gets_full_marks(make_world: MakeWorld, segments: list[Segment]) -> None:
    nothing = np.zeros((4, 6), np.float32)
    evidence = Evidence(segments, _copied(segments), Rollouts(copy_last(segments), nothing, nothing, nothing))
    loop, gain = open_loop(make_world(), evidence), reward(segments, evidence.made)
    read = state(evidence, ["speed"], ["offset", "speed"], ["offset", "speed"], None)
    assert loop["steps"] == [1, 4]
    assert loop["psnr"]["world"] == pytest.approx([78.13, 78.13], abs=0.01)
    assert loop["psnr"]["other_actions"] == loop["psnr"]["copy_last"]
    assert len(loop["curve"]["world"]) == 6
    assert loop["margins"]["step"] == 6
    assert loop["margins"]["copy_last"]["met"] is True
    assert gain["correlation_per_step"] == pytest.approx(1)
    assert gain["correlation_of_sums"] == pytest.approx(1)
    assert gain["error_of_sums"] == 0
    assert read["figures"]["speed"]["6"]["head"] == {"error": 0, "typical_error": 0, "correlation": pytest.approx(1)}
    assert read["figures"]["speed"]["6"]["guess"]["error"] > 1


def test_a_reward_that_is_the_wrong_way_round_is_seen(segments: list[Segment]) -> None:
    made = _copied(segments)
    assert reward(segments, replace(made, rewards=-made.rewards))["correlation_per_step"] == pytest.approx(-1)


# ---------------------------------------------------------------- probe and endings


def test_uncertainty_that_is_the_error_ranks_all_and_its_opposite_none(segments: list[Segment]) -> None:
    made = replace(_copied(segments), frames=copy_last(segments))
    error = log_error(real(segments), made.frames)
    told = replace(made, uncertainty=error)
    assert uncertainty(Evidence(segments, told, told), 3.0)["auroc"] == 1
    wrong = replace(made, uncertainty=-error)
    figures = uncertainty(Evidence(segments, wrong, wrong), 3.0)
    assert figures["auroc"] == 0
    assert figures["threshold_psnr"] == pytest.approx(18.13, abs=0.01)
    assert figures["found"] == pytest.approx(float((error > 3.0).mean()))


def test_probe_reads_what_can_be_seen() -> None:
    data, unseen = draw_pairs(ToyStore(episodes=20), "train", 300), draw_pairs(ToyStore(episodes=9), "heldout", 50)
    probe = train_probe(data, steps=60, batch=32)
    read = probe.read(unseen.frames)
    assert read.shape == unseen.state.shape
    assert (correlation(unseen.state[:, 1], read[:, 1]) or 0) > 0.97
    assert np.abs(read - unseen.state)[:, 1].mean() < 5


def test_probe_depends_on_its_seed_alone(store: EpisodeStore) -> None:
    data = draw_pairs(store, "train", 60)
    torch.manual_seed(1)
    one = train_probe(data, steps=3, batch=8).read(data.frames)
    torch.manual_seed(2)
    assert (train_probe(data, steps=3, batch=8).read(data.frames) == one).all()
    assert not np.allclose(train_probe(data, steps=3, batch=8, seed=1).read(data.frames), one)


def test_probe_takes_larger_frames() -> None:
    data = draw_pairs(ToyStore(size=96), "train", 10)
    assert train_probe(data, steps=1, batch=2).read(data.frames).shape == (len(data.frames), 2)


def test_probe_needs_training_episodes() -> None:
    with pytest.raises(ValueError, match=r"protocol.pairs=0"):
        draw_pairs(ToyStore(episodes=1), "train", 10)


def test_endings_count_what_was_found(make_world: MakeWorld, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def knowing(_: Simulator, segments: list[Segment], *, batch: int) -> np.ndarray[Any, Any]:
        assert [len(segment.actions) for segment in segments] == [6, 6, 6]
        assert segments[0].actions == pytest.approx(store[0].actions[-6:])
        return np.array([[0, 0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0, 0.4], [0, 0, 0, 0, 0, 0]], np.float32)

    monkeypatch.setattr(endings_module, "end_probabilities", knowing)
    found = endings(Simulator(make_world()), store, Endings(horizon=6), split="heldout", context=4)
    assert (found["positives"], found["negatives"], found["auc"], found["auc_rollouts"]) == (1, 2, 1.0, 1.0)
    assert found["rule"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert found["score"] == found["rule"]
    assert found["tuned"] is None
    assert found["on_time"] == 1


def test_endings_of_an_untrained_world_are_guesses(make_world: MakeWorld, store: EpisodeStore) -> None:
    found = endings(Simulator(make_world()), store, Endings(horizon=6), split="heldout", context=4)
    assert 0 <= found["auc"] <= 1
    none = endings(Simulator(make_world()), store, Endings(horizon=100), split="heldout", context=4)
    assert none == {"horizon": 100, "positives": 0, "negatives": 0}


def test_latents_that_move_with_the_frame_are_told_from_others() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    def world(encode: Callable[[torch.Tensor], torch.Tensor], decode: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        return SimpleNamespace(device=torch.device("cpu"), tokenizer=SimpleNamespace(encode=encode, decode=decode))

    with_it = moved(world(lambda x: x, lambda z: z + 0.02), frames)
    assert with_it == pytest.approx(40.0, abs=0.01)
    assert moved(world(lambda x: x, lambda z: z + 0.02), frames, seed=1) == pytest.approx(with_it, abs=0.01)
    assert moved(world(lambda x: x.flip(-1), lambda z: z.flip(-1)), frames) < 15


# ---------------------------------------------------------------- the whole


def test_report_is_complete(make_world: MakeWorld, store: EpisodeStore, tmp_path: Path) -> None:
    said: list[str] = []
    report, evidence = evaluate(make_world(), store, SMALL, say=said.append)
    write(tmp_path, report, evidence)
    again = json.loads((tmp_path / "report.json").read_text())
    text = (tmp_path / "report.md").read_text()
    assert set(again) == {"world", "data", "made", "open_loop", "reward", "endings", "state", "seconds"}
    assert set(again["open_loop"]["psnr"]) == {"tokenizer", "world", "other_actions", "copy_last"}
    assert set(again["state"]["figures"]["speed"]["6"]) == {"probe_real", "probe_imagined", "head", "guess"}
    assert again["data"]["segments"] == 4
    assert again["data"]["episodes"] == 2
    assert len(said) == 4
    for part in ("Open loop", "bar 6 dB", "bar 3 dB", "Reward", "Endings", "State read back", "probe, imagined frames"):
        assert part in text
    for picture in ("rollouts.png", "open_loop.png"):
        assert look(tmp_path / picture).shape[1] > 100


def test_report_repeats(make_world: MakeWorld, store: EpisodeStore) -> None:
    first, second = (evaluate(make_world(), store, SMALL, say=lambda _: None)[0] for _ in range(2))
    other, _ = evaluate(make_world(seed=1), store, SMALL, say=lambda _: None)
    assert first["open_loop"] == second["open_loop"]
    assert first["state"] == second["state"]
    assert first["open_loop"] != other["open_loop"]


def test_command_writes_report_and_card(
    world_path: Path, store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "world"
    WorldModel.from_pretrained(world_path).save_pretrained(folder)
    monkeypatch.setattr(
        run_module, "instantiate_allowed", lambda cfg, **extra: store if "path" in cfg else instantiate_allowed(cfg, **extra)
    )
    small = [f"protocol.{key}={value}" for key, value in vars(SMALL).items()]
    small += ["long.segments=2", "fidelity.clips=40", "fidelity.steps=3", "drift.steps=40", "drift.rows=2", "endings.horizon=6"]
    small += ["drift.source.random=there", "generalisation.segments=2"]
    run_module.main(
        compose("evaluate", [f"world={folder}", f"out={tmp_path / 'out'}", "card=true", "cost=an hour", "sampling.steps=1", *small])
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {"generalisation", "long", "distance", "fidelity", "drift", "endings"} <= set(report)
    assert set(report["drift"]["policies"]) == {"random", "camera"}
    assert set(report["drift"]["source"]) == {"random"}
    assert report["long"]["horizon"] == 10
    text = (tmp_path / "out" / "report.md").read_text()
    for part in ("Open loop, long", "Generalisation", "Frechet", "Action fidelity", "Drift", "Endings", "**accuracy**", "drift_frames.png"):
        assert part in text
    card, spec = (folder / "README.md").read_text(), WorldSpec.load(folder)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["world"]["sampling"]["steps"] == 1
    assert "model card written to" in capsys.readouterr().out
    assert set(spec.quality["drift"]["random"]) - set(spec.quality["drift"]["camera"]) == {"source_inside"}
    assert set(spec.quality) >= {"psnr", "ssim", "margins", "reward", "state"}
    assert WorldModel.from_pretrained(folder).spec.quality == spec.quality
    for part in ("license: apache-2.0", "# tiny", "an hour", "pictures/rollouts.png", "GFLOP", "## Limits", "### Open loop", "CarRacing"):
        assert part in card
    assert (folder / "pictures" / "rollouts.png").exists()


def test_card_without_figures_has_no_pictures(world_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    WorldModel.from_pretrained(world_path).save_pretrained(folder)
    card = model_card(folder).read_text()
    assert "pictures/" not in card
    assert "Open loop" not in card
    with pytest.raises(ValueError, match=r"world\.json"):
        record_quality(tmp_path, {})


def test_world_and_data_have_to_fit(make_world: MakeWorld) -> None:
    with pytest.raises(ValueError, match="frames of 32x32, world 'tiny' makes 16x16"):
        evaluate(make_world(), ToyStore(size=32), SMALL)
    with pytest.raises(ValueError, match="takes Box"):
        evaluate(make_world(), ToyStore(space=spaces.Box(-1, 1, (3,), np.float32)), SMALL)
    with pytest.raises(ValueError, match="use a shorter horizon"):
        evaluate(make_world(), ToyStore(steps=5), SMALL)


@pytest.mark.parametrize(("name", "value"), [("horizon", 0), ("segments", 0), ("pairs", -1), ("context", 0)])
def test_protocol_refuses_what_measures_nothing(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"protocol.{name}={value}"):
        Protocol(**{name: value})


def test_markdown_without_state_and_endings(make_world: MakeWorld, store: EpisodeStore) -> None:
    report, _ = evaluate(make_world(), store, Protocol(**{**vars(SMALL), "pairs": 0}), say=lambda _: None)
    assert "probe" not in to_markdown(report)
    report.pop("state")
    report["endings"] = {"horizon": 6, "positives": 0, "negatives": 2}
    text = to_markdown(report)
    assert "State read back" not in text
    assert "None of the 2 stretches" in text


# ---------------------------------------------------------------- cost and charts


def test_flops_of_known_calls() -> None:
    a, query = torch.rand(4, 5), torch.rand(2, 3, 7, 8)
    assert count_flops(lambda: a @ a.T) == 2 * 4 * 5 * 4
    assert count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query)) == 4 * 2 * 3 * 7 * 7 * 8


def test_frame_flops_add_up_and_grow_with_steps(make_world: MakeWorld) -> None:
    one, two = frame_flops(make_world(steps=1)), frame_flops(make_world(steps=2, contexts=0))
    assert one["total"] == pytest.approx(one["dynamics"] + one["heads"] + one["decode"], abs=2e-6)
    assert one["decode"] == two["decode"]
    assert two["dynamics"] == pytest.approx(1.5 * one["dynamics"], rel=0.02)


def test_machine_facts_name_no_host() -> None:
    facts = machine_facts()
    assert set(facts) >= {"date", "cpu", "cores", "threads", "load", "versions"}
    assert matmul_gflops(size=64, repeats=2) > 0
    assert peak_memory_mb() > 10


def test_rollouts_go_in_batches(make_world: MakeWorld, segments: list[Segment]) -> None:
    simulator = Simulator(make_world())
    whole, parts = imagine(simulator, segments, batch=4), imagine(simulator, segments, batch=3)
    assert whole.frames.shape == (4, 6, 16, 16, 3)
    assert np.abs(whole.frames.astype(int) - parts.frames).max() <= 1


def test_chart_leaves_out_what_has_no_values(tmp_path: Path) -> None:
    line_chart(tmp_path / "both.png", {"a": [1.0, 2.0, 4.0], "b": [None, None, None]}, title="t", size=(320, 200))
    line_chart(tmp_path / "one.png", {"a": [1.0, 2.0, 4.0]}, title="t", size=(320, 200))
    both, one = look(tmp_path / "both.png"), look(tmp_path / "one.png")
    assert both.shape == (200, 320, 3)
    assert (both == one).all()
