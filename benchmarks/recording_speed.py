"""How fast CarRacing is recorded, beside the stock simulator stepped in one process.

python benchmarks/recording_speed.py --frames 8000 --workers 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
from common import RESULTS, describe, interleave, save, spread

from worldsim.datasets.reader import EpisodeReader
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts


def stock(steps: int) -> float:
    """Physics steps a second of ``CarRacing-v3``, one process, 96x96 frames drawn at each step."""
    env = gym.make("CarRacing-v3", domain_randomize=True)
    env.reset(seed=0)
    seconds = 0.0
    for _ in range(steps):
        action = env.action_space.sample()
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        seconds += time.perf_counter() - start
        if terminated or truncated:
            env.reset()
    env.close()
    return steps / seconds


def record(frames: int, workers: int) -> float:
    """Frames a second of ``worldsim collect``, from the command's start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "carracing.worldsim"
        settings = [f"frames={frames}", f"workers={workers}", f"out={out}", "writer.preview=false"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "worldsim.cli", "collect", *settings], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        store = EpisodeReader(out)
        return float(store.lengths().sum() + len(store)) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8000, help="frames of one recording")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    taken = interleave(
        options.rounds, {"stock_physics_steps": lambda: stock(300), "recorded_frames": lambda: record(options.frames, options.workers)}
    )
    rate = spread(taken["recorded_frames"])["median"]
    figures: dict[str, Any] = {
        "made": machine_facts(),
        "rounds": options.rounds,
        "frames": options.frames,
        "workers": options.workers,
        "per_second": {name: spread(values) for name, values in taken.items()},
        "minutes_for_100000_frames": round(100_000 / rate / 60, 2),
    }
    save("recording_speed", figures, _text(figures), options.out)


def _text(figures: dict[str, Any]) -> str:
    said = {
        "stock_physics_steps": "stock `CarRacing-v3`: physics steps/s, 96×96 drawn at each, one process, no writing",
        "recorded_frames": f"`worldsim collect`: frames/s of two physics steps, 64×64, labelled, on disk, {figures['workers']} processes",
    }
    rows = [[said[name], f"{x['median']:.0f}", f"{x['low']:.0f} to {x['high']:.0f}"] for name, x in figures["per_second"].items()]
    return "\n".join(
        [
            "# Recording speed\n",
            f"{describe(figures['made'])} Medians of {figures['rounds']} interleaved rounds of {figures['frames']:,} frames, "
            "start and end of the command included.\n",
            table(["", "a second", "range"], rows),
            f"At this rate 100,000 frames take {figures['minutes_for_100000_frames']:.1f} minutes (bar: 12).\n",
        ]
    )


if __name__ == "__main__":
    main()
