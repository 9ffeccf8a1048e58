"""Bring recordings in other formats into layout v1, to train a world on them: ``worldsim data import``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from worldsim.datasets.exporting import building, progress
from worldsim.datasets.finalize import finalize
from worldsim.datasets.imports.common import Coming, Source, Wanted
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.plan import make_plan
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec
from worldsim.episode import Conditioning, Episode
from worldsim.rollout import EpisodeJob
from worldsim.spaces import is_integer, row_size, space_from_json

FORMATS = ("minari", "lerobot", "video")


def main(cfg: DictConfig) -> None:
    """Import by a composed ``configs/data_import.yaml``; see there for the keys.

    Raises:
        ValueError: A value is wrong, the source cannot be read, the target exists, or a package is not installed.
    """
    space = cfg.action_space
    import_dataset(
        str(cfg["source"]),
        cfg.out,
        format=str(cfg["from"]),
        size=_size(cfg["size"]),
        fps=None if cfg.fps is None else float(cfg.fps),
        image=None if cfg.image is None else str(cfg.image),
        actions=str(cfg.actions),
        action_space=None if not space else OmegaConf.to_container(space),  # type: ignore[arg-type]
        name=cfg.name,
        licence=cfg.licence,
    )


def import_dataset(
    source: str,
    out: Path | str,
    *,
    format: str,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    image: str | None = None,
    actions: str = "before",
    action_space: dict[str, Any] | None = None,
    name: str | None = None,
    licence: str | None = None,
    console: Console | None = None,
) -> EpisodeReader:
    """Write recordings as a dataset in layout v1; the target appears only when it is whole.

    Args:
        source: Folder, or for ``minari`` also a dataset's id.
        out: Folder to make.
        format: One of ``FORMATS``.
        size: Height and width that frames are averaged down to; None keeps the source's.
        fps: Frames a second, where the source does not say or says wrong.
        image: Which of several pictures or cameras.
        actions: For ``video`` with as many actions as frames: ``before``, action i was taken at frame i; ``after``, it led to frame i.
        action_space: As ``worldsim.spaces.space_to_json`` describes it; None takes the source's, or what its actions span.
        name: Name of the dataset; None takes the source's.
        licence: SPDX identifier or a sentence; None takes the source's.
        console: Where progress is shown; default: standard output.

    Returns:
        The dataset, open for reading.

    Raises:
        ValueError: A value is wrong, the source cannot be read, the target exists, or a package is not installed.
    """
    if format not in FORMATS:
        raise DatasetError(f"from={format} is unknown: the formats are {', '.join(FORMATS)}")
    if actions not in ("before", "after"):
        raise DatasetError(f"actions={actions} must be before or after")
    if fps is not None and not fps > 0:
        raise DatasetError(f"fps={fps} must be above 0")
    console = console or Console()
    opened: Source = import_module(f"worldsim.datasets.imports.{format}").open_source(source, Wanted(image, fps, actions))
    if opened.fps is None:
        raise DatasetError(f"{source} does not say how many frames a second it has: give fps=")
    space = opened.action_space if action_space is None else space_from_json(action_space)
    jobs = [_job(i, one) for i, one in enumerate(opened.coming)]
    frames = sum(job.horizon + 1 for job in jobs)
    with building(Path(out)) as target, progress(f"importing from {format}", frames, console) as advance:
        writer: EpisodeWriter | None = None
        for job in jobs:
            episode = opened.episode(job.id, size)
            _check(episode, space, f"{source} episode {job.id}")
            if writer is None:
                spec = make_spec(
                    name=name or opened.name,
                    frame_size=(episode.frames.shape[1], episode.frames.shape[2]),
                    fps=opened.fps,
                    action_space=space,
                    state_names=opened.state_names,
                    source=opened.about.get("source") or {"id": format, "name": opened.name},
                    licence=licence or str(opened.about.get("licence", "unknown")),
                )
                create_dataset(target, spec, make_plan(jobs))
                writer = EpisodeWriter(target)
            writer.write(job, episode)
            advance(len(episode.frames))
        finalize(target)
    reader = EpisodeReader(out)
    console.print(f"{len(reader)} episodes, {int((reader.lengths() + 1).sum()):,} frames in {out}", highlight=False, soft_wrap=True)
    return reader


def _job(number: int, one: Coming) -> EpisodeJob:
    about = one.about
    return EpisodeJob(
        number,
        int(about.get("seed", number)),
        max(one.steps, 1),
        str(about.get("scenario", "")),
        str(about.get("policy", "")),
        conditioning=Conditioning.from_json(about.get("conditioning", {})),
        params=dict(about.get("params", {})),
    )


def _check(episode: Episode, space: Any, where: str) -> None:
    """Refuse an episode that the action space does not fit, or that has no step."""
    if not len(episode):
        raise DatasetError(f"{where} has {len(episode.frames)} frames: it takes 2 to make a step; remove it from the source")
    kind = np.dtype(np.int64 if is_integer(space) else np.float32)
    if episode.actions.shape[1] != row_size(space) or episode.actions.dtype != kind:
        raise DatasetError(
            f"{where} has actions of {episode.actions.shape[1]} {episode.actions.dtype} numbers, {space} takes "
            f"{row_size(space)} {kind}: give another action_space"
        )


def _size(value: Any) -> tuple[int, int] | None:
    """Read the setting ``size``: null, a side in pixels, or height and width."""
    if value is None:
        return None
    sides = list(value) if isinstance(value, ListConfig | list | tuple) else [value, value]
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise DatasetError(f"size={value} must be a number of pixels, as 64, or height and width, as [64,96]")
    return int(sides[0]), int(sides[1])
