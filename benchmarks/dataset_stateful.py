"""Random sequences of adding, crashing, resuming, appending, finalizing and reopening, beside a model of the dataset in memory.

python benchmarks/dataset_stateful.py --examples 500 --steps 30
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from common import RESULTS, describe, save
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from worldsim.evaluation.speed import machine_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dataset_machine import DatasetMachine


class Counted(DatasetMachine):
    """Counts its examples."""

    examples = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.examples += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.monotonic()
    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=options.examples,
            stateful_step_count=options.steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate, Phase.shrink],
        ),
    )
    figures = {"made": machine_facts(), "examples": Counted.examples, "steps": options.steps, "seconds": round(time.monotonic() - started)}
    text = f"""# A dataset beside its model

{Counted.examples} random sequences of up to {options.steps} steps (add, crash at any write call, resume, append, finalize, reopen):
**0 divergences** from the model in memory; a divergence ends the command with the sequence that shows it.

{describe(figures["made"])}
"""
    save("dataset_stateful", figures, text, options.out)


if __name__ == "__main__":
    main()
