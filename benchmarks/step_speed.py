"""How fast ``env.step`` is, beside what the machine's matrix multiplication allows and beside the simulator the world was learned from.

python benchmarks/step_speed.py --world carracing-nano
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from common import RESULTS, describe, interleave, save, spread

import worldsim  # noqa: F401  (registers WorldSim-v0 and the sources)
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import frame_flops, machine_facts, matmul_gflops, peak_memory_mb
from worldsim.model import WorldModel


def time_steps(env: Any, steps: int) -> float:
    """Step a single or a batched environment with random actions, and return steps a second; resets are not timed."""
    env.reset(seed=0)
    seconds = 0.0
    for _ in range(steps):
        action = env.action_space.sample()
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        seconds += time.perf_counter() - start
        over = terminated | truncated
        if np.any(over):
            env.reset(options={"reset_mask": over} if isinstance(over, np.ndarray) else None)
    return steps / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano", help="shipped name or folder")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds, of which medians are taken")
    parser.add_argument("--steps", type=int, default=40, help="steps a round")
    parser.add_argument("--batch", type=int, default=8, help="rows of the batched environment")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    world = WorldModel.from_pretrained(options.world)
    flops = frame_flops(world)
    env = gym.make("WorldSim-v0", world=options.world, horizon=None)
    time_steps(env, 5)
    memory = peak_memory_mb()
    batched = gym.make_vec("WorldSim-v0", num_envs=options.batch, world=options.world, horizon=None)
    measures: dict[str, Callable[[], float]] = {
        "matmul_gflops": lambda: matmul_gflops(repeats=3),
        "single": lambda: time_steps(env, options.steps),
        "batched": lambda: options.batch * time_steps(batched, max(1, options.steps // 4)),
    }
    source = world.spec.source.get("id")
    if source in gym.registry:
        real = gym.make(source, **world.spec.source.get("kwargs", {}))
        measures["source"] = lambda: time_steps(real, options.steps)
    taken = interleave(options.rounds, measures)
    figures: dict[str, Any] = {
        "world": world.spec.name,
        "made": machine_facts(),
        "rounds": options.rounds,
        "gflop_a_frame": flops,
        "peak_memory_mb": round(memory),
        "frames_per_second": {name: spread(values) for name, values in taken.items() if name != "matmul_gflops"},
        "matmul_gflops": spread(taken["matmul_gflops"]),
        "share_of_matmul": {name: _share(taken, name, flops["total"]) for name in ("single", "batched")},
    }
    save("step_speed", figures, _text(figures, options.batch), options.out)


def _share(taken: dict[str, list[float]], name: str, gflop: float) -> float:
    """Median over rounds of what a measure computes a second, as a share of what matmul did in the same round."""
    shares = [rate * gflop / limit for rate, limit in zip(taken[name], taken["matmul_gflops"], strict=True)]
    return round(statistics.median(shares), 3)


def _text(figures: dict[str, Any], batch: int) -> str:
    rates, shares, flops = figures["frames_per_second"], figures["share_of_matmul"], figures["gflop_a_frame"]

    def row(said: str, name: str) -> list[str]:
        rate = rates[name]
        share = f"{shares[name]:.0%}" if name in shares else "–"
        return [said, f"{rate['median']:.1f}", f"{rate['low']:.1f} to {rate['high']:.1f}", share]

    rows = [row("`gym.make`, one row", "single"), row(f"`gym.make_vec`, {batch} rows", "batched")]
    rows += [row("the simulator it was learned from, drawn", "source")] if "source" in rates else []
    limit = figures["matmul_gflops"]
    return "\n".join(
        [
            f"# Speed of `{figures['world']}`\n",
            f"{describe(figures['made'])} Medians of {figures['rounds']} interleaved rounds.\n",
            table(["", "frames/s", "range", "of fp32 matmul"], rows),
            "- The limit: 1024×1024 fp32 matrix multiplication in the same rounds, "
            f"{limit['median']:.0f} GFLOP/s ({limit['low']:.0f} to {limit['high']:.0f}).",
            f"- A frame costs {flops['total']:.3f} GFLOP: dynamics {flops['dynamics']:.3f}, decoding {flops['decode']:.3f}, "
            f"heads {flops['heads']:.3f}.",
            f"- Peak memory of the process with one environment: {figures['peak_memory_mb']} MB.\n",
        ]
    )


if __name__ == "__main__":
    main()
