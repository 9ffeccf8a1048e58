"""A TorchRL collector on the batched learned world; needs ``pip install -c constraints.txt -e '.[torchrl]'``.

    python examples/torchrl_collector.py --steps 1024

``GymWrapper`` takes the environment as it is with autoreset disabled, which is what TorchRL prefers.
"""

from __future__ import annotations

import argparse
import time

import gymnasium as gym
from torchrl.collectors import Collector  # pyright: ignore[reportMissingImports]
from torchrl.envs import GymWrapper  # pyright: ignore[reportMissingImports]

import worldsim  # noqa: F401  registers WorldSim-v0


def main(arguments: list[str] | None = None) -> None:
    """Collect with random actions, and print what comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--observation", default="latent", choices=("latent", "frame"))
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1024, help="environment steps in all")
    parser.add_argument("--horizon", type=int, default=64)
    options = parser.parse_args(arguments)
    env = gym.make_vec(
        "WorldSim-v0",
        num_envs=options.num_envs,
        world=options.world,
        observation=options.observation,
        horizon=options.horizon,
        autoreset_mode="Disabled",
    )
    collector = Collector(GymWrapper(env), None, frames_per_batch=options.steps // 4, total_frames=options.steps)
    began, count = time.monotonic(), 0
    for batch in collector:
        count += batch.numel()
        reward = float(batch["next", "reward"].mean())
        shape = tuple(batch["observation"].shape)
        print(f"steps {count}  observations {shape}  mean reward {reward:.3f}  {count / (time.monotonic() - began):.0f} steps/s")
    collector.shutdown()


if __name__ == "__main__":
    main()
