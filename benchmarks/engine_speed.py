"""How fast the engine behind ``gym.make`` and ``gym.make_vec`` is, beside DIAMOND's own code and beside matrix multiplication.

git clone https://github.com/eloialonso/diamond && python benchmarks/engine_speed.py --diamond diamond

DIAMOND (Alonso et al. 2024) runs as its repository sets it up for Atari: 64x64 frames, 3 denoising steps, reward and end model, both
eager and compiled as its trainer compiles it. Its weights are random: speed does not depend on them. Rows that it ends go on without the
reset that its own loop would pay for. Libraries that it imports for training and Atari alone may be missing.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import gymnasium as gym
import numpy as np
import torch
from common import RESULTS, describe, interleave, save, spread
from omegaconf import OmegaConf

import worldsim  # noqa: F401  (registers WorldSim-v0)
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import count_flops, frame_flops, machine_facts
from worldsim.model import WorldModel
from worldsim.networks import PRECISIONS

PEER = "DIAMOND"
WAYS = {f"{precision}{'+compile' * compiled}": (precision, compiled) for compiled in (False, True) for precision in PRECISIONS}
UNUSED = ("ale_py", "cv2", "h5py", "wandb", "torcheval", "torcheval.metrics", "torcheval.metrics.functional")
"""What DIAMOND imports, but its world model does not use."""


@dataclass(frozen=True)
class Runner:
    """Something to step: ``step`` moves ``batch`` rows one frame on, ``gflop`` is what a frame costs."""

    said: str
    batch: int
    steps: int
    gflop: float
    step: Callable[[], object]


class Stopwatch:
    """Adds up the time spent inside the networks of simulators; on a GPU each call is waited for."""

    def __init__(self, device: str) -> None:
        self.seconds, self._wait = 0.0, waiter(device)

    def watch(self, simulator: Any) -> None:
        """Time what the simulator calls: patches, what the passes share, the passes, heads, decoder, and what foretells errors."""
        networks = simulator.networks
        plain, dit = networks.dit, copy(networks.dit)  # what a timed call calls itself is not timed once more
        dit.share, dit.estimate = self._timed(plain.share), self._timed(plain.estimate)
        dit.patches, dit.latents = self._timed(plain.patches), self._timed(plain.latents)
        heads: Any = self._timed(networks.heads)
        simulator.networks = replace(networks, dit=dit, heads=heads, decode=self._timed(networks.decode))
        simulator._pass, simulator._uncertainty = self._timed(simulator._pass), self._timed(simulator._uncertainty)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._wait()
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self._wait()
            self.seconds += time.perf_counter() - start
            return result

        return timed


def waiter(device: str) -> Callable[[], None]:
    """Return what waits until a device has done all it was given."""
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None


def gemm_gflops(device: str, dtype: torch.dtype, *, seconds: float = 0.3) -> tuple[float, float]:
    """Measure square matrix multiplication with torch's threads: GFLOP/s, and GFLOP a second of processor time, medians of repeats."""
    size = 8192 if torch.device(device).type == "cuda" else 1024
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    wait, taken, begun = waiter(device), list[tuple[float, float]](), time.perf_counter()
    torch.mm(a, b)
    while len(taken) < 5 or time.perf_counter() - begun < seconds:
        wait()
        start, ticks = time.perf_counter(), time.process_time()
        torch.mm(a, b)
        wait()
        taken.append((time.perf_counter() - start, time.process_time() - ticks))
    wall, busy = (statistics.median(times) for times in zip(*taken, strict=True))
    return 2 * size**3 / wall / 1e9, 2 * size**3 / busy / 1e9


def our_runner(world: WorldModel, name: str, batch: int, steps: int, device: str, *, way: str, watch: Stopwatch) -> Runner:
    """Return an environment of one row from ``gym.make``, or of more from ``gym.make_vec``; actions are drawn beforehand."""
    precision, compiled = WAYS[way]
    given: dict[str, Any] = {"world": name, "horizon": None, "device": device, "precision": precision, "compile": compiled}
    env: Any = gym.make("WorldSim-v0", **given) if batch == 1 else gym.make_vec("WorldSim-v0", num_envs=batch, **given)
    watch.watch(env.unwrapped.rows.simulator)
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(16)]
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        _, _, terminated, truncated, _ = env.step(actions[count % len(actions)])
        over = terminated | truncated
        if np.any(over):  # hardly ever: a lap that ends
            env.reset(options={"reset_mask": over} if isinstance(over, np.ndarray) else None)
        return bool(np.any(over))

    door = "`gym.make`, 1 row" if batch == 1 else f"`gym.make_vec`, {batch} rows"
    return Runner(f"{door}, {precision}{', compiled' * compiled}", batch, steps, frame_flops(world)["total"], step)


class Loader:
    """Start data for DIAMOND: grey noise."""

    def __init__(self, batch_class: Any, batch: int, past: int, size: int) -> None:
        self.batch_sampler = SimpleNamespace(batch_size=batch)
        empty = {"rew": None, "end": None, "trunc": None, "mask_padding": None, "info": [], "segment_ids": []}
        self._make = lambda: batch_class(obs=torch.rand(batch, past, 3, size, size) * 2 - 1, act=torch.zeros(batch, past).long(), **empty)

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self._make()


def diamond_modules(checkout: Path) -> SimpleNamespace:
    """Import the world model of a checkout of DIAMOND.

    Raises:
        ValueError: There is no checkout of DIAMOND.
    """
    if not (checkout / "src" / "envs" / "world_model_env.py").exists():
        raise ValueError(f"--diamond {checkout} is no checkout of https://github.com/eloialonso/diamond (branch main): clone it there")
    for name in UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()
    sys.path.insert(0, str(checkout / "src"))
    names = {"env": "envs.world_model_env", "diffusion": "models.diffusion", "reward": "models.rew_end_model", "data": "data"}
    return SimpleNamespace(**{key: importlib.import_module(name) for key, name in names.items()})


def diamond_runner(checkout: Path, batch: int, steps: int, device: str, *, compiled: bool) -> Runner:
    """Return DIAMOND's ``WorldModelEnv`` with its own settings for Atari."""
    code = diamond_modules(checkout)
    parts = {"agent": "agent/default.yaml", "env": "env/atari.yaml", "trainer": "trainer.yaml"}
    settings: Any = OmegaConf.create({key: OmegaConf.load(checkout / "config" / file) for key, file in parts.items()})
    denoiser, reward = settings.agent.denoiser, settings.agent.rew_end_model
    past, size = denoiser.inner_model.num_steps_conditioning, settings.env.train.size

    def keywords(node: Any) -> dict[str, Any]:
        return {key: node[key] for key in node if key not in ("_target_", "num_actions", "inner_model", "s_tmax")}

    inner = code.diffusion.InnerModelConfig(num_actions=4, **keywords(denoiser.inner_model))
    torch.manual_seed(0)
    model = code.diffusion.Denoiser(code.diffusion.DenoiserConfig(inner_model=inner, **keywords(denoiser))).to(device).eval()
    judge = code.reward.RewEndModel(code.reward.RewEndModelConfig(num_actions=4, **keywords(reward))).to(device).eval()
    sampler = code.diffusion.DiffusionSamplerConfig(**keywords(settings.trainer.world_model_env.diffusion_sampler))
    config = code.env.WorldModelEnvConfig(horizon=10**9, num_batches_to_preload=1, diffusion_sampler=sampler)
    env = code.env.WorldModelEnv(model, judge, Loader(code.data.Batch, batch, past, size), config)
    env.reset()
    env.reset_dead = lambda dead: None  # ends are drawn from random weights: nearly every step would pay for a reset
    actions, wait = torch.zeros(batch, dtype=torch.long, device=device), waiter(device)
    gflop = count_flops(lambda: env.step(actions)) / batch / 1e9
    if compiled:
        env.predict_next_obs = torch.compile(env.predict_next_obs, mode="reduce-overhead")
        env.predict_rew_end = torch.compile(env.predict_rew_end, mode="reduce-overhead")

    def step() -> None:
        env.step(actions)
        wait()

    how = "compiled" if compiled else "eager"
    return Runner(f"{PEER}, {batch} row{'s' * (batch > 1)}, {how}", batch, steps, gflop, step)


def time_runner(runner: Runner, watch: Stopwatch) -> tuple[float, float, float]:
    """Take some steps; return frames a second, frames a second of processor time, and the share of time outside our networks."""
    wall, busy, inside, count = 0.0, 0.0, 0.0, 0
    while count < runner.steps:
        before, start, ticks = watch.seconds, time.perf_counter(), time.process_time()
        reset = runner.step()
        if reset:
            continue  # resets are not timed
        wall, busy, inside = wall + time.perf_counter() - start, busy + time.process_time() - ticks, inside + watch.seconds - before
        count += 1
    frames = runner.steps * runner.batch
    return frames / wall, frames / busy, 1 - inside / wall


def measure(runners: dict[str, Runner], watch: Stopwatch, rounds: int, device: str) -> dict[str, list[float]]:
    """Take interleaved rounds of all runners and of the limit; ``cpu:`` and ``outside:`` go with each runner."""
    extra = dict[str, list[float]]()

    def taker(name: str, runner: Runner) -> Callable[[], float]:
        def take() -> float:
            rate, own, outside = time_runner(runner, watch)
            extra.setdefault(f"cpu:{name}", []).append(own)
            extra.setdefault(f"outside:{name}", []).append(outside)
            return rate

        return take

    def limit(name: str, dtype: torch.dtype) -> Callable[[], float]:
        def take() -> float:
            rate, own = gemm_gflops(device, dtype)
            extra.setdefault(f"cpu:{name}", []).append(own)
            return rate

        return take

    measures: dict[str, Callable[[], float]] = {"gemm": limit("gemm", torch.float32), "gemm_bf16": limit("gemm_bf16", torch.bfloat16)}
    measures |= {name: taker(name, runner) for name, runner in runners.items()}
    for runner in runners.values():  # warm up, compile
        runner.step()
        runner.step()
    return interleave(rounds, measures) | extra


def ratio(taken: dict[str, list[float]], one: str, others: Sequence[str]) -> float | None:
    """Median over rounds of a rate over the best of others in the same round; None where there are no others."""
    there = [taken[other] for other in others if other in taken]
    if not there:
        return None
    return statistics.median(rate / max(rates) for rate, *rates in zip(taken[one], *there, strict=True))


def figures_of(runners: dict[str, Runner], taken: dict[str, list[float]]) -> dict[str, Any]:
    """Return of each runner its rates, achieved GFLOP/s, share of the limit, time outside networks, and times the peer."""
    found: dict[str, Any] = {}
    for name, runner in runners.items():
        achieved = [rate * runner.gflop for rate in taken[name]]
        found[name] = {
            "said": runner.said,
            "batch": runner.batch,
            "gflop_a_frame": round(runner.gflop, 3),
            "frames_per_second": spread(taken[name]),
            "frames_per_cpu_second": spread(taken[f"cpu:{name}"]),
            "gflops": spread(achieved, 1),
            "share_of_gemm": spread([done / limit for done, limit in zip(achieved, taken["gemm"], strict=True)], 3),
            "share_of_gemm_cpu": spread(
                [rate * runner.gflop / limit for rate, limit in zip(taken[f"cpu:{name}"], taken["cpu:gemm"], strict=True)], 3
            ),
        }
        if name.startswith("ours"):
            peers = [other for other, r in runners.items() if other.startswith("peer") and r.batch == runner.batch]
            found[name] |= {
                "share_outside_networks": spread(taken[f"outside:{name}"], 4),
                "times_peer": ratio(taken, name, peers),
                "times_peer_cpu": ratio(taken, f"cpu:{name}", [f"cpu:{peer}" for peer in peers]),
            }
    return found


def text_of(figures: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    rows = []
    for run in figures["runs"].values():
        rate, faster = run["frames_per_second"], run.get("times_peer")
        rows.append(
            [
                run["said"],
                f"{run['gflop_a_frame']:.3f}",
                f"{rate['median']:.2f}",
                f"{rate['low']:.2f} to {rate['high']:.2f}",
                f"{run['frames_per_cpu_second']['median']:.2f}",
                f"{run['gflops']['median']:.1f}",
                f"{run['share_of_gemm']['median']:.0%} ({run['share_of_gemm_cpu']['median']:.0%})",
                f"{run['share_outside_networks']['median']:.1%}" if "share_outside_networks" in run else "–",
                f"{faster:.1f}× ({run['times_peer_cpu']:.1f}×)" if faster else "–",
            ]
        )
    limit, half = figures["gemm_gflops"], figures["gemm_bf16_gflops"]
    own, own_half = (figures[name]["median"] for name in ("gemm_gflops_cpu", "gemm_bf16_gflops_cpu"))
    heads = ["", "GFLOP a frame", "frames/s", "range", "frames/CPU s", "GFLOP/s", "of GEMM", "outside networks", f"times {PEER}"]
    return "\n".join(
        [
            f"# Engine speed of `{figures['world']}`\n",
            f"{describe(figures['made'])} Medians of {figures['rounds']} interleaved rounds on {figures['device']}.\n",
            table(heads, rows),
            "- GEMM: 1024×1024 fp32 matrix multiplication (8192 on a GPU) with the same threads in the same rounds, "
            f"{limit['median']:.0f} GFLOP/s ({limit['low']:.0f} to {limit['high']:.0f}; a CPU second {own:.0f}); "
            f"bf16 {half['median']:.0f} (a CPU second {own_half:.0f}).",
            "- Frames/CPU s, and figures in brackets, count the processor time of this process alone, all its threads together: "
            "time that other work takes from the machine is left out of them.",
            *([_peer_note(figures["peer"])] if figures["peer"] else []),
            "- Outside networks: Gym layer, copies, random numbers, the rollout's memory: all but dynamics, heads and decoder.\n"
            "- Of GEMM: of the fp32 rate, whatever the row computes in.\n",
        ]
    )


def _peer_note(commit: str) -> str:
    return (
        f"- {PEER} is its own code (commit {commit}) at 64×64, 3 denoising steps, reward and end model, random weights, "
        "no resets; the times are against the fastest of its rows above at the same batch size."
    )


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, or ``unknown``."""
    head = (checkout / ".git" / "HEAD").read_text(encoding="utf-8").strip() if (checkout / ".git" / "HEAD").exists() else "unknown"
    place = checkout / ".git" / head.removeprefix("ref: ")
    return (place.read_text(encoding="utf-8") if head.startswith("ref: ") and place.exists() else head)[:7]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano", help="shipped name or folder")
    parser.add_argument("--diamond", type=Path, help="checkout of github.com/eloialonso/diamond; without it there is no peer")
    parser.add_argument("--peer-batches", type=int, nargs="*", default=[1, 32], help="batch sizes of the peer")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="batch sizes of the world")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=["fp32", "bf16", "bf16+compile"], help="how the world runs")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, of which medians are taken")
    parser.add_argument("--steps", type=int, default=32, help="steps a round of one row; larger batches take fewer")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--eager-peer", action="store_true", help="do not also compile the peer")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    world = WorldModel.from_pretrained(options.world, device=options.device)
    watch = Stopwatch(options.device)
    runners = {
        f"ours_{batch}_{way}": our_runner(world, options.world, batch, max(4, options.steps // batch), options.device, way=way, watch=watch)
        for batch in options.batches
        for way in options.ways
    }
    if options.diamond:
        for batch in options.peer_batches:
            for compiled in (False,) if options.eager_peer else (False, True):
                name = f"peer_{batch}_{'compiled' if compiled else 'eager'}"
                runners[name] = diamond_runner(options.diamond, batch, 2 if batch == 1 else 1, options.device, compiled=compiled)
    before = machine_facts()
    taken = measure(runners, watch, options.rounds, options.device)
    figures: dict[str, Any] = {
        "world": world.spec.name,
        "made": machine_facts() | {"load_before": before["load"]},
        "device": options.device,
        "rounds": options.rounds,
        "peer": commit_of(options.diamond) if options.diamond else None,
        "gemm_gflops": spread(taken["gemm"], 1),
        "gemm_bf16_gflops": spread(taken["gemm_bf16"], 1),
        "gemm_gflops_cpu": spread(taken["cpu:gemm"], 1),
        "gemm_bf16_gflops_cpu": spread(taken["cpu:gemm_bf16"], 1),
        "gflop_a_frame": frame_flops(world),
        "runs": figures_of(runners, taken),
    }
    save(f"engine_speed_{options.device.partition(':')[0]}_{options.threads}", figures, text_of(figures), options.out)


if __name__ == "__main__":
    main()
