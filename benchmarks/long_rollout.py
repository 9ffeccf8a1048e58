"""Whether a rollout can go on for ever: memory, time a step and frames over a hundred thousand steps of one environment.

python benchmarks/long_rollout.py --world carracing-nano --steps 100000
python benchmarks/long_rollout.py --tiny --steps 100000

The tiny world has the same code with two blocks, 16x16 frames and random weights: its 100,000 steps take minutes.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from common import RESULTS, describe, save
from gymnasium import spaces

import worldsim  # noqa: F401  (registers WorldSim-v0)
from worldsim.conditioning import Vocabulary
from worldsim.contexts import Context, Contexts
from worldsim.dit import VideoDiT
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import frame_flops, machine_facts
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.spec import Sampling, WorldSpec
from worldsim.tokenizer import FrameAutoencoder


def tiny_world(folder: Path) -> Path:
    """Save a world of two blocks and 16x16 frames, every weight random, to ``folder``."""
    torch.manual_seed(0)
    space = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
    vocabulary = Vocabulary(tags=(), words=(), numbers={})
    tokenizer = FrameAutoencoder(frame_size=(16, 16), latent_channels=4, widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    dynamics = VideoDiT(
        latent_shape=(4, 4, 4),
        action_features=3,
        condition_features=vocabulary.size,
        width=32,
        depth=2,
        heads=2,
        temporal_every=2,
        window=4,
    )
    heads = Heads(tokens=4, width=32, state_size=1, hidden=16)
    for parameter in (p for module in (tokenizer, dynamics, heads) for p in module.parameters() if p.ndim > 1):
        torch.nn.init.normal_(parameter, std=0.08)
    torch.nn.init.constant_(heads.mlp.get_parameter("4.bias"), -4.0)  # no episode ends
    spec = WorldSpec(
        name="tiny",
        frame_size=(16, 16),
        fps=25.0,
        action_space=space,
        vocabulary=vocabulary,
        state_names=("speed",),
        state_mean=(20.0,),
        state_std=(5.0,),
        reward_range=(-1.0, 1.0),
        window=4,
        context_frames=4,
        sampling=Sampling(steps=1),
        source={"id": "worldsim/CarRacing-v0"},
    )
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    start = Context(frames, np.zeros((3, 3), np.float32))
    WorldModel(tokenizer, dynamics, heads, spec, Contexts((start,))).save_pretrained(folder)
    return folder


def held_mb() -> float:
    """Return the memory that this process holds now, in MB.

    Raises:
        ValueError: The system does not say (there is no ``/proc``).
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise ValueError("memory held now is read from /proc/self/status, which this system has not: run on Linux")
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def roll(env: Any, steps: int, parts: int) -> list[dict[str, float]]:
    """Take steps in ``parts`` stretches and note each; the frames and rewards of every step are checked.

    Returns:
        For each stretch the steps so far, MB held, median milliseconds a step of wall and of processor time, the share of steps whose
        values were finite, the share that changed the frame, the mean and the spread of pixels, and resets.
    """
    last, _ = env.reset(seed=0)
    env.action_space.seed(0)
    notes: list[dict[str, float]] = []
    done = 0
    for part in range(parts):
        wall, busy, finite, moved, mean, deviation, resets = [], [], 0, 0, [], [], 0
        while done < steps * (part + 1) // parts:
            action = env.action_space.sample()
            start, ticks = time.perf_counter(), time.process_time()
            frame, reward, terminated, truncated, info = env.step(action)
            wall.append(time.perf_counter() - start)
            busy.append(time.process_time() - ticks)
            done += 1
            finite += bool(np.isfinite(reward)) and "truncation_reason" not in info
            moved += bool((frame != last).any())
            mean.append(float(frame.mean()))
            deviation.append(float(frame.std()))
            last = frame
            if terminated or truncated:
                last, _ = env.reset()
                resets += 1
        gc.collect()
        notes.append(
            {
                "steps": done,
                "held_mb": round(held_mb(), 1),
                "ms": round(1e3 * statistics.median(wall), 3),
                "cpu_ms": round(1e3 * statistics.median(busy), 3),
                "finite": finite / len(wall),
                "moved": round(moved / len(wall), 4),
                "pixel_mean": round(statistics.mean(mean), 1),
                "pixel_std": round(statistics.mean(deviation), 1),
                "resets": resets,
            }
        )
        print(notes[-1], flush=True)
    return notes


def text_of(figures: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    names = ("held_mb", "ms", "cpu_ms", "finite", "moved", "pixel_mean", "pixel_std", "resets")
    rows = [[f"{note['steps']:,}", *(f"{note[name]:.1%}" if name in ("finite", "moved") else f"{note[name]:g}" for name in names)]
            for note in figures["stretches"]]  # fmt: skip
    said = ["steps so far", "MB held", "ms a step", "CPU ms a step", "finite", "frame changed", "pixel mean", "pixel std", "resets"]
    return "\n".join(
        [
            f"# {figures['steps']:,} steps of `{figures['world']}`\n",
            f"{describe(figures['made'])} One environment through `gym.make`, random actions, "
            f"{figures['gflop_a_frame']:.4f} GFLOP a frame.\n",
            table(said, rows),
            f"- Memory grew by {figures['growth_mb']:.1f} MB from step {figures['stretches'][0]['steps']:,} to the end, "
            f"{figures['growth_from_start_mb']:.1f} MB from step {figures['warm_steps']}.",
            f"- The last stretch took {figures['last_over_first']:.2f} times as long a step as the first (medians of processor time).\n",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano", help="shipped name or folder")
    parser.add_argument("--tiny", action="store_true", help="a tiny random world in place of --world")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=10, help="stretches that are told apart")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        name = str(tiny_world(Path(folder) / "tiny")) if options.tiny else options.world
        world = WorldModel.from_pretrained(name, device=options.device)
        env = gym.make("WorldSim-v0", world=name, horizon=None, device=options.device)
        flops = frame_flops(world)["total"]
        warm = roll(env, 50, 1)[0]
        notes = roll(env, options.steps, options.parts)
    figures: dict[str, Any] = {
        "world": world.spec.name,
        "steps": options.steps,
        "made": machine_facts(),
        "gflop_a_frame": flops,
        "warm_steps": int(warm["steps"]),
        "growth_mb": round(notes[-1]["held_mb"] - notes[0]["held_mb"], 1),
        "growth_from_start_mb": round(notes[-1]["held_mb"] - warm["held_mb"], 1),
        "last_over_first": round(notes[-1]["cpu_ms"] / notes[0]["cpu_ms"], 3),
        "stretches": notes,
    }
    save(f"long_rollout_{world.spec.name}", figures, text_of(figures), options.out)


if __name__ == "__main__":
    main()
