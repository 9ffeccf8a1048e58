"""What more denoising steps a frame change: frames and state read back, with the same probe, seeds and segments.

worldsim collect frames=100000
python benchmarks/sampling_steps.py --world carracing-nano --data data/carracing.worldsim
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, describe, save

from worldsim.datasets.reader import EpisodeReader
from worldsim.evaluation.figures import Evidence, state
from worldsim.evaluation.openloop import cut_segments, imagine, psnr, real
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.evaluation.suite import Protocol, Stopwatch, Suite, train_judges
from worldsim.model import WorldModel
from worldsim.simulator import Simulator

AT = (16, 64)


def main() -> None:
    """Roll the same segments out with each number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano", help="shipped name or folder")
    parser.add_argument("--data", type=Path, required=True, help="dataset that it was learned from")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--segments", type=int, default=48)
    args = parser.parse_args()
    world, store, protocol = WorldModel.from_pretrained(args.world), EpisodeReader(args.data), Protocol(segments=args.segments)
    names = [name for name in world.spec.state_names if name in store.info.state_names]
    judges = train_judges(store, protocol, Suite(endings=None), names=names, watch=Stopwatch(), say=print)
    segments = cut_segments(store, split="heldout", context=8, horizon=max(AT), per_episode=4, limit=args.segments)
    found: dict[str, Any] = {}
    for steps in args.steps:
        simulator = Simulator(world, sampling=replace(world.spec.sampling, steps=steps))
        made = imagine(simulator, segments)
        read = state(Evidence(segments, made, made), names, world.spec.state_names, store.info.state_names, judges.probe)
        ratio = psnr(real(segments), made.frames).mean(axis=0)
        error = read["curve"]["probe_imagined"]
        found[str(steps)] = {
            "accuracy": read["accuracy"]["probe_imagined"],
            "accuracy_head": read["accuracy"]["head"],
            **{f"psnr_{step}": float(ratio[step - 1]) for step in AT},
            **{f"error_{step}": float(np.mean(error[max(0, step - 4) : step])) for step in AT},
        }
        print(steps, found[str(steps)])
    figures: dict[str, Any] = {"made": machine_facts(), "world": args.world, "segments": len(segments), "steps": found}
    heads = [
        "steps a frame",
        *(f"PSNR at {step}" for step in AT),
        *(f"probe error at {step}" for step in AT),
        "probe accuracy",
        "head accuracy",
    ]
    rows = [
        [
            name,
            *(f"{each[f'psnr_{step}']:.2f}" for step in AT),
            *(f"{each[f'error_{step}']:.3f}" for step in AT),
            f"{each['accuracy']:.3f}",
            f"{each['accuracy_head']:.3f}",
        ]
        for name, each in found.items()
    ]
    notes = (
        f"\n- {len(segments)} held-out segments. Probe error: over that of the best constant guess, mean over names and four steps up to "
        "that one; accuracy: correlation with the truth over all steps, mean over names; head: the world's own reading of its state.\n"
    )
    text = f"# Denoising steps a frame: `{args.world}`\n\n{describe(figures['made'])}\n\n"
    save(f"sampling_steps_{Path(args.world).name}", figures, text + table(heads, rows) + notes, RESULTS)


if __name__ == "__main__":
    main()
