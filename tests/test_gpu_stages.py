"""Training by the clock, packing byte by byte, and the stages that put them together."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from worldsim.config import compose
from worldsim.datasets.finalize import finalize
from worldsim.datasets.layout import FRAMES
from worldsim.datasets.plan import make_plan
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec
from worldsim.devices import draw_noise, resident, send
from worldsim.episode import Episode
from worldsim.rollout import EpisodeJob
from worldsim.training import loop
from worldsim.training.loop import LoopConfig, Trainer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("carracing_small", "metaworld_nano", "vizdoom_nano")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The scripts by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield SimpleNamespace(**{name: import_module(name) for name in ("gpu_pack", "gpu_stages")})
    finally:
        sys.path.remove(str(BENCHMARKS))


class Line(nn.Module):
    """A block that is repeated, and a loss on it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        for block in self.blocks:
            x = block(x)
        return x.square().mean(), {}


class LineTask:
    """Random numbers to make small."""

    frames_per_step = 1

    def __init__(self) -> None:
        self.module = Line()

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.rand(4, 2, generator=generator).to(device)

    def sample(self, step: int, folder: Path) -> None:
        raise AssertionError("nobody asked")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the training loop's clock go on by so many seconds at each look."""
    now = [0.0]

    def tick(by: float) -> None:
        def monotonic() -> float:
            now[0] += by
            return now[0]

        monkeypatch.setattr(time, "monotonic", monotonic)

    return tick


def trainer(folder: Path, **settings: Any) -> Trainer:
    return Trainer(LineTask(), LoopConfig(**{"steps": 1000, "warmup": 1, "save_every": 1000, **settings}), folder)


def weights(made: Trainer) -> list[Tensor]:
    return [value.clone() for value in made.task.module.state_dict().values()]


def test_the_clock_ends_training_and_leaves_its_state(tmp_path: Path, clock: Callable[[float], None]) -> None:
    clock(1.0)
    made = trainer(tmp_path, minutes=0.25, decay=500)
    made.run()
    assert 5 <= made.step <= 15
    again = trainer(tmp_path, minutes=0.25, decay=500)
    assert (again.step, again.seconds) == (made.step, made.seconds)
    again.run()
    assert again.step == made.step  # time is over
    further = trainer(tmp_path, minutes=0.5, decay=500)
    further.run()
    assert further.step > made.step


def test_rate_falls_with_the_clock_over_the_same_share() -> None:
    config = LoopConfig(steps=1000, lr=1.0, warmup=1, decay=500, minutes=2.0)
    assert [config.rate(10, share) for share in (0.0, 0.5, 0.75, 1.0, 1.1)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert config.rate(900, 0.1) == pytest.approx(0.2)  # steps run out first


def test_without_a_clock_nothing_is_different(tmp_path: Path, clock: Callable[[float], None]) -> None:
    plain, steps = LoopConfig(steps=10, decay=4), range(10)
    assert [plain.rate(step, 0.0) for step in steps] == [1e-3 * min(1, (i + 1) / 200) * min(1.0, (10 - i) / 4) for i in steps]
    first = trainer(tmp_path / "a", steps=6)
    first.run()
    clock(50.0)
    slow, endless = trainer(tmp_path / "b", steps=6), trainer(tmp_path / "c", steps=6, minutes=1e6)
    slow.run()
    endless.run()
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(weights(first), weights(slow), weights(endless), strict=True))


def test_unusable_clocks_and_models_without_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loop\.minutes=0"):
        LoopConfig(steps=1, minutes=0)
    with pytest.raises(ValueError, match="no repeated blocks"):
        loop.compile_blocks(nn.Linear(1, 1))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_blocks_are_compiled_where_they_are() -> None:
    module = Line()
    names = list(module.state_dict())
    loop.compile_blocks(module)
    assert all(block._compiled_call_impl is not None for block in module.blocks)
    assert list(module.state_dict()) == names


def test_on_a_cpu_draws_are_what_they_were() -> None:
    cpu = torch.device("cpu")
    noise = draw_noise((2, 3), torch.Generator().manual_seed(1), cpu)
    assert torch.equal(noise, torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(noise, draw_noise((2, 3), torch.Generator().manual_seed(2), cpu))
    assert resident(np.zeros(3), cpu) is None
    assert send(noise, cpu) is noise


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_of_one_recipe(name: str) -> None:
    ours, plain = compose("train_dynamics", [f"preset={name}"]), compose("train_dynamics")
    assert (ours.objective.self_rounds, ours.objective.pixel_loss, ours.sampling.steps) == (8, 8.0, 1)
    assert ours.objective.pixel_loss != plain.objective.pixel_loss
    assert ours.model.width == (288 if name == "carracing_small" else 224)


def test_presets_of_the_stages_exist(scripts: Any) -> None:
    for world in scripts.gpu_stages.WORLDS.values():
        compose("train_dynamics", [f"preset={world.preset}", *world.dynamics, *scripts.gpu_stages.TINY["dynamics"]])
        compose("train_tokenizer", [*world.tokenizer, *scripts.gpu_stages.TINY["tokenizer"]])
        compose("collect", [*world.collect, *scripts.gpu_stages.TINY["collect"]])
    compose("evaluate", list(scripts.gpu_stages.TINY["evaluate"]))


def dataset(path: Path, *, seed: int = 0) -> Path:
    random, jobs = np.random.default_rng(seed), [EpisodeJob(i, i, 11, "s", "p") for i in range(3)]
    space = spaces.Box(-1, 1, (2,), np.float32)
    spec = make_spec(
        name="toy", frame_size=(8, 8), fps=10.0, action_space=space, state_names=(), source={"id": "toy", "kwargs": {}}, licence="CC0-1.0"
    )
    create_dataset(path, spec, make_plan(jobs))
    writer = EpisodeWriter(path)
    for job, steps in zip(jobs, (11, 8, 4), strict=True):
        episode = Episode(
            frames=random.integers(0, 256, (steps + 1, 8, 8, 3), dtype=np.uint8),
            actions=random.uniform(-1, 1, (steps, 2)).astype(np.float32),
            rewards=np.zeros(steps, np.float32),
            terminated=np.zeros(steps, bool),
            truncated=np.arange(steps) == steps - 1,
            state=np.zeros((steps + 1, 0), np.float32),
            seed=job.seed,
        )
        writer.write(job, episode)
    finalize(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_packed_dataset_comes_out_byte_by_byte(scripts: Any, tmp_path: Path) -> None:
    path = dataset(tmp_path / "toy.worldsim")
    head = scripts.gpu_pack.pack([path], tmp_path / "packed", limit_mib=0.002)
    parts = sorted((tmp_path / "packed").glob("packed.[0-9]*"))
    assert len(parts) == len(head["parts"]) > 2
    assert all(part.stat().st_size <= 0.002 * scripts.gpu_pack.MIB for part in parts)
    members = [name for name, _ in scripts.gpu_pack._members(path)]
    assert sum(name.endswith(".rows") for name in members) == 3
    assert any(FRAMES in name and name.endswith("zarr.json") for name in members)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    parts[0].rename(elsewhere / parts[0].name)  # parts may arrive in several folders
    (made,) = scripts.gpu_pack.unpack([tmp_path / "packed", elsewhere], tmp_path / "out")
    assert contents(made) == contents(path)


def test_damaged_missing_and_too_many_parts_are_refused(scripts: Any, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "weights").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ValueError, match="pack fewer"):
        scripts.gpu_pack.pack([folder], tmp_path / "few", limit_mib=0.001, most=2)
    with pytest.raises(ValueError, match="must be there"):
        scripts.gpu_pack.pack([tmp_path / "nothing"], tmp_path / "few")
    scripts.gpu_pack.pack([folder], tmp_path / "packed", limit_mib=0.001)
    (part := tmp_path / "packed" / "packed.01").write_bytes(part.read_bytes()[::-1])
    with pytest.raises(ValueError, match=r"packed\.01 is missing or damaged"):
        scripts.gpu_pack.unpack([tmp_path / "packed"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"no packed\.json"):
        scripts.gpu_pack.unpack([tmp_path], tmp_path / "out")


def test_training_goes_on_with_the_minutes_that_are_left(scripts: Any, tmp_path: Path, clock: Callable[[float], None]) -> None:
    assert scripts.gpu_stages._minutes(tmp_path, 120) == 2
    clock(1.0)
    made = trainer(tmp_path, steps=5)
    made.run()
    told = json.loads((tmp_path / "state" / "meta.json").read_text())
    assert scripts.gpu_stages._minutes(tmp_path, 120) == pytest.approx(2 + told["seconds"] / 60, abs=1e-3)
