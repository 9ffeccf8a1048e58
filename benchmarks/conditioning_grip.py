"""Whether a world that is told the grip drives by it: under recorded actions, and under full brakes beside the simulator.

worldsim collect source=carracing_grip frames=100000 out=data/carracing-grip.worldsim
python benchmarks/conditioning_grip.py --world carracing-nano --data data/carracing-grip.worldsim
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, describe, save
from numpy.typing import NDArray

from worldsim.datasets.reader import EpisodeReader
from worldsim.envs.sources.carracing import CarRacingSource
from worldsim.envs.sources.carracing_grip import SLIPPERY
from worldsim.episode import Conditioning
from worldsim.evaluation.openloop import Segment, cut_segments, imagine, psnr
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.model import WorldModel
from worldsim.simulator import Simulator

GRIPS = (0.5, 0.75, 1.0, 1.2)
BRAKES = np.array([0, 0, 1], np.float32)
STEPS, STEP = 3, 0.04  # seconds each


def told(conditioning: Conditioning, grip: float) -> Conditioning:
    """Return what is told of an episode, but for its grip."""
    tags = [tag for tag in conditioning.tags if tag != "slippery"] + ["slippery"] * (grip < SLIPPERY)
    text = ("slippery " if grip < SLIPPERY else "") + conditioning.text.replace("slippery ", "")
    return Conditioning(tuple(tags), {**conditioning.numbers, "grip": grip}, text)


def imagined(simulator: Simulator, segments: Sequence[Segment], grip: float) -> NDArray[np.float64]:
    """Return the speed ``(N, 1 + STEPS)`` that the world's head reads, at the start and under full brakes."""
    contexts = [replace(segment.context, conditioning=told(segment.context.conditioning, grip)) for segment in segments]
    number = simulator.spec.state_names.index("speed")
    state, labels = simulator.begin(contexts, [segment.seed for segment in segments])
    speeds = [labels[:, number]]
    for _ in range(STEPS):
        state, step = simulator.step(state, np.tile(BRAKES, (len(segments), 1)), decode=False)
        speeds.append(step.state[:, number])
    return np.stack(speeds, axis=1).astype(np.float64)


def listening(simulator: Simulator, segments: Sequence[Segment]) -> dict[str, dict[str, float]]:
    """Roll recorded actions out, told the true grip, the lowest and the highest; return PSNR, error of speed and mean slip of each."""
    truth, names = np.stack([segment.state for segment in segments]), list(simulator.spec.state_names)
    speed, slip = names.index("speed"), names.index("wheel_slip")
    found = {}
    for name, grip in (("its own", None), *((f"{grip}", grip) for grip in (GRIPS[0], GRIPS[-1]))):
        each = [segment.context.conditioning.numbers["grip"] if grip is None else grip for segment in segments]
        retold = [
            replace(segment, context=replace(segment.context, conditioning=told(segment.context.conditioning, one)))
            for segment, one in zip(segments, each, strict=True)
        ]
        made = imagine(simulator, retold)
        ratio = psnr(np.stack([segment.frames for segment in segments]), made.frames).mean(axis=0)
        found[name] = {
            **{f"psnr_{step}": float(ratio[step - 1]) for step in (4, 16, 32)},
            "speed_error": float(np.abs(made.state[..., speed] - truth[..., speed]).mean()),
            "slip": float(made.state[..., slip].mean()),
        }
    return found


def real(count: int, grip: float) -> NDArray[np.float64]:
    """Return the same of the simulator ``(count, 1 + STEPS)``, each episode with a seed of its own."""
    env, rows = CarRacingSource(16, grip=grip, curvature=True), []
    for seed in range(count):
        _, info = env.reset(seed=10_000 + seed)
        rows.append([info["state"]["speed"], *(env.step(BRAKES)[4]["state"]["speed"] for _ in range(STEPS))])
    env.close()
    return np.array(rows)


def deceleration(speeds: NDArray[np.float64], lowest: float) -> tuple[float, float]:
    """Return the mean deceleration [units/s^2] of cars that begin above ``lowest``, and its standard error."""
    fast = speeds[speeds[:, 0] > lowest]
    values = (fast[:, 0] - fast[:, -1]) / (STEPS * STEP)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--data", required=True, help="dataset recorded from carracing_grip")
    parser.add_argument("--segments", type=int, default=64)
    parser.add_argument("--lowest", type=float, default=30.0, help="speed [units/s] that a start must have")
    parser.add_argument("--guidance", type=float, default=None, help="see worldsim.spec.Sampling; default: the world's own")
    parser.add_argument("--out", type=Path, default=RESULTS / "conditioning")
    options = parser.parse_args()
    world = WorldModel.from_pretrained(options.world)
    own = world.spec.sampling
    simulator = Simulator(world, sampling=own if options.guidance is None else replace(own, guidance=options.guidance))
    store = EpisodeReader(options.data)
    segments = cut_segments(store, split="heldout", context=8, horizon=32, per_episode=4, limit=options.segments)
    rows = {
        f"{grip}": {
            "real": deceleration(real(options.segments, grip), options.lowest),
            "imagined": deceleration(imagined(simulator, segments, grip), options.lowest),
        }
        for grip in GRIPS
    }
    figures: dict[str, Any] = {
        "listening": listening(simulator, segments),
        "world": {"name": world.spec.name, "sha256": world.fingerprint, "guidance": simulator.sampling.guidance},
        "steps": STEPS,
        "lowest": options.lowest,
        "deceleration": rows,
        "made": machine_facts(),
    }
    save("conditioning_grip", figures, text_of(figures), options.out)


def text_of(figures: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    rows = [
        [grip, *(f"{mean:.0f} ± {error:.0f}" for mean, error in (row["real"], row["imagined"]))]
        for grip, row in figures["deceleration"].items()
    ]
    head = ["grip told", "simulator with such tyres", "imagined"]
    what = (
        f"Deceleration [units/s²] over {figures['steps']} steps of full brakes, {STEP} s each, of starts above {figures['lowest']:.0f} "
        f"units/s; imagined from held-out starts of all grips, guidance {figures['world']['guidance']}."
    )
    lines = [
        [name, *(f"{row[f'psnr_{step}']:.2f}" for step in (4, 16, 32)), f"{row['speed_error']:.2f}", f"{row['slip']:.2f}"]
        for name, row in figures["listening"].items()
    ]
    columns = ["grip told", "PSNR step 4", "step 16", "step 32", "error of speed, units/s", "mean wheel slip, units/s"]
    said = "Held-out starts and their recorded actions, told the grip that they were driven with, or another one; means over 32 steps.\n"
    parts = ["# Driving by the grip that is told\n", said, table(columns, lines), what + "\n", table(head, rows)]
    return "\n".join([*parts, describe(figures["made"]), ""])


if __name__ == "__main__":
    main()
