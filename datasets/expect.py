"""What the arrays of a dataset have to be, by its attributes and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.datasets.layout import ArraySpec, DatasetError, DatasetSpec, LatentSpec, arrays_of


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
            latents=latents_of(attributes),
            labels=labels_of(attributes),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"zarr.json: attribute {error} of the dataset is missing or damaged: restore it from a copy") from error
    return arrays_of(spec, horizon)


def latents_of(attributes: Mapping[str, Any]) -> LatentSpec | None:
    """Return what latents the dataset holds; None where there are none, as in all of version 1.0.

    Raises:
        ValueError: The attributes are damaged.
    """
    told = attributes.get("latents")
    if told is None:
        return None
    channels, height, width = told["shape"]
    if told["kept"] not in ("beside", "instead"):
        raise ValueError(f"latents.kept={told['kept']!r}")
    return LatentSpec(told["kept"], (int(channels), int(height), int(width)))


def labels_of(attributes: Mapping[str, Any]) -> dict[str, tuple[str, ...]] | None:
    """Return which pictures of labels the dataset holds, and the names of their classes; None where there are none.

    Raises:
        ValueError: The attributes are damaged.
    """
    told = attributes.get("labels")
    if not told:
        return None
    if not isinstance(told, Mapping) or set(told) != {"segmentation"}:
        raise ValueError(f"labels={told!r}")
    return {"segmentation": tuple(map(str, told["segmentation"]))}
