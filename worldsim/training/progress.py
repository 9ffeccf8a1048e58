"""Progress of a training run: a bar with loss, frames a second and time left, and TensorBoard logs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class TrainingProgress:
    """Shows a bar on a terminal, plain lines elsewhere, and writes TensorBoard logs beside the run."""

    def __init__(self, folder: Path, *, total: int, start: int, show: bool) -> None:
        self.total, self.start, self.show = total, start, show
        self.writer = SummaryWriter(str(folder / "logs"), purge_step=start) if show else None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.plain = not sys.stdout.isatty()
        self.bar = Progress(*columns, console=Console(), disable=not show or self.plain, refresh_per_second=2, speed_estimate_period=300)
        self.frames, self.since = 0, time.monotonic()

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        self.task = self.bar.add_task("training", total=self.total, completed=self.start, loss="")
        self.begin = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def advance(self, step: int, frames: int, logs: Mapping[str, Tensor], *, log: bool, share: float = 0.0) -> None:
        """Count one step of ``frames`` frames; with ``log`` also read the losses and write them.

        ``share`` of the time is over, where time is what ends the run.
        """
        self.frames += frames
        total = min(self.total, math.ceil(step / share)) if share else self.total
        if not log or self.writer is None:
            self.bar.update(self.task, completed=step, total=total)
            return
        values = {name: float(value) for name, value in logs.items()}
        rate = self.frames / (time.monotonic() - self.since)
        self.frames, self.since = 0, time.monotonic()
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.add_scalar("frames_per_second", rate, step)
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items()) + f", {rate:.0f} frames/s"
        self.bar.update(self.task, completed=step, total=total, loss=text)
        if self.plain and self.show:
            left = (time.monotonic() - self.begin) / max(1, step - self.start) * (total - step)
            print(f"step {step}/{total} {text}, {left / 60:.1f} min left", flush=True)
