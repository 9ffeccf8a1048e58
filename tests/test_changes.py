"""Weights stored as what has changed since older ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldsim.changes import BASE, CHANGES, apply_changes, find_changes
from worldsim.checkpoint import WEIGHTS, content_hash, load_component, read_files, save_changes, save_component
from worldsim.dit import VideoDiT
from worldsim.model import WorldModel

MakeWorld = Callable[..., WorldModel]


def trained(module: VideoDiT, size: float, seed: int = 1) -> VideoDiT:
    """Return a copy of which every weight has changed a little."""
    build: Any = VideoDiT
    other: VideoDiT = build.from_config(module.config)
    generator = torch.Generator().manual_seed(seed)
    other.load_state_dict(
        {name: value + size * torch.randn(value.shape, generator=generator) for name, value in module.state_dict().items()}
    )
    return other


def apart(one: VideoDiT, other: VideoDiT) -> float:
    """Return the root mean square of the difference of all weights."""
    own, theirs = one.state_dict(), other.state_dict()
    return float(torch.cat([(own[name] - theirs[name]).flatten() for name in own]).square().mean().sqrt())


@pytest.fixture
def dynamics(make_world: MakeWorld) -> VideoDiT:
    return make_world().dynamics


def test_what_comes_back_is_what_was_trained_to_a_share_of_the_change(dynamics: VideoDiT, tmp_path: Path) -> None:
    save_component(dynamics, tmp_path)
    before, now = load_component(VideoDiT, tmp_path), trained(dynamics, 0.02)
    save_changes(now, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [BASE, CHANGES, "config.json"]
    back = load_component(VideoDiT, tmp_path)
    assert apart(back, now) < 0.1 * apart(before, now)
    save_changes(now, tmp_path, levels=127)
    assert apart(load_component(VideoDiT, tmp_path), now) < 0.2 * apart(back, now)
    save_changes(now, tmp_path, levels=1)
    assert apart(load_component(VideoDiT, tmp_path), now) > 3 * apart(back, now)


def test_the_base_stays_to_the_byte_and_changes_are_always_of_it(dynamics: VideoDiT, tmp_path: Path) -> None:
    save_component(dynamics, tmp_path)
    base = (tmp_path / WEIGHTS).read_bytes()
    save_changes(trained(dynamics, 0.02), tmp_path)
    assert (tmp_path / BASE).read_bytes() == base
    later = trained(dynamics, 0.05, seed=2)
    save_changes(later, tmp_path)
    assert (tmp_path / BASE).read_bytes() == base
    once = load_file(tmp_path / CHANGES)
    save_changes(later, tmp_path)
    again = load_file(tmp_path / CHANGES)
    assert all((once[name] == again[name]).all() for name in once)
    assert sum(value.numel() for value in again.values() if value.dtype == torch.int8) > 0.8 * sum(p.numel() for p in later.parameters())


def test_whole_weights_take_the_place_of_changes(dynamics: VideoDiT, tmp_path: Path) -> None:
    save_component(dynamics, tmp_path)
    save_changes(trained(dynamics, 0.02), tmp_path)
    save_component(dynamics, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", WEIGHTS]
    assert apart(load_component(VideoDiT, tmp_path), dynamics) < 1e-3


def test_a_network_that_got_more_inputs_is_told_in_full_there() -> None:
    base = {"embed": torch.zeros(4, 2), "same": torch.ones(4, 3), "gone": torch.ones(2, 2), "bias": torch.zeros(4)}
    new = {"embed": torch.randn(4, 5), "same": torch.ones(4, 3), "bias": torch.full((4,), 0.1), "count": torch.tensor([3])}
    told = find_changes(new, base)
    assert {name: value.dtype for name, value in told.items()} == {
        "embed": torch.float16,
        "same": torch.int8,
        "same.scale": torch.float16,
        "bias": torch.float16,
        "count": torch.int64,
    }
    back = apply_changes(told, base)
    assert list(back) == ["embed", "same", "bias", "count"]
    assert (back["embed"] == new["embed"].half()).all()
    assert (back["same"] == base["same"]).all()


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-2, 10.0])
def test_changes_of_every_size_are_finite_and_no_worse_than_none(size: float) -> None:
    base = {"w": torch.randn(8, 16, generator=torch.Generator().manual_seed(0))}
    change = size * torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    back = apply_changes(find_changes({"w": base["w"] + change}, base), base)["w"]
    wrong = (back - base["w"] - change).abs()
    assert wrong.max() <= change.abs().max() * (0.04 if size > 1e-5 else 1.01) + 2e-7


@pytest.mark.parametrize("levels", [0, 128])
def test_levels_fit_an_int8(levels: int) -> None:
    with pytest.raises(ValueError, match=rf"levels={levels} must be 1 to 127"):
        find_changes({}, {}, levels=levels)


def test_a_world_of_changes_runs_and_every_file_counts(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world()
    world.save_pretrained(tmp_path)
    whole = content_hash(tmp_path)
    save_changes(trained(world.dynamics, 0.02), tmp_path / "dynamics")
    assert {file.name for file in read_files(tmp_path) if file.parent.name == "dynamics"} == {BASE, CHANGES, "config.json"}
    first = content_hash(tmp_path)
    loaded = WorldModel.from_pretrained(tmp_path)
    assert loaded.fingerprint == first != whole
    save_changes(trained(world.dynamics, 0.02, seed=2), tmp_path / "dynamics")
    assert content_hash(tmp_path) != first
    loaded.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "dynamics" / CHANGES).exists()
    (tmp_path / "dynamics" / BASE).unlink()
    with pytest.raises(ValueError, match=rf"incomplete: dynamics/{BASE} is missing"):
        WorldModel.from_pretrained(tmp_path)


def _shorter(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return tensors | {name: tensors[name][1:].clone()}


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        (BASE, _shorter, r"changes of .*, shape .*, do not fit the base, which has shape"),
        (BASE, lambda tensors, name: {key: value for key, value in tensors.items() if key != name}, "the base, which has nothing there"),
        (CHANGES, lambda tensors, name: _shorter(tensors, name + ".scale"), "do not fit the base"),
        (CHANGES, lambda tensors, name: tensors | {name + ".scale": tensors[name + ".scale"] * torch.inf}, "not finite"),
    ],
)
def test_damage_is_one_sentence(dynamics: VideoDiT, tmp_path: Path, file: str, damage: Any, told: str) -> None:
    save_component(dynamics, tmp_path)
    save_changes(trained(dynamics, 0.02), tmp_path)
    name = next(name.removesuffix(".scale") for name in load_file(tmp_path / CHANGES) if name.endswith(".scale"))
    save_file(damage(load_file(tmp_path / file), name), tmp_path / file)
    with pytest.raises(ValueError, match=told) as error:
        load_component(VideoDiT, tmp_path)
    assert f"{CHANGES} are" in str(error.value)
    (tmp_path / file).write_bytes(b"short")
    with pytest.raises(ValueError, match=f"{file} are truncated or damaged .*: restore the file from a copy"):
        load_component(VideoDiT, tmp_path)
