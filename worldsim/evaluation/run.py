"""``worldsim evaluate``: measures a world on held-out episodes and writes figures, tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldsim.checkpoint import resolve
from worldsim.evaluation.chart import line_chart
from worldsim.evaluation.endings import endings
from worldsim.evaluation.figures import Evidence, episode_name, open_loop, reward, state, uncertainty
from worldsim.evaluation.labels import labels
from worldsim.evaluation.openloop import Segment, cut_segments, imagine, other_actions, real
from worldsim.evaluation.pictures import real_above_imagined
from worldsim.evaluation.probe import Probe, draw_pairs, train_probe
from worldsim.evaluation.report import model_card, record_quality, to_markdown
from worldsim.evaluation.speed import machine_facts
from worldsim.labeller import SEGMENTATION
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import Sampling
from worldsim.targets import instantiate_allowed
from worldsim.types import EpisodeStore


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


def main(cfg: DictConfig) -> None:
    """Measure by a composed ``configs/evaluate.yaml``; see there for the keys.

    Raises:
        ValueError: The world or the dataset cannot be read, or they do not fit each other.
    """
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device or "cpu")
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
    _say_of_labels(world, store, say)
    simulator = Simulator(world, sampling=sampling)
    cut = {name: getattr(protocol, name) for name in ("split", "context", "horizon", "per_episode", "seed")}
    segments = cut_segments(store, limit=protocol.segments, **cut)
    names = [name for name in world.spec.state_names if name in store.info.state_names]
    probe = _probe(store, protocol, say) if names and protocol.pairs else None
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
    if world.uncertainty is not None:
        report["uncertainty"] = uncertainty(evidence, float(world.uncertainty.threshold))
    if evidence.made.segmentation.size:
        report["labels"] = labels(world, segments, evidence.made)
    if names:
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


def _say_of_labels(world: WorldModel, store: EpisodeStore, say: Callable[[str], None]) -> None:
    """Say so where a dataset holds a segmentation that the world cannot tell.

    Raises:
        ValueError: Its classes are others than the world's.
    """
    there = store.info.labels.get(SEGMENTATION)
    if there and world.labeller is None:
        say(f"segmentation is left out: world {world.spec.name!r} tells none; teach it with 'worldsim train labels'")
    elif there and world.labeller is not None and tuple(there) != (mine := tuple(world.labeller.classes)):
        raise ValueError(f"dataset {store.info.name!r} tells pixels apart by {tuple(there)}, world {world.spec.name!r} by {mine}")


def _describe_world(world: WorldModel, sampling: Sampling) -> dict[str, Any]:
    return {"name": world.spec.name, "sha256": world.fingerprint, "frame_size": list(world.spec.frame_size), "sampling": asdict(sampling)}


def _describe_data(store: EpisodeStore, segments: Sequence[Segment], protocol: Protocol) -> dict[str, Any]:
    episodes = len({episode_name(segment) for segment in segments})
    return {
        "name": store.info.name,
        "fingerprint": store.info.fingerprint,
        **asdict(protocol),
        "segments": len(segments),
        "episodes": episodes,
    }


def _probe(store: EpisodeStore, protocol: Protocol, say: Callable[[str], None]) -> Probe:
    data = draw_pairs(store, "train", protocol.pairs, seed=protocol.seed)
    say(f"training the probe on {len(data.frames):,} pairs of real frames")
    return train_probe(data, steps=protocol.probe_steps, seed=protocol.seed)
