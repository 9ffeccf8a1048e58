"""What a frame costs, and what the machine could do: the figures that speeds are set against."""

from __future__ import annotations

import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldsim import __version__
from worldsim.contexts import Context
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spaces import is_integer, row_size
from worldsim.spec import Sampling

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def machine_facts() -> dict[str, Any]:
    """Return date, processor, cores, load and versions: what has to stand beside a measured figure."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "versions": {
            "worldsim": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__.partition("+")[0],
            "gymnasium": gymnasium.__version__,
            "numpy": np.__version__,
        },
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine()
    )


def count_flops(call: Callable[[], object]) -> int:
    """Return the floating-point operations of matrix products, convolutions and attention in ``call``; a multiply-add is two."""
    with FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}) as counter:
        call()
    return int(counter.get_total_flops())


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count attention on CPUs, which torch's counter leaves out, from the shapes of its inputs."""
    return int(2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def example_context(world: WorldModel) -> Context:
    """Return a shipped start context, or a grey one where there is none."""
    if len(world.contexts):
        return world.contexts[0]
    frames, space = np.full((world.spec.context_frames, *world.spec.frame_size, 3), 128, np.uint8), world.spec.action_space
    rest = np.zeros(row_size(space), np.int64 if is_integer(space) else np.float32)
    return Context(frames, np.repeat(rest[None], len(frames) - 1, axis=0))


def frame_flops(world: WorldModel, sampling: Sampling | None = None) -> dict[str, float]:
    """Count one step of one row in GFLOP: ``dynamics`` (all passes), ``heads``, ``decode`` and ``total``."""
    simulator = Simulator(world, sampling=sampling)
    context = example_context(world)
    state = simulator.start([context], [0])
    action = context.actions[-1:] if len(context.actions) else np.zeros((1, row_size(world.spec.action_space)), np.float32)
    _, step = simulator.step(state, action)
    with torch.inference_mode():
        decode = count_flops(lambda: world.tokenizer.decode(step.latents))
        heads = count_flops(lambda: simulator.networks.heads(step.hidden, state.told))
    total = count_flops(lambda: simulator.step(state, action))
    parts = {"dynamics": total - decode - heads, "heads": heads, "decode": decode, "total": total}
    return {name: round(value / 1e9, 6) for name, value in parts.items()}


def matmul_gflops(*, size: int = 1024, repeats: int = 5) -> float:
    """Measure fp32 matrix multiplication with torch's threads: GFLOP/s, median of ``repeats``."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    torch.mm(a, b)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds) / 1e9


def peak_memory_mb() -> float:
    """Return the most memory that this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
