"""PPO in one file on the batched learned world, after CleanRL's way of writing it; needs nothing beyond worldsim.

    python examples/ppo.py --steps 4096
    python examples/ppo.py --observation frame --num-envs 16

PPO: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7; advantages: Schulman et al. 2016,
"High-Dimensional Continuous Control Using Generalized Advantage Estimation", equation 16. A step that only starts a row anew
(autoreset in the next step) is no transition, and is left out of the loss.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import worldsim  # noqa: F401  registers WorldSim-v0


class Agent(nn.Module):
    """A Gaussian policy and a value on frames ``(B, H, W, 3)`` or latents ``(B, C, h, w)``."""

    def __init__(self, observation_space: Any, actions: int) -> None:
        super().__init__()
        self.frames = observation_space.dtype == np.uint8
        channels = 3 if self.frames else observation_space.shape[0]
        strides = (2, 2, 2) if self.frames else (1, 2, 1)
        widths = (channels, 16, 32, 32)
        convolutions = [
            part
            for i, stride in enumerate(strides)
            for part in (nn.Conv2d(widths[i], widths[i + 1], 3, stride=stride, padding=1), nn.ReLU())
        ]
        self.body = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 128), nn.ReLU())
        self.mean, self.value = nn.Linear(128, actions), nn.Linear(128, 1)
        self.log_std = nn.Parameter(torch.full((actions,), -0.5))

    def forward(self, observations: Tensor) -> tuple[Normal, Tensor]:
        """Return the distribution of actions ``(B, A)`` and values ``(B,)``."""
        inputs = observations.permute(0, 3, 1, 2).float() / 255 if self.frames else observations  # (B, C, h, w)
        hidden = self.body(inputs)  # (B, 128)
        return Normal(self.mean(hidden), self.log_std.exp()), self.value(hidden).squeeze(1)  # (B,)


def advantages(rewards: Tensor, values: Tensor, ends: Tensor, last: Tensor, *, gamma: float, decay: float) -> Tensor:
    """Return generalised advantages ``(T, B)``; ``ends (T, B)`` is 1 where the episode ended with the step."""
    found, running = torch.zeros_like(rewards), torch.zeros_like(last)
    for t in reversed(range(len(rewards))):
        following = last if t + 1 == len(rewards) else values[t + 1]
        error = rewards[t] + gamma * following * (1 - ends[t]) - values[t]
        found[t] = running = error + gamma * decay * (1 - ends[t]) * running
    return found


def learn(agent: Agent, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], *, epochs: int, minibatch: int, clip: float) -> float:
    """Take PPO's gradient steps on flat transitions and return the last loss."""
    loss = torch.zeros(())
    for _ in range(epochs):
        for index in torch.randperm(len(batch["actions"])).split(minibatch):
            policy, values = agent(batch["observations"][index])
            ratio = (policy.log_prob(batch["actions"][index]).sum(1) - batch["log_probs"][index]).exp()
            gain = batch["advantages"][index]
            gain = (gain - gain.mean()) / (gain.std(correction=0) + 1e-8)
            surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain).mean()
            loss = -surrogate + 0.5 * (values - batch["returns"][index]).square().mean() - 0.001 * policy.entropy().sum(1).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
    return float(loss.detach())


def main(arguments: list[str] | None = None) -> float:
    """Train, print a line an update, and return the mean return of the episodes that ended in the last update."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--observation", default="latent", choices=("latent", "frame"))
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4096, help="environment steps in all")
    parser.add_argument("--rollout", type=int, default=64, help="steps a row between updates")
    parser.add_argument("--horizon", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    env = gym.make_vec(
        "WorldSim-v0",
        num_envs=options.num_envs,
        world=options.world,
        observation=options.observation,
        horizon=options.horizon,
        device=options.device,
    )
    env = gym.wrappers.vector.RecordEpisodeStatistics(env)
    space: Any = env.single_action_space
    low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
    agent = Agent(env.single_observation_space, space.shape[0])
    optimizer = torch.optim.Adam(agent.parameters(), lr=5e-4)
    observation = torch.from_numpy(env.reset(seed=options.seed)[0])
    starting, began, returns = torch.zeros(options.num_envs), time.monotonic(), float("nan")
    for update in range(1, max(1, options.steps // (options.rollout * options.num_envs)) + 1):
        tape: dict[str, list[Tensor]] = {
            name: [] for name in ("observations", "actions", "log_probs", "values", "rewards", "ends", "counts")
        }
        finished: list[float] = []
        for _ in range(options.rollout):
            with torch.no_grad():
                policy, value = agent(observation)
                action = policy.sample()  # (B, A)
            inside = (low + (action + 1) / 2 * (high - low)).clamp(low, high)  # -1..1 is the whole range
            following, rewards, terminated, truncated, infos = env.step(inside.numpy())
            kept = (observation, action, policy.log_prob(action).sum(1), value, torch.from_numpy(rewards).float())
            over = torch.from_numpy(terminated | truncated).float()
            for name, part in zip(tape, (*kept, over, 1 - starting), strict=True):
                tape[name].append(part)
            finished += infos["episode"]["r"][infos["_episode"]].tolist() if "episode" in infos else []
            observation, starting = torch.from_numpy(following), over
        stacked = {name: torch.stack(parts) for name, parts in tape.items()}  # each (T, B, ...)
        with torch.no_grad():
            last = agent(observation)[1]
        stacked["advantages"] = advantages(stacked["rewards"], stacked["values"], stacked["ends"], last, gamma=0.99, decay=0.95)
        stacked["returns"] = stacked["advantages"] + stacked["values"]
        real = stacked["counts"].flatten().bool()  # (T * B,)
        loss = learn(
            agent, optimizer, {name: part.flatten(0, 1)[real] for name, part in stacked.items()}, epochs=4, minibatch=128, clip=0.2
        )
        returns = float(np.mean(finished)) if finished else returns
        done = update * options.rollout * options.num_envs
        print(f"steps {done}  return {returns:.2f}  loss {loss:.3f}  {done / (time.monotonic() - began):.0f} steps/s", flush=True)
    env.close()
    return returns


if __name__ == "__main__":
    main()
