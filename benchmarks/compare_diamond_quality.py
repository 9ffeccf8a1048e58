"""Quality at equal training time: this package beside DIAMOND's own code and beside plain diffusion forcing, on the same recorded data.

git clone https://github.com/eloialonso/diamond
python benchmarks/compare_diamond_quality.py --diamond diamond --data data/carracing.worldsim --minutes 60

All are trained from nothing for the same time on the same device, in turns of ``--slice`` seconds, so that a busy machine slows all of
them alike. The time of ours includes its tokenizer. On a CPU with one thread, time is processor time of that thread: what the clock on
the wall would show on a quiet machine. Each is trained in that of ``--ways`` in which a step is fastest, as measured before. Then all roll
out the same held-out segments with the recorded actions, and the same referee judges the frames. DIAMOND (Alonso et al. 2024) is as its
repository sets its denoiser up for Atari, but for actions, which are numbers here: they are embedded by a matrix product, as in its csgo
branch.
What is killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from ablation_referee import Referee, open_referee
from ablation_variants import PLAIN
from common import RESULTS, describe, save
from compare_diamond_footage import WAYS, Clock, Footage, Settings
from compare_diamond_ours import Ours, Recipe
from compare_diamond_peer import Diamond
from engine_speed import commit_of

from worldsim.config import compose
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.spec import Sampling
from worldsim.training.run import open_data
from worldsim.training.tokenizer_task import load_frames

NANO = ("preset=carracing_nano", "objective.self_context=0")
RECIPES = {
    "ours": Recipe(
        "ours",
        "ours",
        tokenizer=(),
        dynamics=NANO,
        late={"self_context": 0.5, "self_rounds": 8},
        sampling={"": Sampling(steps=1, context_level=1.0, shortcut=False)},
    ),
    "plain": Recipe(
        "plain",
        "plain diffusion forcing on our network",
        tokenizer=("equivariance=0",),
        dynamics=(*NANO, *PLAIN),
        late={},
        sampling={
            "1": Sampling(steps=1, context_level=1.0, shortcut=False),
            "10": Sampling(steps=10, context_level=0.9, shortcut=False),
        },
    ),
}


class Contestant(Protocol):
    """Something that is trained against a clock and then judged."""

    name: str
    clock: Clock

    def seconds_a_step(self, count: int) -> float:
        """Measure the costly part of a training step."""
        ...

    def train(self, seconds: float) -> None:
        """Train some more and keep the state."""
        ...

    def told(self) -> dict[str, Any]:
        """Return what was trained."""
        ...

    def ways(self) -> dict[str, Any]:
        """Return what is judged."""
        ...


def make(name: str, settings: Settings, args: argparse.Namespace, way: str) -> Contestant:
    """Return a contestant that trains in one of ``WAYS``."""
    if name == "diamond":
        return Diamond(settings, args.diamond, way)
    return Ours(settings, RECIPES[name], way, tokenizer_share=args.tokenizer_share)


def try_way(name: str, settings: Settings, args: argparse.Namespace, way: str) -> float | None:
    """Measure seconds a step in one way; None where it does not run, as code that does not compile."""
    try:
        seconds = round(make(name, settings, args, way).seconds_a_step(args.trial), 4)
    except (RuntimeError, TypeError, AttributeError) as error:
        print(f"{name}: {way} does not run: {error}", flush=True)
        return None
    print(f"{name}: {way} {seconds:.2f} s a step", flush=True)
    return seconds


def choose_way(name: str, settings: Settings, args: argparse.Namespace) -> dict[str, float]:
    """Measure seconds a step in each way, or read them where they were measured."""
    file = settings.work / f"ways-{name}.json"
    if not file.exists():
        taken = {way: seconds for way in args.ways if (seconds := try_way(name, settings, args, way)) is not None}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(taken) + "\n", encoding="utf-8")
    measured: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return measured


def train_all(contestants: list[Contestant], settings: Settings, slice_seconds: float) -> None:
    """Train all to the end of the budget, the one that is behind first."""
    begun, start = time.monotonic(), sum(one.clock.used for one in contestants)
    while (one := min(contestants, key=lambda c: c.clock.used)).clock.used < settings.budget - 1:
        one.train(slice_seconds)
        used, whole = sum(c.clock.used for c in contestants), settings.budget * len(contestants)
        left = (time.monotonic() - begun) / max(used - start, 1e-6) * max(0.0, whole - used) / 60
        print(
            f"{one.name}: {one.clock.used / 60:.1f} of {settings.budget / 60:.1f} min, {used / whole:.0%} of all, {left:.0f} min left",
            flush=True,
        )


def judge(one: Contestant, referee: Referee, folder: Path) -> dict[str, Any]:
    """Return the figures of all ways that a contestant makes frames, or read them where they were made."""
    found: dict[str, Any] = {}
    told = one.told()
    for name, (said, imagine, gflop) in one.ways().items():
        file = folder / f"judged-{name.replace(' ', '-')}.json"
        if not file.exists():
            print(f"{name}: rolling out {len(referee.segments)} segments", flush=True)
            figures = {"said": said, "gflop_a_frame": round(gflop, 3), "minutes": round(one.clock.used / 60, 2), **told}
            file.write_text(json.dumps({**figures, **referee.judge(imagine(referee.segments))}) + "\n", encoding="utf-8")
        found[name] = json.loads(file.read_text(encoding="utf-8"))
    return found


def text_of(figures: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    baselines, judged = figures["baselines"], figures["judged"]
    steps = list(baselines["copy_last"]["psnr"])
    heads = ["", "steps × batch", "M weights", "GFLOP a frame", *(f"PSNR {step}" for step in steps)]
    heads += [f"probe {step}" for step in baselines["real"].get("probe", {})]

    def row(said: str, one: dict[str, Any]) -> list[str]:
        trained = (
            [f"{one['steps']} × {one['batch']}", f"{one['parameters'] / 1e6:.2f}", f"{one['gflop_a_frame']:.2f}"]
            if "steps" in one
            else [""] * 3
        )
        return [
            said,
            *trained,
            *(f"{one['psnr'][step]:.2f}" for step in steps),
            *(f"{value:.2f}" for value in one.get("probe", {}).values()),
        ]

    rows = [row(one["said"], one) for one in judged.values()] + [row("copy of the last frame", baselines["copy_last"])]
    ways = "; ".join(f"{name} " + ", ".join(f"{way} {taken:.2f}" for way, taken in one.items()) for name, one in figures["ways"].items())
    probe = ", ".join(f"{value:.2f} at step {step}" for step, value in baselines["real"].get("probe", {}).items())
    return "\n".join(
        [
            f"# Quality after {figures['minutes']:g} minutes of training each\n",
            f"{describe(figures['made'])} {figures['segments']} held-out segments of {figures['horizon']} steps, seed {figures['seed']}.\n",
            table(heads, rows),
            f"- Time: {figures['clock']}. That of ours and of plain diffusion forcing includes training the tokenizer, a share of "
            f"{figures['tokenizer_share']:g}, and encoding all frames.",
            f"- Each was trained in its fastest way; seconds a step, forward and backward: {ways}. Compiling is left out of these.",
            f"- DIAMOND: commit {figures['peer']}, its denoiser with its own loss, batch, optimizer and schedule; no reward and end model, "
            "while ours learns reward, end and state in its time. Its rollouts are in fp32, as ours are.",
            "- Probe: error of the state that a probe reads from imagined frames, over that of always guessing the median, mean over the "
            f"labels; lower is better. On the real frames it is {probe}.\n",
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diamond", type=Path, required=True, help="checkout of github.com/eloialonso/diamond")
    parser.add_argument("--data", type=Path, required=True, help="dataset in worldsim's layout")
    parser.add_argument("--minutes", type=float, default=60.0, help="training of each")
    parser.add_argument("--who", nargs="+", choices=("diamond", *RECIPES), default=["diamond", *RECIPES])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways of training that are tried")
    parser.add_argument("--trial", type=int, default=20, help="steps that each way is measured on")
    parser.add_argument("--tokenizer-share", type=float, default=0.25, help="of the time of ours")
    parser.add_argument("--slice", type=float, default=300.0, help="seconds of a turn; a kill loses at most this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--segments", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=8000, help="frames that the probe learns from")
    parser.add_argument("--probe-steps", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("runs/compare_diamond"), help="states and weights")
    parser.add_argument("--out", type=Path, default=RESULTS / "diamond")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = device.type == "cpu" and args.threads == 1
    store = open_data(compose("train_dynamics", [f"data.path={args.data}"]))
    footage, heldout = Footage.load(store, "train"), load_frames(store, store.split("heldout"))
    now = time.process_time if processor else time.perf_counter
    settings = Settings(store, footage, heldout, args.data, device, now, args.minutes * 60, args.seed, args.work)
    ways = {name: choose_way(name, settings, args) for name in args.who}
    contestants = [make(name, settings, args, min(taken, key=lambda way: taken[way])) for name, taken in ways.items()]
    train_all(contestants, settings, args.slice)
    print("training the probe", flush=True)
    referee = open_referee(
        store, work=args.work, segments=args.segments, horizon=args.horizon, pairs=args.pairs, probe_steps=args.probe_steps
    )
    judged = {name: figures for one in contestants for name, figures in judge(one, referee, args.work).items()}
    figures = {
        "made": machine_facts(),
        "clock": "processor time of one thread" if processor else "on the wall",
        "peer": commit_of(args.diamond),
        **{name: getattr(args, name) for name in ("minutes", "seed", "tokenizer_share", "horizon")},
        "segments": len(referee.segments),
        "ways": ways,
        "baselines": referee.baselines(),
        "judged": judged,
    }
    save(f"compare_diamond_seed{args.seed}", figures, text_of(figures), args.out)


if __name__ == "__main__":
    main()
