"""Whether the roads of a CarRacing world still bend when nothing of what is ahead was ever seen, and whether seeds lead to different ones.

python benchmarks/road_bends.py --world carracing-nano --data data/carracing.worldsim

A camera drives 16 rows twice, with other seeds. Bends are told by the world's own head: ``path_angle_far`` beyond 0.2 radians, among
steps on the road. Recorded episodes, whose drivers leave the road now and then too, are told by their labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, describe, save
from numpy.typing import NDArray

from worldsim.datasets.reader import EpisodeReader
from worldsim.evaluation.drift import driven
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.model import WorldModel
from worldsim.policies.camera import RoadCamera
from worldsim.simulator import Simulator

ROWS = 16
STRETCHES = ((0, 50), (50, 150), (150, 400))
BEND = 0.2  # radians


def drive(simulator: Simulator, *, first_seed: int, steps: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Drive ``ROWS`` rows; return their labelled state ``(T, B, S)`` and frames ``(T, B, H, W, 3)``."""
    all_contexts, seeds = simulator.world.contexts, np.arange(first_seed, first_seed + ROWS)
    contexts = [all_contexts[i * len(all_contexts) // ROWS] for i in range(ROWS)]
    made = list(driven(simulator, contexts, RoadCamera(simulator.spec.action_space), seeds=seeds, steps=steps))
    return np.stack([step.state for step in made]), np.stack([step.frames for step in made])


def shares(states: NDArray[np.float32], names: tuple[str, ...]) -> dict[str, float]:
    """Return the share of steps on the road, and that of bends among them, of states ``(..., S)``."""
    on_road = states[..., names.index("on_road")] > 0.5
    bends = np.abs(states[..., names.index("path_angle_far")]) > BEND
    return {"on_road": float(on_road.mean()), "bends": float(bends[on_road].mean())}


def measure(world: WorldModel) -> dict[str, dict[str, float]]:
    """Return the figures of each stretch of a drive."""
    simulator = Simulator(world)
    steps = STRETCHES[-1][1]
    (states, frames), (_, others) = (drive(simulator, first_seed=seed, steps=steps) for seed in (0, 100))
    apart = np.abs(frames.astype(np.float32) - others).mean((1, 2, 3, 4))  # (T,)
    return {f"{a} to {b}": {**shares(states[a:b], world.spec.state_names), "apart": float(apart[a:b].mean())} for a, b in STRETCHES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--data", type=Path, required=True, help="dataset that the world was learned from")
    parser.add_argument("--out", type=Path, default=RESULTS / "carracing-nano")
    args = parser.parse_args()
    torch.set_num_threads(1)
    store, world = EpisodeReader(args.data), WorldModel.from_pretrained(args.world)
    real = shares(np.concatenate([store[i].state for i in store.split("heldout")]), store.info.state_names)
    figures: dict[str, Any] = {"made": machine_facts(), "world": world.spec.name, "sha256": world.fingerprint}
    figures |= {"steps": measure(world), "real": real}
    rows = [[name, f"{x['on_road']:.0%}", f"{x['bends']:.1%}", f"{x['apart']:.1f}"] for name, x in figures["steps"].items()]
    rows.append(["recorded episodes", f"{real['on_road']:.0%}", f"{real['bends']:.1%}", ""])
    heads = ["steps after the context", "on the road", "a bend ahead, of those", "difference of two seeds, of 255"]
    text = f"# Do roads bend? {world.spec.name}\n\n{describe(figures['made'])} {ROWS} rows.\n\n{table(heads, rows)}"
    save("road_bends", figures, text, args.out)


if __name__ == "__main__":
    main()
