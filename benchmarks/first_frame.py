"""How long a fresh process takes to its first frame, and ``worldsim --help`` to its answer.

python benchmarks/first_frame.py --world carracing-nano --cold
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import RESULTS, describe, interleave, save, spread

from worldsim.checkpoint import resolve
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts

CHILD = """
import json, sys, time
start = time.perf_counter()
import worldsim
import gymnasium as gym
imported, light = time.perf_counter(), "torch" not in sys.modules
env = gym.make("WorldSim-v0", world=sys.argv[1])
made = time.perf_counter()
frame, info = env.reset(seed=0)
first = time.perf_counter()
env.step(env.action_space.sample())
print(json.dumps({"import": imported - start, "make": made - imported, "reset": first - made, "step": time.perf_counter() - first,
                  "first_frame": first - start, "import_without_torch": light}))
"""
SAID = {
    "python": "`python -c pass` (the floor)",
    "torch": "`python -c 'import torch'` (the floor of anything with torch)",
    "help": "`worldsim --help`",
    "process": "whole process: start to first step and exit",
    "first_frame": "**`import worldsim` to the first frame**",
    "import": "of it: `import worldsim`",
    "make": "of it: `gym.make` (imports torch, loads weights)",
    "reset": "of it: `env.reset`",
    "step": "the first `env.step` after it",
}


def wall(*arguments: str) -> tuple[float, str]:
    """Run Python with arguments; return seconds and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def child(world: str) -> dict[str, float]:
    """Time one fresh process."""
    seconds, out = wall("-c", CHILD, world)
    return {"process": seconds, **json.loads(out.splitlines()[-1])}


def evict(folders: list[Path]) -> None:
    """Ask the system to drop cached pages of all files, as after a restart; pages that other processes use stay."""
    for path in _files(folders):
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano", help="shipped name or folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="also once with libraries and weights dropped from the page cache (Linux)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    libraries = [Path(sysconfig.get_paths()["purelib"]), resolve(options.world).resolve()]
    cold = None
    if options.cold:
        evict(libraries)
        cold = child(options.world)
    child(options.world)  # warms the page cache up
    runs: list[dict[str, float]] = []
    taken = interleave(
        options.rounds,
        {
            "python": lambda: wall("-c", "pass")[0],
            "torch": lambda: wall("-c", "import torch")[0],
            "help": lambda: wall("-m", "worldsim.cli", "--help")[0],
            "process": lambda: runs.append(child(options.world)) or runs[-1]["process"],  # type: ignore[func-returns-value]
        },
    )
    taken |= {name: [run[name] for run in runs] for name in ("first_frame", "import", "make", "reset", "step")}
    figures: dict[str, Any] = {
        "world": options.world if resolve(options.world).parent.name == "worlds" else Path(options.world).name,
        "made": machine_facts(),
        "rounds": options.rounds,
        "seconds": {name: spread(taken[name], 3) for name in SAID},
        "cold_seconds": None if cold is None else {name: round(cold[name], 3) for name in SAID if name in cold},
        "import_without_torch": bool(runs[0]["import_without_torch"]),
    }
    save("first_frame", figures, _text(figures), options.out)


def _text(figures: dict[str, Any]) -> str:
    cold = figures["cold_seconds"] or {}
    rows = [
        [SAID[name], f"{value['median']:.2f}", f"{value['low']:.2f} to {value['high']:.2f}", f"{cold[name]:.2f}" if name in cold else "–"]
        for name, value in figures["seconds"].items()
    ]
    return "\n".join(
        [
            f"# Time to the first frame of `{figures['world']}`\n",
            f"{describe(figures['made'])} Medians of {figures['rounds']} interleaved rounds of fresh processes, in seconds.\n",
            table(["", "median", "range", "cold"], rows),
            "Cold: one run after libraries and weights were dropped from the page cache; what other processes use stays cached.",
            f"`import worldsim` imports {'no' if figures['import_without_torch'] else 'also'} torch.\n",
        ]
    )


if __name__ == "__main__":
    main()
