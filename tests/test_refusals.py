"""Full disks, damaged checkpoints and training that cannot be: one sentence each, and nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldsim.checkpoint import content_hash
from worldsim.cli import main
from worldsim.model import WorldModel
from worldsim.training.loop import LoopConfig, Trainer
from worldsim.training.state import load_state

resource = pytest.importorskip("resource", reason="limits on the size of files are POSIX")

TOKENIZER = ["tokenizer.latent_channels=4", "tokenizer.widths=[8,16]", "tokenizer.encoder_blocks=[1,1]", "tokenizer.decoder_blocks=[1,1]"]
LOOP = ["loop.steps=1", "loop.decay=0", "loop.threads=1"]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Refuse to write files of more than ``room`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Line:
    """A task with one weight, whose loss is what it is told to be."""

    frames_per_step = 1

    def __init__(self, *, size: int = 1, factor: float = 1.0) -> None:
        self.module: nn.Module = Loss(size)
        self.factor = factor

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.tensor(self.factor)

    def sample(self, step: int, folder: Path) -> None:
        raise AssertionError("not asked for")


class Loss(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return (self.weight * batch).square().mean(), {}


def test_a_full_disk_while_training_keeps_the_state_before(tmp_path: Path) -> None:
    config = LoopConfig(steps=2, save_every=1)
    trainer = Trainer(Line(size=1000), config, tmp_path)
    trainer.run(stop_after=1)
    with full_disk(2000), pytest.raises(ValueError, match=r"model\.safetensors cannot be written .*free space.*same command again"):
        trainer.run()
    tensors, meta = load_state(tmp_path / "state")
    assert (meta["step"], len(tensors["model"]["weight"])) == (1, 1000)
    again = Trainer(Line(size=1000), config, tmp_path)
    again.run()
    assert again.step == 2


def test_a_full_disk_while_saving_a_world_keeps_the_old_one(make_world: Any, tmp_path: Path) -> None:
    make_world().save_pretrained(tmp_path)
    before = content_hash(tmp_path)
    with full_disk(2000), pytest.raises(ValueError, match=r"tokenizer.*safetensors cannot be written .*what was there before is untouched"):
        make_world(seed=1).save_pretrained(tmp_path)
    assert content_hash(tmp_path) == before
    assert not list(tmp_path.rglob("*.part"))
    WorldModel.from_pretrained(tmp_path)


def test_a_place_that_cannot_be_written_is_named(make_world: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        make_world().save_pretrained(tmp_path / "file" / "world")
    with pytest.raises(OSError, match="file"):
        Trainer(Line(), LoopConfig(steps=1), tmp_path / "file").run()


def test_a_gradient_that_is_not_finite_stops_training_before_it_is_applied(tmp_path: Path) -> None:
    trainer = Trainer(Line(factor=math.inf), LoopConfig(steps=1), tmp_path)
    with pytest.raises(ValueError, match=r"training step 0: the gradient is not finite; lower lr"):
        trainer.run()
    assert trainer.task.module.state_dict()["weight"].tolist() == [1.0]


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    Trainer(Line(size=2), LoopConfig(steps=1), tmp_path).run()
    with pytest.raises(ValueError, match=r"training state .*state is of another model: choose another 'out', or remove the folder"):
        Trainer(Line(size=3), LoopConfig(steps=1), tmp_path)


@pytest.mark.parametrize("name", ["log_every", "save_every", "threads"])
def test_a_loop_counts_from_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"loop.{name}=0 must be 1 or more"):
        LoopConfig(**{"steps": 1, name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("vector", [False, True])
def test_a_truncated_checkpoint_is_named_where_it_is_used(make_world: Any, tmp_path: Path, vector: bool) -> None:
    make_world().save_pretrained(tmp_path)
    file = tmp_path / "dynamics" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{file} are truncated or damaged .*restore the file from a copy"):
        gym.make_vec("WorldSim-v0", num_envs=2, world=tmp_path) if vector else gym.make("WorldSim-v0", world=tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of three sizes, and a tokenizer for one."""
    place = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        for name, size, frames in (("small", 16, 60), ("large", 32, 60), ("single", 16, 16)):
            source = ["source=gym", "source.id=toy_sources:ToySource-v0", f"source.size={size}", "policy=random", f"frames={frames}"]
            assert main(["collect", *source, "horizon=20", "workers=1", "writer.preview=false", f"out={place / name}.worldsim"]) == 0
    assert main(["train", "tokenizer", f"data.path={place}/small.worldsim", f"out={place}/run", "batch_size=2", *TOKENIZER, *LOOP]) == 0
    return place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenizer", "data.path={}/none.worldsim"], "none.worldsim does not exist: record one with 'worldsim collect"),
        (["tokenizer", "data.path={}/single.worldsim"], "single.worldsim has no held-out episode to measure on: record at least two"),
        (["tokenizer", "data.path={}/small.worldsim", "batch_size=0"], "batch_size=0 must be 1 or more"),
        (["tokenizer", "data.path={}/small.worldsim", "tokenizer.widths=[8,16,16,16,16]"], "must be a multiple of 32"),
        (
            ["dynamics", "data.path={}/small.worldsim", "tokenizer_dir={}/none"],
            "holds no tokenizer: train one with 'worldsim train tokenizer'",
        ),
        (["dynamics", "data.path={}/large.worldsim"], "is for frames of 16x16, dataset 'toy_sources:ToySource-v0' has 32x32"),
        (["dynamics", "data.path={}/small.worldsim", "clip=90"], "clips of 90 frames do not fit: the longest episode has"),
        (["dynamics", "data.path={}/small.worldsim", "context_frames=0"], "context_frames=0 must be 1 or more"),
    ],
)
def test_what_cannot_be_trained_is_told(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, *rest = (argument.format(folder) for argument in arguments)
    own = TOKENIZER if kind == "tokenizer" else ["model.depth=1", "model.temporal_every=1", "model.width=8", "model.heads=2"]
    place = [] if any("tokenizer_dir" in word for word in rest) or kind == "tokenizer" else [f"tokenizer_dir={folder}/run/tokenizer"]
    assert main(["train", kind, *own, *LOOP, *place, f"out={tmp_path}", *rest]) == 2
    assert message in capsys.readouterr().err


def test_a_world_is_not_measured_on_other_data(folder: Path, world_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (
        ("large", "frames of 32x32, world 'tiny' makes 16x16"),
        ("small", "has actions Box(-1.0, 1.0, (2,), float32), world"),
    ):
        assert main(["evaluate", f"world={world_path}", f"data.path={folder}/{name}.worldsim"]) == 2
        assert message in capsys.readouterr().err


def test_a_policy_for_other_actions_is_named(make_world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_world(gym.spaces.Box(-1, 1, (2,), np.float32)).save_pretrained(tmp_path / "world")
    assert main(["generate", f"world={tmp_path / 'world'}", "scenario=[calm]", f"out={tmp_path / 'out'}"]) == 2
    assert "scenario 'calm': PurePursuit drives Box(3) actions" in capsys.readouterr().err
