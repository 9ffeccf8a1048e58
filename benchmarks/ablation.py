"""What each part of the training recipe is worth: variants of one base, one change each, at one budget of computation.

python benchmarks/ablation.py --data data/carracing.worldsim --tokenizer worldsim/worlds/carracing-nano/tokenizer

The variants of the tokenizer need ``--tokenizer young=runs/young/tokenizer`` and so on besides, each of ``worldsim train tokenizer
out=runs/young loop.steps=1200 loop.decay=600``; others with ``tokenizer.latent_channels=8`` or 32, or ``equivariance=0``.

Every variant is trained for the same floating-point operations (``--equal steps``: for the same steps) on the same latents and judged on
the same held-out segments. Operations are those of matrix products, convolutions and attention, forward and backward, counted on a real
step; the optimizer's own are not among them. A run that is killed goes on where it was: variants that are done are not done again, and
one that was being trained goes on from its last state. The table is written anew after each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ablation_referee import Referee, apart, open_referee
from ablation_variants import BASE, VARIANTS, Variant
from common import RESULTS, describe

from worldsim.config import compose
from worldsim.evaluation.openloop import imagine, other_actions
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import count_flops, frame_flops, machine_facts
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import Sampling
from worldsim.training.build import WorldBuilder
from worldsim.training.dynamics_task import DynamicsTask
from worldsim.training.loop import Trainer, step_generator
from worldsim.training.run import loop_config, open_data, open_tokenizer, seeded
from worldsim.types import EpisodeStore

CONTEXT = 8
DECAY = 0.4
"""Share of the steps over which the learning rate falls to 0."""


@dataclass(frozen=True)
class Plan:
    """How long a variant is trained: steps, and TFLOP in all."""

    steps: int
    tflop: float


@dataclass(frozen=True)
class Bench:
    """What all variants share."""

    args: argparse.Namespace
    store: EpisodeStore
    referee: Referee

    @property
    def work(self) -> Path:
        """Folder of all that is no result: latents, training states, weights."""
        folder: Path = self.args.work
        return folder

    def result(self, name: str) -> Path:
        """File of a variant's figures."""
        return self.work / "results" / f"{name}.json"

    def world(self, name: str) -> Path:
        """Folder of a variant's weights, where another needs them."""
        return self.work / name / "world"


def gflop_of_step(task: DynamicsTask, step: int) -> float:
    """Count a training step, forward and backward, in GFLOP."""
    batch = task.batch(step, step_generator(0, step, 0), torch.device("cpu"))

    def train() -> None:
        task.module(batch)[0].backward()

    count = count_flops(train)
    task.module.zero_grad()
    return count / 1e9


def plan_steps(task: DynamicsTask, variant: Variant, args: argparse.Namespace) -> Plan:
    """Choose the steps of a variant, and have ``self_context`` and ``shortcut`` begin at their share of them."""
    objective = task.module.objective
    task.module.objective = replace(objective, self_from=0, shortcut_from=0)
    late = gflop_of_step(task, 0)
    task.module.objective = replace(objective, self_from=1, shortcut_from=1)
    mean = variant.late * gflop_of_step(task, 0) + (1 - variant.late) * late if variant.late else late
    steps = max(1, round(variant.share * (args.tflop * 1e3 / mean if args.equal == "flop" else args.steps)))
    begin = round(variant.late * steps)
    task.module.objective = replace(objective, self_from=begin, shortcut_from=begin)
    return Plan(steps, steps * mean / 1e3)


def build(bench: Bench, variant: Variant) -> tuple[WorldBuilder, Any]:
    """Build a variant's untrained world, with the settings it is built from."""
    args = bench.args
    tokenizer = args.tokenizers[variant.tokenizer]
    own = [f"data.path={args.data}", f"tokenizer_dir={tokenizer}", f"loop.precision={args.precision}", *variant.overrides]
    own += [f"init={bench.world(variant.init)}"] if variant.init else []
    cfg = compose("train_dynamics", [*BASE, *own])
    with seeded(cfg.loop.seed):
        return WorldBuilder(bench.store, open_tokenizer(cfg, bench.store), cfg, bench.work), cfg


def train(bench: Bench, name: str, variant: Variant) -> dict[str, Any]:
    """Train and judge a variant."""
    builder, cfg = build(bench, variant)
    plan = plan_steps(builder.task, variant, bench.args)
    print(f"{name}: {variant.says}; {plan.steps} steps, {plan.tflop:.2f} TFLOP", flush=True)
    loop = replace(loop_config(cfg), steps=plan.steps, decay=round(DECAY * plan.steps), warmup=min(cfg.loop.warmup, plan.steps))
    folder, spent = bench.work / name, Spent(bench.work / name / "seconds.json")
    trainer = Trainer(builder.task, loop, folder)
    while trainer.step < plan.steps:  # in stretches, so that the time spent is known after a kill too
        trainer.run(stop_after=loop.save_every)
        spent.keep()
    with trainer.averaged():
        world = builder.world(contexts=False)
        figures = judge(bench, world, variant)
        if any(name in (other.of, other.init) for other in VARIANTS.values()):
            builder.world().save_pretrained(bench.world(name))
    shutil.rmtree(folder / "state", ignore_errors=True)
    parameters = sum(p.numel() for p in world.dynamics.parameters())
    training = {"steps": plan.steps, "tflop": round(plan.tflop, 3), "cpu_minutes": round(spent.total / 60, 2)}
    return {**training, "parameters": parameters, "clips": plan.steps * cfg.batch_size, **figures}


def resample(bench: Bench, variant: Variant) -> dict[str, Any]:
    """Judge the weights of another variant under another way of sampling."""
    world = WorldModel.from_pretrained(bench.world(variant.of))
    return {"steps": 0, "tflop": 0.0, "cpu_minutes": 0.0, **judge(bench, world, variant)}


def judge(bench: Bench, world: Any, variant: Variant) -> dict[str, Any]:
    """Roll a world out and return its figures."""
    sampling = replace(Sampling(steps=1, context_level=1.0, shortcut=False), **variant.sampling)
    segments = bench.referee.segments
    simulator, batch = Simulator(world, sampling=sampling, sink=variant.sink), bench.args.batch
    made = imagine(simulator, segments, batch=batch).frames
    others = imagine(simulator, other_actions(segments), batch=batch).frames
    figures = bench.referee.judge(made, others)
    return {"sampling": asdict(sampling), "gflop_a_frame": frame_flops(world, sampling)["total"], **figures}


class Spent:
    """Processor seconds that went into a variant, over all its runs."""

    def __init__(self, file: Path) -> None:
        self.file, self.since = file, time.process_time()
        self.total: float = json.loads(file.read_text()) if file.exists() else 0.0

    def keep(self) -> None:
        """Add what was spent since, and write it down."""
        self.total, self.since = self.total + time.process_time() - self.since, time.process_time()
        write_json(self.file, self.total)


def write_json(file: Path, data: Any) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def check_settings(args: argparse.Namespace) -> None:
    """Refuse a folder of results that were made at another budget or judged in another way.

    Raises:
        ValueError: It holds such.
    """
    names = ("equal", "tflop" if args.equal == "flop" else "steps", "segments", "horizon", "pairs", "probe_steps")
    mine, file = {name: getattr(args, name) for name in names}, args.work / "settings.json"
    theirs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else mine
    if theirs != mine:
        raise ValueError(f"--work {args.work} holds results of {theirs}, this is {mine}: choose another folder, or remove that one")
    write_json(file, mine)


def possible(bench: Bench, name: str) -> str:
    """Return why a variant cannot be run, or nothing."""
    variant = VARIANTS[name]
    if variant.tokenizer not in bench.args.tokenizers:
        return f"it needs --tokenizer {variant.tokenizer}=FOLDER"
    for other in (variant.of, variant.init):
        if other and not (bench.world(other) / "world.json").exists():
            return f"it needs variant {other}"
    return ""


def run(bench: Bench, names: list[str]) -> None:
    """Run what is not done yet."""
    todo = [name for name in names if not bench.result(name).exists()]
    begun, count = time.monotonic(), 0
    for place, name in enumerate(todo):
        if why := possible(bench, name):
            print(f"{name}: left out, {why}", flush=True)
            continue
        variant, since = VARIANTS[name], time.monotonic()
        figures = resample(bench, variant) if variant.of else train(bench, name, variant)
        way = {"equal": bench.args.equal, "precision": bench.args.precision}
        told = {"says": variant.says, "overrides": list(variant.overrides), **way, "made": machine_facts()}
        write_json(bench.result(name), {**told, **figures})
        count += 1
        left = (time.monotonic() - begun) / count * (len(todo) - place - 1)
        psnr = " ".join(f"{value:.2f}" for value in figures["psnr"].values())
        print(f"{name}: PSNR {psnr}; {(time.monotonic() - since) / 60:.1f} min, about {left / 60:.0f} min left for the others", flush=True)
        write_table(bench)


def write_table(bench: Bench) -> None:
    """Write figures and table of all variants that are done."""
    done = {name: json.loads(bench.result(name).read_text()) for name in VARIANTS if bench.result(name).exists()}
    fixed = {"segments": len(bench.referee.segments), "horizon": len(bench.referee.segments[0].actions), "probe": bench.referee.train}
    baselines = bench.work / "baselines.json"
    if not baselines.exists():
        write_json(baselines, bench.referee.baselines())
    figures = {"made": machine_facts(), **fixed, "base": list(BASE), "baselines": json.loads(baselines.read_text()), "variants": done}
    write_json(bench.args.out / "table.json", figures)
    (bench.args.out / "table.md").write_text(text_of(figures), encoding="utf-8")


def text_of(figures: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    done, baselines = figures["variants"], figures["baselines"]
    steps = list(baselines["copy_last"]["psnr"])
    main = "16" if "16" in steps else steps[-1]
    heads = ["", "steps", "TFLOP", "GFLOP a frame", *(f"PSNR {step}" for step in steps), "to the base", "right actions"]
    heads += [f"probe {step}" for step in baselines["real"].get("probe", {})]

    def row(name: str, one: dict[str, Any]) -> list[str]:
        versus = "–"
        if "base" in done and name != "base":
            mean, error = apart(one["segments"], done["base"]["segments"])
            versus = f"{mean:+.2f} ± {error:.2f}"
        trained = [f"{one['steps']}", f"{one['tflop']:.1f}"] if one.get("steps") else ["", ""]
        cost = f"{one['gflop_a_frame']:.3f}" if "gflop_a_frame" in one else ""
        right = f"{one['other_actions']:+.2f}" if "other_actions" in one else ""
        said = f"`{name}`: {one['says']}" if "says" in one else name
        cells = [said, *trained, cost, *(f"{one['psnr'][step]:.2f}" for step in steps), versus, right]
        return [*cells, *(f"{value:.2f}" for value in one.get("probe", {}).values())]

    rows = [row(name, one) for name, one in done.items()]
    rows.append(row("copy of the last frame", baselines["copy_last"]))
    noise = ""
    if {"base", "base-seed1"} <= set(done):
        between = done["base-seed1"]["psnr"][main] - done["base"]["psnr"][main]
        noise = f"- Two seeds of the base are {abs(between):.2f} dB apart at step {main}: what is closer than that is not told apart.\n"
    half = [f"`{name}`" for name, one in done.items() if one.get("precision") == "bf16"]
    mixed = f"- Trained in bf16, the others in fp32: {', '.join(half)}.\n" if 0 < len(half) < len(done) else ""
    real = ", ".join(f"{value:.2f} at step {step}" for step, value in baselines["real"].get("probe", {}).items())
    return "\n".join(
        [
            "# Ablation of the training recipe\n",
            f"{describe(figures['made'])} {figures['segments']} held-out segments of {figures['horizon']} steps.\n",
            table(heads, rows),
            f"- To the base: difference of PSNR at step {main} to `base` on the same segments, mean and standard error over segments.",
            f"- Right actions: what the recorded actions gain over those of another episode, PSNR at step {main}.",
            "- Probe: error of the state that a probe reads from imagined frames, over that of always guessing the median, mean over the "
            f"labels; lower is better, 1 is no better than a guess. On the real frames it is {real}.",
            "- TFLOP: forward and backward, without the optimizer's own. Every variant is far from converged at this budget: the table "
            "ranks how fast they learn, not where they end.",
            noise + mixed,
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset in worldsim's layout")
    parser.add_argument("--tokenizer", action="append", required=True, help="folder of the tokenizer; NAME=FOLDER for a further one")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="latents, states and weights")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablation")
    parser.add_argument("--equal", choices=("flop", "steps"), default="flop", help="what all variants get alike")
    parser.add_argument("--tflop", type=float, default=30.0, help="training of a variant, with --equal flop")
    parser.add_argument("--steps", type=int, default=420, help="training of a variant, with --equal steps")
    parser.add_argument("--segments", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "no"), help="of training; no, which is fp32, on a CPU without AMX")
    parser.add_argument("--batch", type=int, default=32, help="rollouts that run together")
    parser.add_argument("--pairs", type=int, default=8000, help="frames that the probe learns from")
    parser.add_argument("--probe-steps", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    args = parser.parse_args()
    named = [("", one) if "=" not in one else tuple(one.split("=", 1)) for one in args.tokenizer]
    args.tokenizers = {name: Path(folder) for name, folder in named}
    return args


def main() -> None:
    args = parse()
    check_settings(args)
    torch.set_num_threads(1)
    store = open_data(compose("train_dynamics", [f"data.path={args.data}"]))
    print(f"training the probe on {args.pairs} pairs of real frames", flush=True)
    referee = open_referee(
        store, work=args.work, segments=args.segments, horizon=args.horizon, context=CONTEXT, pairs=args.pairs, probe_steps=args.probe_steps
    )
    bench = Bench(args, store, referee)
    run(bench, [name for name in VARIANTS if not args.only or name in args.only])
    write_table(bench)
    print((args.out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
