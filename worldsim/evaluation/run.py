"""``worldsim evaluate``: measures a world on held-out episodes and writes figures, tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from worldsim.checkpoint import resolve
from worldsim.evaluation.chart import line_chart
from worldsim.evaluation.endings import endings
from worldsim.evaluation.openloop import Rollouts, Segment, copy_last, cut_segments, imagine, other_actions, psnr, real, ssim
from worldsim.evaluation.pictures import real_above_imagined
from worldsim.evaluation.probe import Probe, columns, draw_pairs, pairs_at, train_probe
from worldsim.evaluation.report import model_card, record_quality, to_markdown
from worldsim.evaluation.scores import compare, correlation, mean_and_error, mean_error
from worldsim.evaluation.speed import machine_facts
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import Sampling
from worldsim.targets import instantiate_allowed
from worldsim.training.tokenizer_task import reconstruct
from worldsim.types import EpisodeStore

STEPS = (1, 4, 16, 64)
STATE_STEPS = (16, 64)
BAR_STEP = 16
BARS = {"copy_last": 4.0, "other_actions": 2.0}
"""Least advantage of the world over each baseline at step 16, in dB of PSNR."""


@dataclass(frozen=True)
class Protocol:
    """How a world is measured.

    Attributes:
        split: Split of the dataset.
        context: Real frames that rollouts start from.
        horizon: Steps of a rollout.
        segments: Most rollouts.
        per_episode: Rollouts that start in one episode.
        seed: For the places of rollouts, the noise, and the probe.
        batch: Rollouts that run together.
        pairs: Real pairs of frames that the probe learns from; 0 leaves the probe out.
        probe_steps: Its training steps.
    """

    split: str = "heldout"
    context: int = 8
    horizon: int = 64
    segments: int = 64
    per_episode: int = 4
    seed: int = 0
    batch: int = 16
    pairs: int = 8000
    probe_steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        for name in ("context", "horizon", "segments", "per_episode", "batch", "probe_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"protocol.{name}={getattr(self, name)} must be 1 or more")
        if self.pairs < 0:
            raise ValueError(f"protocol.pairs={self.pairs} must be 0 (no probe) or more")


@dataclass(frozen=True)
class Evidence:
    """What the figures are computed from: N segments, the world's rollouts of them, and those with other episodes' actions."""

    segments: Sequence[Segment]
    made: Rollouts
    others: Rollouts


def main(cfg: DictConfig) -> None:
    """Measure by a composed ``configs/evaluate.yaml``; see there for the keys.

    Raises:
        ValueError: The world or the dataset cannot be read, or they do not fit each other.
    """
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device)
    store: EpisodeStore = instantiate_allowed(cfg.data)
    settings: Any = OmegaConf.to_container(cfg.protocol, resolve=True)
    given = {key: value for key, value in cfg.sampling.items() if value is not None}
    sampling = replace(world.spec.sampling, **{str(key): value for key, value in given.items()})
    report, evidence = evaluate(world, store, Protocol(**settings), sampling=sampling)
    folder = Path(cfg.out)
    write(folder, report, evidence)
    print(f"\n{to_markdown(report)}\nwritten to {folder}")
    if cfg.card:
        place = resolve(cfg.world)
        record_quality(place, report)
        draw(place / "pictures", report, evidence)
        print(f"model card written to {model_card(place, report, cost=cfg.cost)}")


def evaluate(
    world: WorldModel, store: EpisodeStore, protocol: Protocol, *, sampling: Sampling | None = None, say: Callable[[str], None] = print
) -> tuple[dict[str, Any], Evidence]:
    """Measure a world on a dataset.

    Args:
        world: The world.
        store: The dataset it was learned from, or another of the same frame size and actions.
        protocol: How.
        sampling: How frames are made; the world's own by default.
        say: Is told what is being done.

    Returns:
        The report, in JSON types, and what it was computed from.

    Raises:
        ValueError: World and dataset do not fit each other, or no episode is long enough.
    """
    _check_fit(world, store)
    simulator = Simulator(world, sampling=sampling)
    cut = {name: getattr(protocol, name) for name in ("split", "context", "horizon", "per_episode", "seed")}
    segments = cut_segments(store, limit=protocol.segments, **cut)
    say(f"rolling out {len(segments)} segments of {protocol.horizon} steps, with their own actions and with others'")
    evidence = Evidence(
        segments, imagine(simulator, segments, batch=protocol.batch), imagine(simulator, other_actions(segments), batch=protocol.batch)
    )
    say("comparing frames")
    report: dict[str, Any] = {
        "world": _describe_world(world, simulator.sampling),
        "data": _describe_data(store, segments, protocol),
        "made": machine_facts(),
        "open_loop": open_loop(world, evidence),
        "reward": reward(segments, evidence.made),
        "endings": endings(simulator, store, split=protocol.split, context=protocol.context, horizon=min(16, protocol.horizon)),
    }
    names = [name for name in world.spec.state_names if name in store.info.state_names]
    if names:
        probe = _probe(store, protocol, say) if protocol.pairs else None
        report["state"] = state(evidence, names, world.spec.state_names, store.info.state_names, probe)
    return report, evidence


def write(folder: Path, report: dict[str, Any], evidence: Evidence) -> None:
    """Write ``report.json``, ``report.md`` and the pictures into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    draw(folder, report, evidence)


def draw(folder: Path, report: dict[str, Any], evidence: Evidence) -> None:
    """Draw ``rollouts.png``, real above imagined, and ``open_loop.png``, PSNR over steps."""
    apart = max(1, len(evidence.segments) // 8)
    real_above_imagined(folder / "rollouts.png", real(evidence.segments)[::apart][:8], evidence.made.frames[::apart][:8])
    curves = {name.replace("_", " "): values for name, values in report["open_loop"]["curve"].items()}
    line_chart(folder / "open_loop.png", curves, title="Open loop: PSNR to the real frames [dB] by step")


def _check_fit(world: WorldModel, store: EpisodeStore) -> None:
    info, spec = store.info, world.spec
    if tuple(info.frame_size) != tuple(spec.frame_size):
        theirs, mine = ("x".join(map(str, size)) for size in (info.frame_size, spec.frame_size))
        raise ValueError(f"dataset {info.name!r} has frames of {theirs}, world {spec.name!r} makes {mine}: record some of that size")
    if info.action_space != spec.action_space:
        way_out = "evaluate it on data of its own source"
        raise ValueError(f"dataset {info.name!r} has actions {info.action_space}, world {spec.name!r} takes {spec.action_space}: {way_out}")


def _describe_world(world: WorldModel, sampling: Sampling) -> dict[str, Any]:
    return {"name": world.spec.name, "sha256": world.fingerprint, "frame_size": list(world.spec.frame_size), "sampling": asdict(sampling)}


def _describe_data(store: EpisodeStore, segments: Sequence[Segment], protocol: Protocol) -> dict[str, Any]:
    episodes = len({_episode(segment) for segment in segments})
    return {
        "name": store.info.name,
        "fingerprint": store.info.fingerprint,
        **asdict(protocol),
        "segments": len(segments),
        "episodes": episodes,
    }


def _episode(segment: Segment) -> str:
    """Name of the episode that a segment was cut from."""
    return segment.context.name.partition(", frame")[0]


# ---------------------------------------------------------------- frames


def open_loop(world: WorldModel, evidence: Evidence) -> dict[str, Any]:
    """Return PSNR and SSIM at chosen steps of the world, its baselines and its tokenizer, the PSNR curves, and the margins at step 16."""
    truth, foreign = real(evidence.segments), from_another_episode(evidence.segments)
    steps = [step for step in STEPS if step <= truth.shape[1]]
    shown = truth[:, [step - 1 for step in steps]]
    made = {"world": evidence.made.frames, "other_actions": evidence.others.frames, "copy_last": copy_last(evidence.segments)}
    curves = {name: psnr(truth, frames) for name, frames in made.items()}  # each (N, T)
    curves["other_actions"] = curves["other_actions"][foreign]
    at = {name: np.stack([curve[:, step - 1] for step in steps], axis=1) for name, curve in curves.items()}
    rebuilt = reconstruct(world.tokenizer, shown.reshape(-1, *shown.shape[2:])).reshape(shown.shape)
    at["tokenizer"] = psnr(shown, rebuilt)
    chosen = {name: frames[:, [step - 1 for step in steps]] for name, frames in made.items()} | {"tokenizer": rebuilt}
    likeness = {name: ssim(shown, frames) for name, frames in chosen.items()}
    likeness["other_actions"] = likeness["other_actions"][foreign]
    order = ("tokenizer", "world", "other_actions", "copy_last")
    return {
        "steps": steps,
        "psnr": {name: _means(at[name]) for name in order},
        "ssim": {name: _means(likeness[name]) for name in order},
        "curve": {name: _means(curves[name]) for name in order[1:]},
        "other_actions_segments": int(foreign.sum()),
        "margins": _margins(curves, foreign, min(BAR_STEP, truth.shape[1])),
    }


def from_another_episode(segments: Sequence[Segment]) -> NDArray[np.bool_]:
    """Return for which segments ``other_actions`` takes the actions of another episode, ``(N,)``."""
    shift = len(segments) // 2
    return np.array([_episode(segment) != _episode(segments[(i + shift) % len(segments)]) for i, segment in enumerate(segments)])


def _means(values: NDArray[np.float64]) -> list[float | None]:
    """Mean over rows ``(N, K)``; None where there are none."""
    return [round(float(x), 4) for x in values.mean(axis=0)] if len(values) else [None] * values.shape[1]


def _margins(curves: dict[str, NDArray[np.float64]], foreign: NDArray[np.bool_], step: int) -> dict[str, Any]:
    """Advantage of the world over each baseline at ``step``: mean of the differences, its standard error, and the bar."""
    world = curves["world"][:, step - 1]
    apart = {"copy_last": world - curves["copy_last"][:, step - 1], "other_actions": world[foreign] - curves["other_actions"][:, step - 1]}
    margins: dict[str, Any] = {"step": step}
    for name, values in apart.items():
        if len(values):
            mean, error = mean_and_error(values)
            margins[name] = {"db": round(mean, 3), "standard_error": round(error, 3), "bar": BARS[name], "met": mean >= BARS[name]}
    return margins


# ---------------------------------------------------------------- reward and state


def reward(segments: Sequence[Segment], made: Rollouts) -> dict[str, Any]:
    """Return the correlation of predicted with true reward, a step and summed over the horizon, and the mean rewards."""
    truth = np.stack([segment.rewards for segment in segments])  # (N, T)
    total, imagined = truth.sum(axis=1), made.rewards.sum(axis=1)
    return {
        "steps": truth.shape[1],
        "correlation_per_step": correlation(truth, made.rewards),
        "correlation_of_sums": correlation(total, imagined),
        "error_of_sums": mean_error(total, imagined),
        "mean_true": float(truth.mean()),
        "mean_predicted": float(made.rewards.mean()),
    }


def _probe(store: EpisodeStore, protocol: Protocol, say: Callable[[str], None]) -> Probe:
    data = draw_pairs(store, "train", protocol.pairs, seed=protocol.seed)
    say(f"training the probe on {len(data.frames):,} pairs of real frames")
    return train_probe(data, steps=protocol.probe_steps, seed=protocol.seed)


def state(
    evidence: Evidence, names: Sequence[str], of_world: Sequence[str], of_store: Sequence[str], probe: Probe | None
) -> dict[str, Any]:
    """Return how well state can be read back: by the probe from real and imagined frames, and by the world's own head.

    Errors are in physical units; ``guess`` is what always answering with the median of the true values gives.
    """
    mine, theirs = columns(names, of_store), columns(names, of_world)
    truth = np.stack([segment.state for segment in evidence.segments])[..., mine]  # (N, T, S)
    steps = [step for step in STATE_STEPS if step <= truth.shape[1]] or [truth.shape[1]]
    last = np.stack([segment.context.frames[-1] for segment in evidence.segments])
    report: dict[str, Any] = {name: {} for name in names}
    for step in steps:
        read = {"head": evidence.made.state[:, step - 1, theirs]}
        if probe is not None:
            read["probe_real"] = probe.read(pairs_at(step, last, real(evidence.segments)))[:, mine]
            read["probe_imagined"] = probe.read(pairs_at(step, last, evidence.made.frames))[:, mine]
        for s, name in enumerate(names):
            true = truth[:, step - 1, s]
            report[name][str(step)] = {key: compare(true, value[:, s]) for key, value in read.items()}
            report[name][str(step)]["guess"] = compare(true, np.full_like(true, np.median(true)))
    return {"steps": steps, "names": list(names), "figures": report}
