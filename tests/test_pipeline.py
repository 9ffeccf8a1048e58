"""The whole way by the command line: record, train a tokenizer, train a world, measure it, generate from it, play it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest

from worldsim.cli import main
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.verify import verify

TOKENIZER = ["tokenizer.latent_channels=4", "tokenizer.widths=[8,16]", "tokenizer.encoder_blocks=[1,1]", "tokenizer.decoder_blocks=[1,1]"]
MODEL = ["model.width=32", "model.depth=2", "model.heads=2", "model.temporal_every=2", "model.window=4"]
CLIPS = ["clip=6", "batch_size=2", "context_frames=4", "contexts=3", "sample_horizon=4"]
LOOP = ["loop.steps=2", "loop.decay=1", "loop.warmup=1", "loop.save_every=2"]


def test_from_a_simulator_to_scenarios(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        code = main(list(arguments))
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, "")
        return captured.out

    source = [
        "source=gym",
        "source.id=toy_sources:ToySource-v0",
        "source.size=16",
        "policy=random",
        "frames=160",
        "horizon=20",
        "workers=1",
    ]
    run("collect", *source, "out=toy.worldsim", "writer.preview=false")
    assert verify(tmp_path / "toy.worldsim") == []

    data = "data.path=toy.worldsim"
    told = {}
    for name, seed in (("tokenizer", 0), ("again", 0), ("other", 1)):
        printed = run("train", "tokenizer", data, f"out={name}", f"loop.seed={seed}", "batch_size=4", *TOKENIZER, *LOOP)
        assert "held-out PSNR" in printed
        told[name] = (tmp_path / name / "tokenizer/diffusion_pytorch_model.safetensors").read_bytes()
    assert told["tokenizer"] == told["again"] != told["other"]

    printed = run("train", "dynamics", data, "tokenizer_dir=tokenizer/tokenizer", "out=dynamics", "name=toy", *MODEL, *CLIPS, *LOOP)
    assert "world saved to dynamics/world" in printed

    world = "world=dynamics/world"
    protocol = [
        f"protocol.{key}" for key in ("context=4", "horizon=4", "segments=2", "per_episode=1", "batch=2", "pairs=32", "probe_steps=2")
    ]
    run("evaluate", world, data, "out=evaluation", "card=true", *protocol)
    assert json.loads((tmp_path / "evaluation/report.json").read_text())["world"]["name"] == "toy"
    assert (tmp_path / "dynamics/world/README.md").exists()

    run("generate", world, "scenario=[aimless]", "count=3", "horizon=5", "batch=2", "out=made.worldsim", "writer.preview=false")
    made = EpisodeReader(tmp_path / "made.worldsim")
    assert verify(made.path) == []
    assert len(made) == 3
    assert all(1 <= len(made[i]) <= 5 for i in range(3))  # an untrained head may end an episode

    env: gym.Env[Any, Any] = gym.make("WorldSim-v0", world="dynamics/world")
    episode = made[0]
    frame, _ = env.reset(seed=episode.seed)
    assert np.array_equal(frame, episode.frames[0])

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    escape = pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE)
    monkeypatch.setattr("worldsim.envs.play._Caption.__call__", lambda *_: pygame.event.post(escape))
    assert "toy: keys w, Escape ends" in run("play", world, "fps=1000", "keys={w: [1, 0]}")
