"""Copy a dataset into another project's format: ``worldsim data export``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worldsim.datasets.exports.common import Export
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.reader import SPLITS, EpisodeReader
from worldsim.datasets.storage import Root

FORMATS = ("lerobot", "minari", "diffusion_policy", "mp4", "numpy")


def main(cfg: DictConfig) -> None:
    """Export by a composed ``configs/data_export.yaml``; see there for the keys.

    Raises:
        ValueError: A value is wrong, the target exists, or a package that the format needs is not installed.
    """
    export(
        cfg.dataset,
        cfg.out,
        format=str(cfg.format),
        split=None if cfg.split in (None, "all") else str(cfg.split),
        lossless=bool(cfg.lossless),
        last_frame=str(cfg.last_frame),
    )


def export(
    dataset: Root | str,
    out: Path | str,
    *,
    format: str,
    split: str | None = None,
    lossless: bool = False,
    last_frame: str = "drop",
    console: Console | None = None,
) -> Path:
    """Write the ``ok`` episodes of a dataset in another format; the target appears only when it is whole.

    Args:
        dataset: Folder of a worldsim dataset.
        out: Folder to make.
        format: One of ``FORMATS``.
        split: ``train``, ``heldout``, or None for both.
        lossless: Exact pixels in ``lerobot`` and ``mp4``; the other formats always are.
        last_frame: In formats with one row a frame (``lerobot``, ``diffusion_policy``) the last frame of an episode has no action:
            ``drop`` leaves it out, ``keep`` adds it with the last action again.
        console: Where progress is shown; default: standard output.

    Returns:
        The folder.

    Raises:
        ValueError: A value is wrong, the target exists, or a package that the format needs is not installed.
    """
    if format not in FORMATS:
        raise DatasetError(f"format={format} is unknown: the formats are {', '.join(FORMATS)}")
    if last_frame not in ("drop", "keep"):
        raise DatasetError(f"last_frame={last_frame} must be drop or keep")
    console = console or Console()
    reader = EpisodeReader(dataset)
    names = SPLITS if split is None else (split,)
    chosen = [(index, name) for name in names for index in reader.split(name)]
    if not chosen:
        raise DatasetError(f"{dataset} has no episodes to export{f' in split {split}' if split else ''}")
    write: Callable[[Export, Path], str] = import_module(f"worldsim.datasets.exports.{format}").write
    indices = [index for index, _ in chosen]
    total = int((reader.lengths()[indices] + 1).sum())
    with building(Path(out)) as target, progress(f"exporting to {format}", total, console) as advance:
        told = write(Export(reader, indices, [name for _, name in chosen], lossless, last_frame, advance), target)
    console.print(f"{len(chosen)} episodes, {total:,} frames in {out}. Open with {told}", highlight=False, soft_wrap=True)
    return Path(out)


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes ``out`` when all went well and vanishes otherwise.

    Raises:
        DatasetError: ``out`` exists, or cannot be written.
    """
    if out.exists():
        raise DatasetError(f"{out} exists: choose another 'out', or remove it")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise DatasetError(f"cannot write {out}: {error.strerror or error}; free space or choose another 'out'") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def progress(title: str, frames: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Show a bar over ``frames`` with the time left, on a terminal; give the function that advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=frames)
        yield lambda count: bar.advance(task, count)
