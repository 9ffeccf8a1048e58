"""How long the expansion of 100,000 episodes takes, content hashes included; and that two expansions are equal.

python benchmarks/scenario_expand.py
"""

from __future__ import annotations

import time
from typing import Any

from common import RESULTS, describe, save

from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.scenario import expand, parse_scenario, plan_hash

DRIVER = {"_target_": "worldsim.policies.pursuit.PurePursuit", "speeds": ["$low", "$high"]}
SCENARIO: dict[str, Any] = {
    "policy": DRIVER,
    "conditioning": {"tags": ["$weather"], "numbers": {"grip": "$grip"}, "text": "a $weather road"},
    "perturb": [{"kind": "noise", "gaussian": "$jitter"}, {"kind": "sticky", "p": "$sticky"}],
    "horizon": 200,
    "randomize": {
        "grip": {"truncnormal": [0.7, 0.2, 0.2, 1.0]},
        "low": {"uniform": [20, 30]},
        "high": {"uniform": [40, 80]},
        "weather": {"weighted": {"wet": 3, "dry": 1}},
        "jitter": {"loguniform": [0.01, 0.3]},
    },
    "require": {"before": ["grip * high < 60"]},
    "expect": [{"name": "slow", "that": "max(speed) < $high", "share": 0.9}],
}
SWEEPS: dict[str, Any] = {
    "many seeds": {**SCENARIO, "variants": {"grid": {"sticky": [0.0, 0.1, 0.2, 0.3, 0.4]}}, "seeds": 20_000},
    "many variants": {**SCENARIO, "variants": {"sobol": {"ranges": {"sticky": [0, 1]}, "n": 25_000}}, "seeds": 4},
}


def main() -> None:
    figures: dict[str, Any] = {"made": machine_facts()}
    rows = []
    for name, sweep in SWEEPS.items():
        scenario = parse_scenario(name, sweep, where="benchmark")
        started, used = time.perf_counter(), time.process_time()
        episodes = list(expand([scenario], 0))
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        told = plan_hash(episodes)
        assert len(episodes) == 100_000
        assert plan_hash(expand([scenario], 0)) == told
        tries = sum(episode.tries for episode in episodes)
        found = {"episodes": len(episodes), "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "rejected": tries, "plan": told}
        figures[name] = found
        rows.append([name, f"{len(episodes):,}", f"{seconds:.1f}", f"{cpu:.1f}", f"{tries:,}", told[:16]])
    head = ["sweep", "episodes", "seconds", "CPU seconds", "draws rejected", "plan hash"]
    text = f"# Expansion of scenarios\n\n{describe(figures['made'])}\n\n{table(head, rows)}\n"
    save("scenario_expand", figures, text, RESULTS)


if __name__ == "__main__":
    main()
