"""Train, measure and pack worlds on a machine with one GPU, in stages that each end by the clock.

    python benchmarks/gpu_stages.py record --world carracing-small --minutes 2
    python benchmarks/gpu_stages.py train --world carracing-small --tokenizer benchmarks/results/tokenizer-small/tokenizer --minutes 8
    python benchmarks/gpu_stages.py measure --world carracing-small --minutes 3
    python benchmarks/gpu_stages.py pack --out packed runs/gpu/carracing-small/world runs/gpu/carracing-small/evaluation

A stage that is run again goes on where it was. `all` runs record, train and measure in turn; `--tiny` makes everything small enough for a
minute on a CPU. See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_measure import summary
from gpu_pack import pack, unpack

from worldsim.training.state import META, find_state

HERE = Path(__file__).parent


@dataclass(frozen=True)
class World:
    """How one world comes about.

    Attributes:
        preset: Of its dynamics.
        collect: Settings of its recording.
        frames: Frames to record.
        tokenizer: Settings of its tokenizer's training.
        dynamics: Settings on top of the preset, for a GPU.
    """

    preset: str
    collect: tuple[str, ...]
    frames: int
    tokenizer: tuple[str, ...]
    dynamics: tuple[str, ...] = ()


_GPU_TOKENIZER = ("batch_size=128", "loop.steps=12000", "loop.decay=6000", "loop.lr=2e-3")
WORLDS = {
    "carracing-nano": World(
        "carracing_nano",
        ("source=carracing_grip",),
        200_000,
        ("tokenizer=nano", *_GPU_TOKENIZER),
        ("batch_size=128", "loop.lr=1.2e-3", "loop.steps=20000", "loop.decay=8000", "loop.warmup=400", "objective.self_from=2500"),
    ),
    "carracing-small": World(
        "carracing_small", ("source=carracing_grip", "source.size=128", "horizon=150"), 60_000, ("tokenizer=small", *_GPU_TOKENIZER)
    ),
    "metaworld-nano": World("metaworld_nano", ("source=metaworld", "policy=manipulation"), 60_000, ("tokenizer=nano", *_GPU_TOKENIZER)),
    "vizdoom-nano": World("vizdoom_nano", ("source=vizdoom", "policy=explorer"), 60_000, ("tokenizer=nano", *_GPU_TOKENIZER)),
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TINY = {
    "collect": _words("horizon=9 writer.preview=false"),
    "tokenizer": _words(
        "tokenizer.widths=[8,16] tokenizer.encoder_blocks=[1,1] tokenizer.decoder_blocks=[1,1] tokenizer.latent_channels=4 batch_size=4 "
        "loop.steps=12 loop.decay=4 loop.warmup=2"
    ),
    "dynamics": _words(
        "model.width=32 model.depth=2 model.heads=2 model.temporal_every=2 batch_size=2 contexts=2 clip=6 context_frames=4 loop.steps=12 "
        "loop.decay=4 loop.warmup=2 objective.self_from=4 objective.self_rounds=2"
    ),
    "evaluate": _words(
        "protocol.context=4 protocol.horizon=4 protocol.segments=2 protocol.pairs=0 long=null distance=null fidelity=null drift=null "
        "endings=null memory=null"
    ),
}


@dataclass(frozen=True)
class Place:
    """Where a world's data, runs and reports are, and until when a stage may run.

    Attributes:
        name: One of ``WORLDS``.
        world: What it is.
        folder: Of its runs.
        data: Its dataset.
        device: ``cuda`` or ``cpu``.
        end: When to be done, by ``time.monotonic``.
        tiny: Whether all is small.
        extra: Settings of whoever runs the stage.
    """

    name: str
    world: World
    folder: Path
    data: Path
    device: str
    end: float
    tiny: bool
    extra: tuple[str, ...] = ()

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()

    @property
    def finished(self) -> Path:
        """The finished world: a link-free copy of what training saved."""
        return self.folder / "world"


def run(place: Place, command: Sequence[str], *, log: str, needed: bool = True, **variables: str) -> bool:
    """Run a command until it ends or time is over, its output beside the runs too; return whether it ended well.

    Args:
        place: Where.
        command: What.
        log: Name of its log.
        needed: Whether all ends when it fails.
        variables: Of its environment.

    Raises:
        SystemExit: It failed, and is needed.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    print("$", " ".join(command), flush=True)
    with (place.folder / f"{log}.log").open("a") as file:
        started = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment(place) | variables
        )
        over = signal.signal(signal.SIGALRM, lambda *_: started.send_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, max(0.1, place.left))
        try:
            assert started.stdout is not None
            for line in started.stdout:
                print(line, end="", flush=True)
                file.write(line)
            code = started.wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, over)
    if code and needed and place.left > 0:
        raise SystemExit(f"{log} failed with code {code}; its output is above and in {place.folder / log}.log")
    return code == 0


def _environment(place: Place) -> dict[str, str]:
    own = {"PYTHONUNBUFFERED": "1", "SDL_VIDEODRIVER": "dummy"} | ({"CUDA_VISIBLE_DEVICES": ""} if place.device == "cpu" else {})
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **own, "PYTHONPATH": path}


def worldsim(*words: str) -> list[str]:
    """Return the command line of a ``worldsim`` command."""
    return [sys.executable, "-m", "worldsim.cli", *words]


def record(place: Place, *, workers: int, pieces: int = 2) -> None:
    """Record in pieces, each of which leaves a whole dataset, as long as the next one fits."""
    frames = 200 if place.tiny else place.world.frames
    for piece in range(1, pieces + 1):
        begun, target = time.monotonic(), frames * piece // pieces
        settings = [f"out={place.data}", f"workers={workers}", *place.world.collect, *(TINY["collect"] if place.tiny else ())]
        run(place, worldsim("collect", *settings, f"frames={target}", *place.extra), log="record")
        if time.monotonic() - begun > place.left:
            print(f"{target:,} of {frames:,} frames recorded: time is over", flush=True)
            return


def train(place: Place, *, tokenizer: Path | None, init: Path | None, share: float, reserve: float, minutes: float | None) -> None:
    """Train the tokenizer, unless one is given, then the dynamics with the time that is left.

    Args:
        place: What and where.
        tokenizer: Folder of a trained one.
        init: World to go on from.
        share: Of the time, for the tokenizer.
        reserve: Seconds for what is not training: imports, encoding frames, saving.
        minutes: Of training the dynamics in all, if this call is one of several; None for what is left now.
    """
    where = f"data.path={place.data}"
    if tokenizer is None:
        folder = place.folder / "tokenizer"
        if not (folder / "tokenizer" / "config.json").exists():
            limit = _minutes(folder, share * (place.left - reserve))
            tiny = TINY["tokenizer"] if place.tiny else ()
            settings = [where, f"out={folder}", *place.world.tokenizer, "loop.sample_every=0", *tiny, f"loop.minutes={limit}"]
            run(place, worldsim("train", "tokenizer", *settings), log="tokenizer")
        tokenizer = folder / "tokenizer"
    folder = place.folder / "dynamics"
    limit = minutes or _minutes(folder, place.left - reserve)
    blocks = () if place.device == "cpu" else ("loop.compile_blocks=true", "loop.save_every=500", "loop.log_every=100")
    settings = [f"preset={place.world.preset}", where, f"tokenizer_dir={tokenizer}", f"out={folder}", *place.world.dynamics, *blocks]
    settings += ["loop.sample_every=0", *([f"init={init}"] if init else []), *(TINY["dynamics"] if place.tiny else ())]
    done = run(place, worldsim("train", "dynamics", *settings, *place.extra, f"loop.minutes={limit}"), log="dynamics")
    if done:
        shutil.rmtree(place.finished, ignore_errors=True)
        shutil.copytree(folder / "world", place.finished)
    print(f"{place.name}: {'finished, in ' + str(place.finished) if done else 'stopped by the clock, run again to go on'}", flush=True)


def _minutes(folder: Path, seconds: float) -> float:
    """Minutes of a training in all, when it may go on for so many seconds from its last state."""
    state = find_state(folder / "state")
    earlier = 0.0 if state is None else float(json.loads((state / META).read_text(encoding="utf-8")).get("seconds", 0.0))
    return round((earlier + max(seconds, 1.0)) / 60, 3)


def measure(place: Place, *, batches: Sequence[int], given: str | None, quality: bool) -> None:
    """Measure a world's speed, on a GPU with CUDA graphs too, then its quality as far as time goes."""
    world, out = given or str(place.finished), place.folder / "speed"
    slow = place.device == "cpu"
    ways = ["fp32", "bf16"] if slow else ["fp32", "bf16", "bf16+compile"]
    few = ("--rounds", "1", "--steps", "2") if place.tiny else ("--rounds", "5")

    def speed(out: Path, batches: Sequence[int], ways: Sequence[str]) -> list[str]:
        where = ("--world", world, "--device", place.device, "--out", str(out), "--threads", "1")
        return [sys.executable, str(HERE / "engine_speed.py"), *where, "--batches", *map(str, batches), "--ways", *ways, *few]

    if run(place, speed(out, batches, ways), log="speed"):
        print(summary(out, place.device, world), flush=True)
    graphs = place.folder / "speed-graphs"
    if not slow and run(
        place, speed(graphs, batches[:2], ["fp32+compile", "bf16+compile"]), log="graphs", needed=False, TORCHINDUCTOR_CUDAGRAPHS="1"
    ):
        print(summary(graphs, place.device, world), flush=True)
    if not quality:
        return
    settings = [f"world={world}", f"data.path={place.data}", f"device={place.device}", f"out={place.folder / 'evaluation'}"]
    run(place, worldsim("evaluate", *settings, *(TINY["evaluate"] if place.tiny else ()), *place.extra), log="evaluation")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name in ("record", "train", "measure", "all"):
        stage = stages.add_parser(name)
        stage.add_argument("--world", choices=WORLDS, default="carracing-nano")
        stage.add_argument("--minutes", type=float, default=9.0, help="wall-clock minutes of this call")
        stage.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
        stage.add_argument("--tiny", action="store_true", help="small enough for a minute on a CPU")
        stage.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="folder of all that is made")
        stage.add_argument("--data", type=Path, help="dataset; default: NAME.worldsim in --runs")
        stage.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that record")
        stage.add_argument("--tokenizer", type=Path, help="trained tokenizer; without it one is trained")
        stage.add_argument("--init", type=Path, help="world to go on from")
        stage.add_argument("--share", type=float, default=0.25, help="of a call's time, for the tokenizer")
        stage.add_argument("--reserve", type=float, default=75.0, help="seconds of a call that are not training: imports, encoding, saving")
        stage.add_argument("--of", type=float, help="minutes of training the dynamics in all, over several calls")
        stage.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256, 2048], help="rows to time")
        stage.add_argument("--measured", help="shipped name or folder to measure, rather than what was trained")
        stage.add_argument("--speed-only", action="store_true", help="leave the world's quality for elsewhere")
        stage.add_argument("--set", nargs="*", default=[], help="further settings of the stage's worldsim command")
    packing = stages.add_parser("pack", help="folders -> files of limited size")
    packing.add_argument("folders", type=Path, nargs="+")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--limit-mib", type=float, default=15.0)
    packing.add_argument("--preset", type=int, default=4, help="of LZMA: 0 is fast, 9 small")
    packing.add_argument("--most", type=int, help="parts at most")
    unpacking = stages.add_parser("unpack", help="and back")
    unpacking.add_argument("places", type=Path, nargs="+")
    unpacking.add_argument("--out", type=Path, required=True)
    return parser


def main() -> None:
    options = arguments().parse_args()
    if options.stage == "pack":
        made = pack(options.folders, options.out, limit_mib=options.limit_mib, preset=options.preset, most=options.most)
        print(f"{', '.join(made['folders'])} in {len(made['parts'])} parts in {options.out}")
        return
    if options.stage == "unpack":
        print("\n".join(map(str, unpack(options.places, options.out))))
        return
    data = options.data or options.runs / f"{options.world}.worldsim"
    end = time.monotonic() + 60 * options.minutes
    place = Place(
        options.world, WORLDS[options.world], options.runs / options.world, data, options.device, end, options.tiny, tuple(options.set)
    )
    if options.stage in ("record", "all"):
        record(place, workers=options.workers)
    if options.stage in ("train", "all"):
        train(place, tokenizer=options.tokenizer, init=options.init, share=options.share, reserve=options.reserve, minutes=options.of)
    if options.stage in ("measure", "all"):
        measure(place, batches=options.batches, given=options.measured, quality=not options.speed_only)


if __name__ == "__main__":
    main()
