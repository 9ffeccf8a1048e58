"""Pictures of a report: what is drawn of each section, and the lines that show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.chart import line_chart, point_chart
from worldsim.evaluation.figures import Evidence
from worldsim.evaluation.openloop import real
from worldsim.evaluation.pictures import real_above_imagined, save_sheet

_ROWS = 8  # rollouts on a sheet
CAPTIONS = {
    "rollouts": "Real frames above imagined ones, at steps 1, 4, 8, 16, 32 and 64 after the context.",
    "open_loop": "PSNR over steps.",
    "open_loop_long": "PSNR over steps, long rollouts.",
    "state": "State read back: error over the guess's, by step, mean over names.",
    "drift": "Share of steps in the real range, by step.",
    "drift_frames": "What policies drove to: rows are rollouts, columns steps as the report says.",
    "reward": "Sums of true and predicted reward.",
    "endings": "Foretold and found probability that a step ends the episode.",
}


def draw(folder: Path, report: Mapping[str, Any], evidence: Evidence) -> list[str]:
    """Draw what the report holds into ``folder``; return the names of the pictures, which are keys of ``CAPTIONS``."""
    apart = max(1, len(evidence.segments) // _ROWS)
    real_above_imagined(folder / "rollouts.png", real(evidence.segments)[::apart][:_ROWS], evidence.made.frames[::apart][:_ROWS])
    _curves(folder / "open_loop.png", report["open_loop"]["curve"], "Open loop: PSNR to the real frames [dB] by step")
    drawn = ["rollouts", "open_loop"]
    if "long" in report:
        _curves(folder / "open_loop_long.png", report["long"]["curve"], "Long open loop: PSNR to the real frames [dB] by step")
        drawn.append("open_loop_long")
    if "state" in report and any(report["state"]["curve"].values()):
        curves = {name: values for name, values in report["state"]["curve"].items() if None not in values}
        if curves:
            _curves(folder / "state.png", curves, "State read back: error over the guess's, by step")
            drawn.append("state")
    if report.get("drift", {}).get("policies"):
        drawn += _drift(folder, report["drift"], evidence)
    sums = report["reward"]["sums"]
    title = f"Reward over {report['reward']['steps']} steps: true (across), predicted (up)"
    point_chart(folder / "reward.png", {"": sums}, title=title)
    drawn.append("reward")
    bins = [(each["foretold"], each["found"]) for each in report.get("endings", {}).get("calibration", {}).get("bins", [])]
    if len(bins) > 1:  # one point is no curve
        point_chart(folder / "endings.png", {"": bins}, title="End of the episode: foretold (across), found (up)", joined=True)
        drawn.append("endings")
    return drawn


def shown(drawn: list[str]) -> str:
    """Return the Markdown that shows pictures."""
    return "\n## Pictures\n\n" + "\n".join(f"![{CAPTIONS[name]}]({name}.png)\n\n{CAPTIONS[name]}\n" for name in drawn)


def _curves(path: Path, curves: Mapping[str, Any], title: str) -> None:
    line_chart(path, {name.replace("_", " "): values for name, values in curves.items()}, title=title)


def _drift(folder: Path, part: Mapping[str, Any], evidence: Evidence) -> list[str]:
    curves = {name: own["curve"] for name, own in part["policies"].items()}
    at = next(iter(part["policies"].values()))["curve_steps"]
    curves |= {f"source, {name}": own["curve"] for name, own in part["source"].items()}
    curves["real held-out clips"] = [part["real"]] * len(at)
    line_chart(folder / "drift.png", curves, title="Drift: share of steps in the real range, by step", at=at)
    save_sheet(folder / "drift_frames.png", np.concatenate([_sheet(frames) for frames in evidence.driven.values()]))
    return ["drift", "drift_frames"]


def _sheet(frames: Mapping[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay the frames of one drive out: a row a rollout, a column a step."""
    columns = [
        np.pad(np.concatenate(list(frames[step][: _ROWS // 2])), ((0, 0), (1, 1), (0, 0)), constant_values=255) for step in sorted(frames)
    ]
    return np.pad(np.concatenate(columns, axis=1), ((2, 2), (0, 0), (0, 0)), constant_values=255)
