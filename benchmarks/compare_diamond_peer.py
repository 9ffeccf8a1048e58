"""DIAMOND's own code, trained against a clock on recorded data, and resumable."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_diamond_footage import WAYS, Clock, Settings, forward_backward, median_seconds
from engine_speed import diamond_modules
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import nn

from worldsim.evaluation.openloop import Segment
from worldsim.evaluation.speed import count_flops
from worldsim.spaces import feature_size, to_features
from worldsim.tokenizer import to_model, to_uint8
from worldsim.training.run import seeded
from worldsim.training.state import find_state, load_state, restore_optimizer, save_state


class Diamond:
    """DIAMOND's denoiser, trained by its own loss, optimizer and schedule; only the embedding of actions is another.

    Its code embeds one of several discrete actions; here the features of the action are multiplied by a matrix, as its csgo branch does
    with 51 keys. Reward and end model are left out.
    """

    name, said = "diamond", "DIAMOND, its own code, 3 denoising steps"

    def __init__(self, settings: Settings, checkout: Path, way: str) -> None:
        self.settings, self.folder = settings, settings.work / self.name
        self.bf16, self.compiled = WAYS[way]
        code = diamond_modules(checkout)
        self.batch_class, diffusion, tools = code.data.Batch, code.diffusion, importlib.import_module("utils")
        config: Any = OmegaConf.create({"agent": OmegaConf.load(checkout / "config/agent/default.yaml")})
        trainer: Any = OmegaConf.load(checkout / "config/trainer.yaml")
        self.recipe, denoiser = trainer.denoiser, config.agent.denoiser
        self.past: int = denoiser.inner_model.num_steps_conditioning
        self.length: int = self.past + 1 + self.recipe.training.num_autoregressive_steps
        inner = diffusion.InnerModelConfig(num_actions=1, **_keywords(denoiser.inner_model))
        features = feature_size(settings.store.info.action_space)
        with seeded(settings.seed):
            model = diffusion.Denoiser(diffusion.DenoiserConfig(inner_model=inner, **_keywords(denoiser)))
            matrix = nn.Linear(features, denoiser.inner_model.cond_channels // self.past, bias=False)
            nn.init.normal_(matrix.weight)  # as its embedding begins
        model.inner_model.act_emb = nn.Sequential(matrix, nn.Flatten())
        self.model: Any = model.to(settings.device)
        self.model.setup_training(diffusion.SigmaDistributionConfig(**_keywords(self.recipe.sigma_distribution)))
        self.optimizer: torch.optim.Optimizer = tools.configure_opt(self.model, **self.recipe.optimizer)
        self.schedule: Any = tools.get_lr_sched(self.optimizer, self.recipe.training.lr_warmup_steps)
        sampling = _keywords(trainer.world_model_env.diffusion_sampler)
        self.sampler: Any = diffusion.DiffusionSampler(self.model, diffusion.DiffusionSamplerConfig(**sampling))
        self.call: Any = torch.compile(self.model) if self.compiled else self.model
        self.clock, self.step = Clock(self.folder / "clock.json", settings.now), 0
        self._resume()

    def _resume(self) -> None:
        found = find_state(self.folder / "state")
        if found is None:
            return
        tensors, meta = load_state(found)
        self.model.load_state_dict(tensors["model"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        self.step = int(meta["step"])
        self.schedule.last_epoch = self.step
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * min(1.0, self.step / self.recipe.training.lr_warmup_steps)

    def batch(self, step: int) -> Any:
        """Draw a batch as its loader gives it."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        frames, actions = self.settings.footage.clips(self.recipe.training.batch_size, self.length, generator)
        obs = to_model(torch.from_numpy(frames).flatten(0, 1)).unflatten(0, frames.shape[:2])  # (B, T, 3, H, W)
        none = {"rew": None, "end": None, "trunc": None, "info": [], "segment_ids": []}
        device = self.settings.device
        padding = torch.ones(obs.shape[:2], dtype=torch.bool, device=device)
        return self.batch_class(obs=obs.to(device), act=torch.from_numpy(actions).to(device), mask_padding=padding, **none)

    def seconds_a_step(self, count: int) -> float:
        """Measure the costly part of a training step."""
        run = forward_backward(self.model, self.bf16, self.compiled, self.settings.device)
        return median_seconds(lambda i: run(self.batch(i)), count, self.settings.now)

    def train(self, seconds: float) -> None:
        """Train for about so many seconds more, at least a step, and keep the state."""
        self.clock.start()
        goal = min(self.clock.used + seconds, self.settings.budget)
        self.model.train()
        while True:
            torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # its loss draws from torch's own generator
            with torch.autocast(self.settings.device.type, torch.bfloat16, enabled=self.bf16):
                loss, _ = self.call(self.batch(self.step))
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.training.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
            self.step += 1
            if self.clock.used >= goal:
                break
        none = {"none": torch.zeros(1)}
        save_state(self.folder / "state", model=self.model, ema=none, optimizer=self.optimizer, meta={"step": self.step})
        self.clock.stop(step=self.step)

    def told(self) -> dict[str, Any]:
        """Return what was trained."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return {"steps": self.step, "batch": self.recipe.training.batch_size, "parameters": parameters}

    @torch.no_grad()
    def ways(self) -> dict[str, tuple[str, Callable[[Sequence[Segment]], NDArray[np.uint8]], float]]:
        """Return what is judged: name to (what it is, frames of segments, GFLOP a frame)."""
        device, size = self.settings.device, self.settings.footage.frames.shape[1:3]
        self.model.eval()
        obs = torch.zeros(1, self.past, 3, *size, device=device)
        acts = torch.zeros(1, self.past, self.settings.footage.actions.shape[1], device=device)
        gflop = count_flops(lambda: self.sampler.sample(obs, acts)) / 1e9
        return {self.name: (self.said, self._imagine, gflop)}

    @torch.no_grad()
    def _imagine(self, segments: Sequence[Segment]) -> NDArray[np.uint8]:
        torch.manual_seed(self.settings.seed)
        parts = [self._roll(segments[i : i + 16]) for i in range(0, len(segments), 16)]
        return np.concatenate(parts)

    def _roll(self, segments: Sequence[Segment]) -> NDArray[np.uint8]:
        device, space, made = self.settings.device, self.settings.store.info.action_space, list[NDArray[np.uint8]]()
        shown = np.stack([segment.context.frames[-self.past :] for segment in segments])  # (N, past, H, W, 3)
        obs = to_model(torch.from_numpy(shown).flatten(0, 1)).unflatten(0, shown.shape[:2]).to(device)  # (N, past, 3, H, W)
        taken = [np.concatenate((segment.context.actions[1 - self.past :], segment.actions)) for segment in segments]
        acts = torch.from_numpy(np.stack([to_features(space, one) for one in taken])).float().to(device)  # (N, past - 1 + T, A)
        for t in range(len(segments[0].actions)):
            frame, _ = self.sampler.sample(obs, acts[:, t : t + self.past])  # (N, 3, H, W)
            obs = torch.cat((obs[:, 1:], frame[:, None]), dim=1)  # (N, past, 3, H, W)
            made.append(to_uint8(frame).cpu().numpy())
        return np.stack(made, axis=1)  # (N, T, H, W, 3)


def _keywords(node: Any) -> dict[str, Any]:
    plain = {key: node[key] for key in node if key not in ("_target_", "num_actions", "inner_model", "s_tmax")}
    return {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in plain.items()}
