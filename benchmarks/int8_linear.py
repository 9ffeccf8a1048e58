"""Whether int8 would pay on a CPU: the linear layers of a nano world's blocks in fp32, bf16, and int8 with weights and inputs quantised.

python benchmarks/int8_linear.py

Inputs are quantised as they come (``torch.ao.quantization.quantize_dynamic``), by whatever kernels this build of torch has. Processor time
of one call, random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from common import RESULTS, describe, interleave, save, spread
from torch import nn

from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts

WIDTH, TOKENS = 224, 16  # of a nano world
SHAPES = {"attention in": (WIDTH, 3 * WIDTH), "attention out": (WIDTH, WIDTH), "MLP in": (WIDTH, 4 * WIDTH), "MLP out": (4 * WIDTH, WIDTH)}


def quantised(layer: nn.Linear, engine: str) -> nn.Module:
    """Return a layer whose weights are int8, and whose inputs become so at every call."""
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it moves to another package
        quantise: Any = torch.ao.quantization.quantize_dynamic
        made: nn.Module = quantise(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
    return made


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Return microseconds of processor time a call."""
    call()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats * 1e6


def ways(rows: int, sizes: tuple[int, int], repeats: int) -> dict[str, Callable[[], float]]:
    """Return what measures a layer of ``sizes`` on a batch of ``rows`` frames, by way."""
    layer, x = nn.Linear(*sizes).eval(), torch.randn(rows * TOKENS, sizes[0])
    half, y = nn.Linear(*sizes).bfloat16(), x.bfloat16()
    made: dict[str, Callable[[], float]] = {
        "fp32": lambda: timed(lambda: layer(x), repeats),
        "bf16": lambda: timed(lambda: half(y), repeats),
    }
    for engine in ("onednn", "fbgemm"):
        if engine in torch.backends.quantized.supported_engines:
            small = quantised(layer, engine)
            made[f"int8 {engine}"] = lambda small=small: timed(lambda: small(x), repeats)  # type: ignore[misc]
    return made


def main() -> None:
    """Measure all shapes at all batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="rows of frames, 16 tokens each")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds, of which medians are taken")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for batch in args.batches:
            for name, sizes in SHAPES.items():
                taken = interleave(args.rounds, ways(batch, sizes, 400 // batch + 10))
                rows.append(
                    {"batch": batch, "layer": name, "sizes": sizes, "microseconds": {way: spread(t, 1) for way, t in taken.items()}}
                )
    figures: dict[str, Any] = {"made": machine_facts(), "rows": rows}
    names = list(rows[0]["microseconds"])
    body = [[r["layer"], str(r["batch"]), *(f"{r['microseconds'][n]['median']:.0f}" for n in names)] for r in rows]
    for batch in args.batches:
        sums = [sum(r["microseconds"][n]["median"] for r in rows if r["batch"] == batch) for n in names]
        body.append(["**all four**", str(batch), *(f"**{total:.0f}**" for total in sums)])
    text = f"# int8 in a nano world's layers\n\n{describe(figures['made'])} Microseconds of processor time a call, medians.\n\n"
    save("int8_linear", figures, text + table(["layer", "rows", *names], body), RESULTS)


if __name__ == "__main__":
    main()
