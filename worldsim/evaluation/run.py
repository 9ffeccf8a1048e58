"""``worldsim evaluate``: measures a world on held-out episodes and writes figures, tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from worldsim.checkpoint import resolve
from worldsim.evaluation.crowd import clips_ending, distances
from worldsim.evaluation.drift import BAR as DRIFT_BAR
from worldsim.evaluation.drift import Drift, drive, figures_of
from worldsim.evaluation.endings import endings
from worldsim.evaluation.fidelity import fidelity
from worldsim.evaluation.figures import LONG_STEPS, Evidence, episode_name, open_loop, reward, state, uncertainty
from worldsim.evaluation.gallery import draw, shown
from worldsim.evaluation.generalisation import generalisation
from worldsim.evaluation.inverse import AFTER
from worldsim.evaluation.judge import Judge
from worldsim.evaluation.labels import labels
from worldsim.evaluation.memory import memory
from worldsim.evaluation.openloop import Segment, check_fit, cut_segments, imagine, longest_horizon, other_actions, real
from worldsim.evaluation.report import model_card, record_quality
from worldsim.evaluation.source_drift import figures_of_recorded, judge_recorded
from worldsim.evaluation.speed import machine_facts
from worldsim.evaluation.suite import Judges, Long, Protocol, Stopwatch, Suite, train_judges
from worldsim.evaluation.tables import to_markdown
from worldsim.labeller import SEGMENTATION
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import Sampling
from worldsim.targets import instantiate_allowed
from worldsim.types import EpisodeStore

__all__ = ["Protocol", "Suite", "evaluate", "main", "write"]

SECTIONS = ("generalisation", "long", "distance", "fidelity", "drift", "endings", "memory")
"""Keys of the settings that null leaves out."""


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
    sections: Any = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in SECTIONS if cfg[name] is not None}
    suite = Suite.from_settings(sections, world.spec.action_space, instantiate_allowed)
    report, evidence = evaluate(world, store, Protocol(**settings), sampling=sampling, suite=suite)
    folder = Path(cfg.out)
    write(folder, report, evidence)
    print(f"\n{to_markdown(report)}\nwritten to {folder}")
    if cfg.card:
        place = resolve(cfg.world)
        record_quality(place, report)
        draw(place / "pictures", report, evidence)
        print(f"model card written to {model_card(place, report, cost=cfg.cost)}")


def evaluate(
    world: WorldModel,
    store: EpisodeStore,
    protocol: Protocol,
    *,
    sampling: Sampling | None = None,
    suite: Suite | None = None,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Any], Evidence]:
    """Measure a world on a dataset.

    Args:
        world: The world.
        store: The dataset it was learned from, or another of the same frame size and actions.
        protocol: How.
        sampling: How frames are made; the world's own by default.
        suite: Which further sections; endings alone by default.
        say: Is told what is being done.

    Returns:
        The report, in JSON types, and what it was computed from.

    Raises:
        ValueError: World and dataset do not fit each other, or no episode is long enough.
    """
    check_fit(world.spec, store)
    _say_of_labels(world, store, say)
    suite, watch, simulator = suite or Suite(), Stopwatch(), Simulator(world, sampling=sampling)
    for source in suite.sources.values():
        check_fit(world.spec, source)
    cut = {name: getattr(protocol, name) for name in ("split", "context", "horizon", "per_episode", "seed")}
    segments = cut_segments(store, limit=protocol.segments, **cut)
    names = [name for name in world.spec.state_names if name in store.info.state_names]
    judges = train_judges(store, protocol, suite, names=names, watch=watch, say=say)
    say(f"rolling out {len(segments)} segments of {protocol.horizon} steps, with their own actions and with others'")
    with watch.of("rollouts"):
        evidence = _roll_out(simulator, segments, protocol.batch)
    say("comparing frames")
    report: dict[str, Any] = {
        "world": _describe_world(world, simulator.sampling),
        "data": _describe_data(store, segments, protocol),
        "made": machine_facts(),
    }
    with watch.of("open loop"):
        report |= {"open_loop": open_loop(world, evidence), "reward": reward(segments, evidence.made)}
        if world.uncertainty is not None:
            report["uncertainty"] = uncertainty(evidence, float(world.uncertainty.threshold))
        if evidence.made.segmentation.size:
            report["labels"] = labels(world, segments, evidence.made)
    if names:
        with watch.of("state"):
            report["state"] = state(evidence, names, world.spec.state_names, store.info.state_names, judges.probe)
            report["state"]["recall"] = world.heads.memory is not None
    report |= _further(simulator, store, protocol, suite, judges, evidence, watch, say)
    if suite.drift is not None and suite.policies and judges.judge is not None:
        with watch.of("drift"):
            report["drift"], evidence = _drift(simulator, suite, suite.drift, judges.judge, evidence, say)
            report["drift"]["source"] = _source_drift(suite, suite.drift, judges.judge, protocol.context, report["drift"]["policies"], say)
    return report | {"seconds": watch.seconds}, evidence


def _roll_out(simulator: Simulator, segments: Sequence[Segment], batch: int) -> Evidence:
    own, others = (imagine(simulator, each, batch=batch) for each in (segments, other_actions(segments)))
    return Evidence(segments, own, others)


def _further(
    simulator: Simulator,
    store: EpisodeStore,
    protocol: Protocol,
    suite: Suite,
    judges: Judges,
    evidence: Evidence,
    watch: Stopwatch,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the sections that ``suite`` asks for, all but drift."""
    found: dict[str, Any] = {}
    where: dict[str, Any] = {"split": protocol.split, "context": protocol.context, "batch": protocol.batch}
    if suite.generalisation is not None and protocol.split != "train":
        say("rolling out episodes that were learned from")
        with watch.of("generalisation"):
            cut = {name: getattr(protocol, name) for name in ("context", "seed", "batch")}
            found["generalisation"] = generalisation(simulator, store, suite.generalisation, evidence, **cut)
    if suite.long is not None:
        with watch.of("long"):
            found |= _long(simulator, store, protocol, suite.long, say)
    if suite.distance is not None and judges.judge is not None:
        with watch.of("distance"):
            apart = distances(evidence, judges.judge, width=suite.distance.width, seed=protocol.seed)
            network = "the probe" if judges.probe is not None else "the inverse-dynamics network"
            found["distance"] = {"network": network, "directions": judges.judge.reference.shape[1], **apart}
    elif judges.judge is None and (suite.distance is not None or suite.drift is not None):
        say("distances and drift are left out: no probe and no inverse-dynamics network was trained to judge by")
    if judges.inverse is not None and protocol.horizon >= AFTER:
        with watch.of("fidelity"):
            found["fidelity"] = fidelity(evidence, judges.inverse, simulator.world.tokenizer)
    if suite.endings is not None:
        say("rolling out the ends of episodes")
        with watch.of("endings"):
            found["endings"] = endings(simulator, store, suite.endings, seed=protocol.seed, **where)
    if suite.memory is not None and suite.memory.looks:
        with watch.of("memory"):
            found["memory"] = memory(simulator, store, suite.memory, **where)
    return found


def _long(simulator: Simulator, store: EpisodeStore, protocol: Protocol, plan: Long, say: Callable[[str], None]) -> dict[str, Any]:
    horizon = longest_horizon(store, split=protocol.split, context=protocol.context, wanted=plan.steps)
    if horizon < plan.steps:
        say(f"{protocol.split} episodes are too short for {plan.steps} steps after {protocol.context} context frames: {horizon} are asked")
    if horizon <= protocol.horizon:
        return {}
    cut = {name: getattr(protocol, name) for name in ("split", "context", "seed")}
    segments = cut_segments(
        store, limit=plan.segments, horizon=horizon, per_episode=-(-plan.segments // len(store.split(protocol.split))), **cut
    )
    say(f"rolling out {len(segments)} segments of {horizon} steps")
    evidence = _roll_out(simulator, segments, protocol.batch)
    steps = sorted({*(step for step in LONG_STEPS if step <= horizon), horizon})
    loop = open_loop(simulator.world, evidence, steps=steps)
    kept = {name: loop[name] for name in ("steps", "psnr", "ssim", "curve")}
    return {"long": {"asked": plan.steps, "horizon": horizon, "segments": len(segments), **kept}}


def _drift(
    simulator: Simulator, suite: Suite, plan: Drift, judge: Judge, evidence: Evidence, say: Callable[[str], None]
) -> tuple[dict[str, Any], Evidence]:
    apart = max(1, len(evidence.segments) // plan.rows)
    contexts = [evidence.segments[i * apart % len(evidence.segments)].context for i in range(plan.rows)]
    told, driven = dict[str, Any](), dict[str, Any]()
    left_out = dict(suite.left_out)
    for name, policy in suite.policies.items():
        say(f"driving {plan.rows} x {plan.steps // plan.rows} steps by {name}")
        try:
            made = drive(simulator, contexts, policy, judge, steps=plan.steps // plan.rows)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        told[name] = figures_of(made.outside, judge.criteria, sustained=plan.sustained)
        told[name] |= {"bar": DRIFT_BAR, "met": told[name]["inside"] >= DRIFT_BAR}
        driven[name] = made.shown
    real_clips = clips_ending(
        range(1, len(evidence.segments[0].actions) + 1), evidence.segments, real(evidence.segments), judge.sight.frames
    )
    outside = judge.outside(real_clips)
    inside = float((~outside.any(axis=1)).mean())
    by_criterion = {name: float(outside[:, k].mean()) for k, name in enumerate(judge.criteria)}
    report = {"rows": plan.rows, "steps": plan.steps // plan.rows, "sustained": plan.sustained, "edge": plan.edge, "bar": DRIFT_BAR}
    return report | {"real": inside, "real_outside": by_criterion, "policies": told, "left_out": left_out}, replace(evidence, driven=driven)


def _source_drift(
    suite: Suite, plan: Drift, judge: Judge, context: int, driven: Collection[str], say: Callable[[str], None]
) -> dict[str, Any]:
    told, steps = dict[str, Any](), plan.steps // plan.rows
    for name, store in ((name, store) for name, store in suite.sources.items() if name in driven):
        say(f"judging the source itself, driven by {name}")
        kept = judge_recorded(judge, store, context=context, steps=steps, total=plan.steps)
        told[name] = figures_of_recorded(kept, judge.criteria, steps=steps)
    return told


def write(folder: Path, report: dict[str, Any], evidence: Evidence) -> None:
    """Write ``report.json``, ``report.md`` and the pictures into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report) + shown(draw(folder, report, evidence)), encoding="utf-8")


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
