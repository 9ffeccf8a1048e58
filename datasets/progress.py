"""How a batch job shows itself: a bar on a terminal, a line now and then elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from worldsim.datasets.storage import Root
from worldsim.datasets.work import Recorded
from worldsim.rollout import EpisodeJob

_LINE_SECONDS = 20.0


class Meter:
    """Counts frames and episodes of a run while it goes on.

    Args:
        title: What is being made.
        console: Where to show it; default: standard output.
        quiet: Show nothing.
    """

    def __init__(self, title: str = "", *, console: Console | None = None, quiet: bool = False) -> None:
        self.title = title
        self.console = console or Console(quiet=quiet)
        self.counts = {"ok": 0, "rejected": 0, "failed": 0}
        self.frames = 0
        self.seconds = 0.0
        self._planned = self._passed = self._stepped = 0
        self._episodes = self._there = 0
        self._began = 0.0
        self._progress = Progress(disable=True)
        self._task = self._progress.add_task("")
        self._printed = 0.0

    def start(self, *, frames: int, episodes: int, there: int) -> None:
        """Say what a run will do, before it begins.

        Args:
            frames: Frames still to record at most.
            episodes: Episodes still to record.
            there: Episodes that are committed already.
        """
        self._planned, self._passed, self._stepped, self._episodes, self._there = frames, 0, 0, episodes, there
        if there and episodes:
            self.console.print(f"{there} episodes are there already, {episodes} are missing")

    def __enter__(self) -> Meter:
        """Show the bar."""
        self._began = self._printed = time.monotonic()
        whole = Column(no_wrap=True)
        left = TimeRemainingColumn(compact=True, table_column=whole)
        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}", table_column=whole), left)
        self._progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._progress.add_task(self.title, total=self._planned, text="")
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar down."""
        self.seconds += time.monotonic() - self._began
        self._show()
        self._progress.stop()

    def step(self, frames: int) -> None:
        """Count frames of groups that are still running."""
        self._stepped += frames
        self._show()

    def finish(self, jobs: Sequence[EpisodeJob], recorded: Sequence[Recorded]) -> None:
        """Count a finished group."""
        self._passed += sum(job.horizon + 1 for job in jobs)
        for one in recorded:
            self.counts[one.status] += 1
            self.frames += one.frames
        self._show(force=True)

    def rate(self) -> float:
        """Frames a second of the runs so far."""
        return self.frames / self.seconds if self.seconds else 0.0

    def _show(self, *, force: bool = False) -> None:
        now = time.monotonic()
        elapsed = max(now - self._began, 1e-9)
        done = sum(self.counts.values())
        completed = min(max(self._passed, self._stepped), self._planned)
        rate = self._stepped / elapsed
        lost = [f"{count} {status}" for status, count in self.counts.items() if count and status != "ok"]
        text = ", ".join([f"{self._stepped:,} frames", f"{rate:,.0f}/s", f"{done} episodes", *lost])
        self._progress.update(self._task, completed=completed, text=text)
        if not self.console.is_terminal and now - self._printed > _LINE_SECONDS and (force or completed):
            self._printed = now
            left = elapsed * (self._planned - completed) / max(completed, 1)
            self.console.print(f"{self.title}: {completed / max(self._planned, 1):.0%}, {text}, {left:.0f} s left", soft_wrap=True)


def print_summary(console: Console, path: Root | str, summary: Mapping[str, Any], rate: float, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the closing table: one row a scenario and the total.

    Args:
        console: Where to print.
        path: The dataset.
        summary: What ``finalize`` returned.
        rate: Frames a second.
        rows: A mapping a scenario: scenario, episodes, frames, return, rejected.
    """
    table = Table(title=f"{path}", title_justify="left")
    for name in ("scenario", "episodes", "frames", "mean return", "rejected"):
        table.add_column(name, justify="left" if name == "scenario" else "right")
    for row in rows:
        table.add_row(row["scenario"], f"{row['episodes']}", f"{row['frames']:,}", f"{row['return']:.1f}", f"{row['rejected']}")
    table.add_section()
    lost = summary["rejected"] + summary["failed"]
    table.add_row("all", f"{summary['episodes']}", f"{summary['frames']:,}", f"{summary['mean_return']:.1f}", f"{lost}")
    console.print(table)
    console.print(f"{rate:,.0f} frames/s" if rate else "nothing was missing", f"fingerprint {summary['fingerprint'][:16]}", sep=", ")


def rows_by_scenario(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sum commit records by scenario, in the order they first appear."""
    rows = []
    for name in dict.fromkeys(record["scenario"] for record in records):
        own = [record for record in records if record["scenario"] == name]
        good = [record for record in own if record["status"] == "ok"]
        mean = sum(record["return"] for record in good) / max(len(good), 1)
        frames = sum(record["frames"] for record in good)
        rows.append({"scenario": name or "-", "episodes": len(good), "frames": frames, "return": mean, "rejected": len(own) - len(good)})
    return rows
