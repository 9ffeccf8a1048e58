"""The referee of recipes and of peers: the same held-out segments, the same figures, whoever made the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from worldsim.evaluation.openloop import Segment, copy_last, cut_segments, psnr, real
from worldsim.evaluation.probe import Probe, draw_pairs, pairs_at, train_probe
from worldsim.files import save_tensors
from worldsim.types import EpisodeStore

STEPS = (1, 4, 16, 32, 64)
PROBED = (16, 64)
MAIN = 16
"""Step whose PSNR is kept for each segment, so that two recipes can be compared pair by pair."""


@dataclass(frozen=True)
class Referee:
    """Judges frames that were made for held-out segments.

    Attributes:
        segments: What really happened.
        names: Labelled state that the probe reads.
        probe: Reads it; None where the source has no labels.
        train: Probe pairs and steps, for the record.
    """

    segments: Sequence[Segment]
    names: tuple[str, ...]
    probe: Probe | None
    train: dict[str, int]

    @property
    def steps(self) -> list[int]:
        """Steps that are looked at."""
        return [step for step in STEPS if step <= len(self.segments[0].actions)]

    def judge(self, made: NDArray[np.uint8], others: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """Return the figures of frames ``(N, T, H, W, 3)``.

        Args:
            made: Made with the recorded actions.
            others: Made with the actions of other episodes; None leaves the margin out.

        Returns:
            ``psnr`` by step in dB; ``segments``, the PSNR of each at step 16; ``other_actions``, what the right actions gain there;
            ``probe``: mean over the labels of the probe's mean absolute error over that of always guessing the median.
        """
        curve, main = psnr(real(self.segments), made), min(MAIN, made.shape[1])  # (N, T)
        figures: dict[str, Any] = {"psnr": {str(step): round(float(curve[:, step - 1].mean()), 3) for step in self.steps}}
        figures["segments"] = [round(float(x), 3) for x in curve[:, main - 1]]
        if others is not None:
            wrong = psnr(real(self.segments)[:, main - 1], others[:, main - 1])  # (N,)
            figures["other_actions"] = round(float((curve[:, main - 1] - wrong).mean()), 3)
        if self.probe is not None:
            errors = {step: self._probe_errors(step, made) for step in self._probed()}
            figures["probe"] = {str(step): round(float(np.mean(list(one.values()))), 4) for step, one in errors.items()}
            figures["probe_by_label"] = {str(step): one for step, one in errors.items()}
        return figures

    def baselines(self) -> dict[str, Any]:
        """Return the figures of repeating the last frame, and of the real frames, which only the probe can err on."""
        return {"copy_last": self.judge(copy_last(self.segments)), "real": self.judge(real(self.segments))}

    def _probed(self) -> list[int]:
        steps = [step for step in PROBED if step <= len(self.segments[0].actions)]
        return steps or [len(self.segments[0].actions)]

    def _probe_errors(self, step: int, made: NDArray[np.uint8]) -> dict[str, float]:
        assert self.probe is not None
        last = np.stack([segment.context.frames[-1] for segment in self.segments])
        read = self.probe.read(pairs_at(step, last, made))  # (N, S)
        truth = np.stack([segment.state[step - 1] for segment in self.segments])  # (N, S)
        error, guess = np.abs(read - truth).mean(0), np.abs(truth - np.median(truth, axis=0)).mean(0)  # each (S,)
        return {name: round(float(error[i] / max(guess[i], 1e-6)), 4) for i, name in enumerate(self.names)}


def open_referee(
    store: EpisodeStore,
    *,
    work: Path,
    segments: int,
    horizon: int,
    context: int = 8,
    per_episode: int = 4,
    pairs: int = 8000,
    probe_steps: int = 1000,
) -> Referee:
    """Cut held-out segments as ``worldsim evaluate`` does, and train the probe on real frames, or read it where ``work`` holds it."""
    cut = cut_segments(store, split="heldout", context=context, horizon=horizon, per_episode=per_episode, limit=segments)
    names = tuple(store.info.state_names) if pairs else ()
    probe = None
    if names:
        file = work / f"probe-{store.info.fingerprint[:12]}-{pairs}-{probe_steps}.safetensors"
        probe = _read_probe(file, len(names)) if file.exists() else train_probe(draw_pairs(store, "train", pairs), steps=probe_steps)
        work.mkdir(parents=True, exist_ok=True)
        save_tensors(probe.state_dict(), file)
    return Referee(cut, names, probe, {"pairs": pairs, "steps": probe_steps})


def _read_probe(file: Path, labels: int) -> Probe:
    """Read a trained probe.

    Raises:
        ValueError: It is of another version.
    """
    probe = Probe(np.zeros(labels, np.float32), np.ones(labels, np.float32))
    try:
        probe.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise ValueError(f"{file} is a probe of another version: choose another --work, so that all are judged by one") from error
    return probe.eval()


def apart(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the differences of two lists, pair by pair, and its standard error."""
    difference = np.asarray(one) - np.asarray(other)
    error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
    return float(difference.mean()), error
