"""What a GPU reaches beside what it could: a world's speed as shares of measured matrix multiplication and memory traffic."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from engine_speed import waiter

from worldsim.evaluation.report import table
from worldsim.model import WorldModel


def bandwidth(device: str, *, repeats: int = 20) -> float:
    """Measure a copy within a device's memory in GB/s, bytes read and written together; the median of repeats."""
    size = (1 << 30) if torch.device(device).type == "cuda" else (1 << 26)
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target, wait, taken = torch.empty_like(source), waiter(device), list[float]()
    for _ in range(repeats + 2):
        wait()
        start = time.perf_counter()
        target.copy_(source)
        wait()
        taken.append(time.perf_counter() - start)
    return 2 * size / statistics.median(taken[2:]) / 1e9


def weight_bytes(world: WorldModel, width: int) -> int:
    """Bytes of the weights that a step reads at least once: dynamics in every pass, heads and decoder once."""
    passes = world.spec.sampling.steps + 1
    count = sum(p.numel() for p in world.dynamics.parameters()) * passes
    count += sum(p.numel() for part in (world.heads, world.tokenizer.decoder) for p in part.parameters())
    return count * width


def summary(folder: Path, device: str, name: str) -> str:
    """Write ``gpu.md`` beside the figures of ``engine_speed.py``: rates, and shares of what the device was measured to do."""
    file = sorted(folder.glob(f"engine_speed_{device}_*.json"))[-1]
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    world, copied = WorldModel.from_pretrained(name), bandwidth(device)
    limits = {"fp32": figures["gemm_gflops"]["median"], "bf16": figures["gemm_bf16_gflops"]["median"]}
    rows = []
    for key, run in figures["runs"].items():
        way = key.split("_")[-1]
        precision, rate = way.partition("+")[0], run["frames_per_second"]["median"]
        steps = rate / run["batch"]
        traffic = steps * weight_bytes(world, 4 if precision == "fp32" else 2) / 1e9
        shares = run["gflops"]["median"] / limits[precision], traffic / copied
        rows.append([str(run["batch"]), way, f"{rate:,.0f}", f"{1e3 / steps:.2f}", *(f"{share:.1%}" for share in shares)])
    head = ["rows", "way", "frames/s", "ms a step", "of matrix multiplication", "of memory traffic, weights alone"]
    made = figures["made"]
    text = "\n".join(
        [
            f"# {figures['world']} on {made.get('gpu', made['cpu'])}\n",
            f"{made['date']}; torch {made['versions']['torch']}; medians of {figures['rounds']} rounds.\n",
            table(head, rows),
            f"- Limits measured in the same run: {limits['fp32'] / 1e3:,.2f} TFLOP/s in fp32, {limits['bf16'] / 1e3:,.2f} in bf16, "
            f"{copied:,.0f} GB/s copied (read and written).",
            f"- A frame costs {figures['gflop_a_frame']['total']:.3f} GFLOP.\n",
        ]
    )
    (folder / "gpu.md").write_text(text, encoding="utf-8")
    return text
