"""Stable-Baselines3's PPO on the batched learned world; needs ``pip install -c constraints.txt -e '.[sb3]'``.

python examples/sb3_ppo.py --steps 4096 --save driver.zip
"""

from __future__ import annotations

import argparse

import gymnasium as gym
from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.vec_env import VecMonitor  # pyright: ignore[reportMissingImports]

import worldsim  # noqa: F401  registers WorldSim-v0
from worldsim.envs.sb3 import SB3VecEnv


def main(arguments: list[str] | None = None) -> None:
    """Train, with Stable-Baselines3's own log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4096, help="environment steps in all")
    parser.add_argument("--rollout", type=int, default=64, help="steps a row between updates")
    parser.add_argument("--horizon", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", default="", help="where to put the policy")
    options = parser.parse_args(arguments)
    env = gym.make_vec("WorldSim-v0", num_envs=options.num_envs, world=options.world, horizon=options.horizon, autoreset_mode="SameStep")
    model = PPO(
        "CnnPolicy",
        VecMonitor(SB3VecEnv(env)),
        n_steps=options.rollout,
        batch_size=128,
        n_epochs=2,
        seed=options.seed,
        device="cpu",
        verbose=1,
    )
    model.learn(options.steps)
    if options.save:
        model.save(options.save)


if __name__ == "__main__":
    main()
