"""What the arrays of a dataset have to be, by its attributes and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.datasets.layout import ArraySpec, DatasetError, DatasetSpec, arrays_of


def expected_arrays(attributes: Mapping[str, Any], horizon: int) -> list[ArraySpec]:
    """Return the arrays of a part whose longest episode has ``horizon`` steps, by the dataset's attributes.

    Raises:
        DatasetError: The attributes lack what it takes.
    """
    try:
        height, width = attributes["frame_size"]
        spec = DatasetSpec(
            name="",
            frame_size=(int(height), int(width)),
            fps=float(attributes["fps"]),
            action_space={},
            action_size=int(attributes["action_size"]),
            action_dtype=str(attributes["action_dtype"]),
            state_names=tuple(map(str, attributes["state_names"])),
            source={},
            licence="",
            root_seed=0,
            generator={},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"zarr.json: attribute {error} of the dataset is missing or damaged: restore it from a copy") from error
    return arrays_of(spec, horizon)
