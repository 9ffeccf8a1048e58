"""Worlds on disk: what is saved is what is loaded, and every kind of damage has its message."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from safetensors.torch import load_file, save_file

import worldsim
from worldsim import checkpoint
from worldsim.conditioning import Vocabulary
from worldsim.contexts import Contexts
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import Sampling, WorldSpec

WEIGHTS = "dynamics/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(world_path: Path, tmp_path: Path) -> Path:
    """Return a copy of a saved world, to do harm to."""
    return Path(shutil.copytree(world_path, tmp_path / "copy"))


def first_frame(world: WorldModel) -> Any:
    simulator = Simulator(world)
    return simulator.step(simulator.start([world.contexts[0]], [1]), np.zeros((1, 3), np.float32))[1].frames


# ---------------------------------------------------------------- saving and loading


def test_a_saved_world_comes_back(world_path: Path, make_world: Any) -> None:
    built, loaded = make_world(), WorldModel.from_pretrained(world_path)
    assert loaded.spec == built.spec
    assert len(loaded.contexts) == len(built.contexts)
    np.testing.assert_array_equal(loaded.contexts[1].frames, built.contexts[1].frames)
    np.testing.assert_array_equal(loaded.contexts[1].actions, built.contexts[1].actions)
    assert (loaded.contexts[1].name, loaded.contexts[1].conditioning) == (built.contexts[1].name, built.contexts[1].conditioning)
    for (name, one), (_, other) in zip(built.state_dict().items(), loaded.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3, msg=name)
    assert np.abs(first_frame(loaded).astype(int) - first_frame(built).astype(int)).max() <= 2
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_threshold_of_ends_is_kept_and_told_only_where_it_is_the_world_s_own(world_path: Path, make_world: Any) -> None:
    assert "end_threshold" not in json.loads((world_path / "world.json").read_text())
    own = replace(make_world().spec, end_threshold=0.02)
    assert WorldSpec.from_json(own.to_json()) == own
    with pytest.raises(ValueError, match=r"end_threshold=1 must be a probability between 0 and 1"):
        replace(own, end_threshold=1)


def test_saving_again_changes_no_byte(world_path: Path, tmp_path: Path) -> None:
    loaded = WorldModel.from_pretrained(str(world_path))
    loaded.save_pretrained(tmp_path / "again")
    assert checkpoint.content_hash(tmp_path / "again") == checkpoint.content_hash(world_path) == loaded.fingerprint


def test_there_is_no_pickle_and_no_torch_file(world_path: Path) -> None:
    assert {path.suffix for path in world_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_the_same_content_is_loaded_once_and_other_content_anew(world_path: Path, folder: Path) -> None:
    world = WorldModel.from_pretrained(world_path)
    assert WorldModel.from_pretrained(folder) is world
    assert WorldModel.from_pretrained(world_path, dtype=torch.bfloat16) is not world
    edited = json.loads((folder / "world.json").read_text())
    (folder / "world.json").write_text(json.dumps({**edited, "name": "renamed"}))
    other = WorldModel.from_pretrained(folder)
    assert other is not world
    assert (other.spec.name, world.spec.name) == ("renamed", "tiny")


def test_a_world_without_contexts_loads(folder: Path) -> None:
    (folder / "contexts.safetensors").unlink()
    assert len(WorldModel.from_pretrained(folder).contexts) == 0


def test_worlds_of_every_action_space_come_back(make_world: Any, tmp_path: Path) -> None:
    every: list[Space[Any]] = [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Dict({"steer": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(2)}),
    ]
    for i, space in enumerate(every):
        make_world(space).save_pretrained(tmp_path / str(i))
        loaded = WorldModel.from_pretrained(tmp_path / str(i))
        assert loaded.spec.action_space == space
        assert loaded.contexts[0].actions.dtype == make_world(space).contexts[0].actions.dtype


def test_the_public_names_are_these() -> None:
    assert worldsim.WorldModel is WorldModel
    assert worldsim.Simulator is Simulator
    with pytest.raises(AttributeError, match="no attribute 'World'"):
        worldsim.World  # noqa: B018


# ---------------------------------------------------------------- finding


def test_an_unknown_name_is_met_with_a_near_one(world_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world_path, tmp_path / "carracing-nano")
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    assert checkpoint.shipped_worlds() == ["carracing-nano"]
    assert WorldModel.from_pretrained("carracing-nano").spec.name == "tiny"
    with pytest.raises(ValueError, match=r"world 'carracing-nono' is neither shipped nor a folder .* did you mean 'carracing-nano'"):
        WorldModel.from_pretrained("carracing-nono")
    with pytest.raises(ValueError, match=r"world 'moon' is neither .* shipped worlds are \['carracing-nano'\]"):
        WorldModel.from_pretrained("moon")


def test_a_hub_repository_that_cannot_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ValueError, match="world 'someone/theirs' is no local folder and could not be fetched from the Hub: no network"):
        WorldModel.from_pretrained("someone/theirs")


def test_a_hub_repository_is_fetched(world_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(name: str, **_: Any) -> str:
        asked.append(name)
        return str(world_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert WorldModel.from_pretrained("someone/theirs").spec.name == "tiny"
    assert asked == ["someone/theirs"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(world_path: Path) -> None:
    with pytest.raises(ValueError, match="device 'cuda' was asked for, but torch sees no GPU here: use device='cpu'"):
        WorldModel.from_pretrained(world_path, device="cuda")


def test_a_device_of_no_such_kind_is_named(world_path: Path) -> None:
    with pytest.raises(ValueError, match="device 'gpu' is unknown: use 'cpu' or 'cuda'"):
        WorldModel.from_pretrained(world_path, device="gpu")


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer/config.json", "heads/diffusion_pytorch_model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{Path(name).name}.* is missing"):
        WorldModel.from_pretrained(folder)


def test_a_folder_that_is_no_world_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no world: it has no world\.json; train one"):
        WorldModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, "contexts.safetensors"])
@pytest.mark.parametrize("size", [0, 5, 2000])
def test_a_truncated_file_is_named(folder: Path, name: str, size: int) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{Path(name).name} are truncated or damaged .*: restore the file from a copy"):
        WorldModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["world.json", "dynamics/config.json"])
def test_broken_json_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text((folder / name).read_text()[:40])
    with pytest.raises(ValueError, match=f"{name} is no valid JSON .*: restore it from a copy of the checkpoint"):
        WorldModel.from_pretrained(folder)


def test_values_that_are_not_finite_are_noticed(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["place"][0, 0] = torch.nan
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match="are altered: place has values that are not finite"):
        WorldModel.from_pretrained(folder)


def test_weights_of_another_shape_are_noticed(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "place": tensors["place"][:, :-1].contiguous()}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"(?s)do not fit .*config\.json .*place.*: restore both"):
        WorldModel.from_pretrained(folder)


def test_parts_of_different_worlds_do_not_go_together(folder: Path, make_world: Any, tmp_path: Path) -> None:
    make_world(spaces.Discrete(5)).save_pretrained(tmp_path / "other")
    shutil.rmtree(folder / "dynamics")
    shutil.copytree(tmp_path / "other" / "dynamics", folder / "dynamics")
    with pytest.raises(ValueError, match=r"is put together wrongly: action features of dynamics and Box.* are 5 and 3; restore it"):
        WorldModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2.0"}, r"world.json has format version 2.0, this release reads 1.x: update worldsim or retrain"),
        ({"format": "video"}, "is no worldsim world: its format is 'video'"),
        ({"action_space": {"type": "Sphere"}}, "action space type 'Sphere' is unknown"),
        ({"sampling": {"steps": 0}}, "steps >= 1"),
        ({"vocabulary": {}}, "is incomplete or damaged .*'tags'"),
        ({"fps": None, "name": None}, "is incomplete or damaged"),
    ],
)
def test_a_spec_that_is_wrong_says_how(folder: Path, change: dict[str, Any], message: str) -> None:
    data = json.loads((folder / "world.json").read_text())
    kept = {key: value for key, value in {**data, **change}.items() if value is not None}
    (folder / "world.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=message):
        WorldModel.from_pretrained(folder)


def test_a_later_minor_version_still_loads(folder: Path) -> None:
    data = json.loads((folder / "world.json").read_text())
    (folder / "world.json").write_text(json.dumps({**data, "version": "1.7", "weather": "fine"}))
    assert WorldModel.from_pretrained(folder).spec.name == "tiny"


# ---------------------------------------------------------------- specs and contexts


def test_a_spec_survives_json() -> None:
    spec = WorldSpec(
        name="one",
        frame_size=(16, 32),
        fps=12.5,
        action_space=spaces.Discrete(4),
        vocabulary=Vocabulary(("a",), ("b",), {"c": (0.5, 0.1)}),
        state_names=("x",),
        state_mean=(0.0,),
        state_std=(1.0,),
        sampling=Sampling(4, 0.8, False),
        keys={"left": 1},
    )
    assert WorldSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert replace(spec, name="two") != spec


def test_contexts_are_counted_from_0(make_world: Any) -> None:
    contexts = make_world().contexts
    assert contexts[3].name == "context 3"
    for index in (-1, 4):
        with pytest.raises(ValueError, match=rf"start context {index} does not exist: this world ships contexts 0\.\.3"):
            contexts[index]


def test_contexts_of_different_lengths_are_refused(make_world: Any, tmp_path: Path) -> None:
    items = make_world().contexts.items
    short = replace(items[0], frames=items[0].frames[1:], actions=items[0].actions[1:])
    with pytest.raises(ValueError, match="start contexts have 3 to 4 frames: they must all be of one length"):
        Contexts((items[1], short)).save(tmp_path)
