"""Progress of a pass over a dataset: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_SECONDS = 20.0


class Bar:
    """Counts what is done of a known number.

    Args:
        title: What is being done.
        total: How many there are.
        console: Where to show it; None shows nothing.
    """

    def __init__(self, title: str, total: int, *, console: Console | None = None) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.console = console or Console(quiet=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self._task = self._progress.add_task(title, total=total)
        self._began = self._printed = 0.0

    def __enter__(self) -> Bar:
        """Show the bar."""
        self._began = self._printed = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar down."""
        self._progress.stop()

    def step(self, count: int = 1) -> None:
        """Count ``count`` more as done."""
        self.done += count
        self._progress.update(self._task, completed=self.done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._printed > _LINE_SECONDS:
            self._printed = now
            left = (now - self._began) * (self.total - self.done) / max(self.done, 1)
            self.console.print(f"{self.title}: {self.done} of {self.total}, {left:.0f} s left", soft_wrap=True)
