"""The files of slots: byte by byte what Zarr writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from gymnasium import spaces

from worldsim.datasets.layout import read_json
from worldsim.datasets.plan import make_plan
from worldsim.datasets.shards import SlotLayout, slot_layout
from worldsim.datasets.writer import create_dataset, make_spec
from worldsim.rollout import EpisodeJob

ARRAYS = ("observation/images/main", "observation/state", "action", "reward", "terminated")


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a part of an empty dataset."""
    root = tmp_path_factory.mktemp("shards") / "toy"
    spec = make_spec(name="toy", frame_size=(4, 6), fps=10, action_space=spaces.Box(-1, 1, (3,)), state_names=("a", "b"))
    create_dataset(root, spec, make_plan([EpisodeJob(i, i, 20) for i in range(8)]))
    return root / "parts" / "p00000"


def layout_of(folder: Path) -> SlotLayout:
    """Return how slots of an array lie in files."""
    layout = slot_layout(read_json(folder / "zarr.json"))
    assert layout is not None
    return layout


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("steps", [1, 8, 9, 20])
def test_a_slot_is_what_zarr_writes_and_reads_back(part: Path, tmp_path: Path, name: str, steps: int) -> None:
    folder = Path(shutil.copytree(part / name, tmp_path / "array"))
    layout = layout_of(folder)
    values = (np.random.default_rng(steps).normal(size=(steps, *layout.row)) * 50).astype(layout.dtype)
    values[steps // 2 :] = 0
    array = zarr.open_array(folder, mode="r+").with_config({"write_empty_chunks": True, "order": "C"})
    array[3, :steps] = values
    file = folder / f"c.3{'.0' * (1 + len(layout.row))}"
    assert file.read_bytes() == layout.encode(values)
    np.testing.assert_array_equal(layout.read(file, 0, steps), values)


@pytest.mark.parametrize("name", ARRAYS)
def test_other_values_make_other_bytes_and_equal_ones_equal(part: Path, name: str) -> None:
    layout = layout_of(part / name)
    zeros, ones = (np.full((5, *layout.row), value, layout.dtype) for value in (0, 1))
    assert layout.encode(zeros) == layout.encode(zeros[:, ...].copy())
    assert layout.encode(zeros) != layout.encode(ones)
