"""How far a job is: read from its plan and commit records alone, while it runs or after, here or on another machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from worldsim.datasets.layout import DatasetError, canonical_json
from worldsim.datasets.reader import read_attributes, read_commits
from worldsim.datasets.storage import Root, place
from worldsim.datasets.writer import read_plan


@dataclass(frozen=True)
class Status:
    """How far a dataset is.

    Attributes:
        planned: Episodes of the plan.
        ok: Usable episodes.
        rejected: Episodes that the world or a filter refused.
        failed: Episodes that went wrong.
        missing: Episodes without a commit record.
        frames: Frames of the usable episodes.
        reasons: How many were rejected or failed for each reason, most first.
        rate: Frames a second over the last minutes, 0 where nothing was committed then.
        seconds_left: Seconds until nothing is missing at this rate; None where there is none.
        idle: Seconds since the last commit; None before the first.
        finalized: Whether there is a manifest.
    """

    planned: int
    ok: int
    rejected: int
    failed: int
    missing: int
    frames: int
    reasons: Mapping[str, int]
    rate: float
    seconds_left: float | None
    idle: float | None
    finalized: bool


def read_status(path: Root | str, *, minutes: float = 5.0, now: float | None = None) -> Status:
    """Read how far a dataset is.

    Args:
        path: The dataset.
        minutes: The rate is that of this last time, above 0.
        now: The time, in seconds since 1970; default: the clock's.

    Raises:
        ValueError: The folder is no dataset, or a record is damaged.
    """
    root = place(path)
    if minutes <= 0:
        raise DatasetError(f"minutes={minutes} must be above 0")
    read_attributes(root)
    planned = len(read_plan(root).jobs)
    records = read_commits(root)
    counts = Counter(record["status"] for record in records)
    reasons = Counter(record["reason"] for record in records if record["status"] != "ok")
    missing = planned - len(records)
    now = time.time() if now is None else now
    rate = _rate(records, now - 60 * minutes, now)
    mean = sum(record["frames"] for record in records) / max(len(records), 1)
    last = max((record.get("committed", 0.0) for record in records), default=0.0)
    return Status(
        planned=planned,
        ok=counts["ok"],
        rejected=counts["rejected"],
        failed=counts["failed"],
        missing=missing,
        frames=sum(record["frames"] for record in records if record["status"] == "ok"),
        reasons=dict(reasons.most_common()),
        rate=rate,
        seconds_left=0.0 if not missing else missing * mean / rate if rate else None,
        idle=now - last if last else None,
        finalized=(root / "MANIFEST.json").exists(),
    )


def show_status(cfg: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Show how far a dataset is.

    Args:
        cfg: The keys of ``configs/data_status.yaml``.
        console: Where to show it; default: standard output.

    Raises:
        ValueError: As ``read_status``.
    """
    console = console or Console()
    status = read_status(cfg["dataset"], minutes=float(cfg["minutes"]))
    if cfg.get("json"):
        console.print(canonical_json(asdict(status)), soft_wrap=True, markup=False, highlight=False)
        return
    done = status.planned - status.missing
    console.print(
        f"{cfg['dataset']}: {done} of {status.planned} episodes ({done / status.planned:.0%}), {status.ok} ok, {status.rejected} rejected, "
        f"{status.failed} failed, {status.frames:,} frames" + (", finalized" if status.finalized else ""),
        soft_wrap=True,
        markup=False,
    )
    if status.missing:
        left = "unknown time" if status.seconds_left is None else _duration(status.seconds_left)
        idle = "nothing is committed yet" if status.idle is None else f"last commit {_duration(status.idle)} ago"
        console.print(f"{status.rate:,.0f} frames/s over the last {cfg['minutes']:g} minutes, {left} left, {idle}", soft_wrap=True)
    if status.reasons:
        table = Table("episodes", "reason", title="not usable", title_justify="left")
        for reason, count in status.reasons.items():
            table.add_row(str(count), reason.replace("[", "\\["))
        console.print(table)


def _rate(records: Sequence[Mapping[str, Any]], since: float, now: float) -> float:
    recent = [record for record in records if record.get("committed", 0.0) > since]
    if not recent:
        return 0.0
    began = min(record["committed"] - record["seconds"] for record in recent)
    return float(sum(record["frames"] for record in recent) / max(now - max(began, since), 1e-3))


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"
