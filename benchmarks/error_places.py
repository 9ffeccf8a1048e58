"""Where the error of imagined roads lies: in what was seen or in what comes into view, in where things are or in how they look.

python benchmarks/error_places.py --world carracing-nano --data data/carracing.worldsim

CarRacing is seen from straight above, so all but the car and the panel moves as one rigid picture. Its motion between successive real
frames is found by least squares on their pixels (Lucas and Kanade 1981, here with Adam), and composed from the last context frame on.
That tells which pixels show what the context's last frame had shown, and what a frame would be like if these were carried along exactly.
Likewise, imagined frames are moved to where they fit the real ones best: what is gained so was an error of place, or at most that, for
three numbers are fitted to each frame.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, describe, save
from torch import Tensor
from torch.nn import functional as F

from worldsim.datasets.reader import EpisodeReader
from worldsim.evaluation.openloop import cut_segments, imagine, real
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import machine_facts
from worldsim.model import WorldModel
from worldsim.simulator import Simulator

STEPS = (1, 4, 8, 16)
SIDE, PANEL = 64, 55  # pixels; first row of the panel
CAR = (slice(42, 54), slice(27, 37))  # rows and columns of the car
PIVOT = (31.5, 47.5)  # the car's place, round which the picture turns
SIZES = (0.02, 0.5, 0.5)  # of a step of the search: radians, pixels across, pixels down


def places() -> tuple[Tensor, Tensor]:
    """Return columns and rows of all pixels from the pivot, each ``(64, 64)``."""
    rows, columns = torch.meshgrid(torch.arange(SIDE) - PIVOT[1], torch.arange(SIDE) - PIVOT[0], indexing="ij")
    return columns, rows


def ground() -> Tensor:
    """Return 1 where a pixel shows neither the panel nor the car, ``(64, 64)``."""
    mask = torch.ones(SIDE, SIDE)
    mask[PANEL:] = 0
    mask[CAR] = 0
    return mask


def matrices(motion: Tensor) -> Tensor:
    """Return ``(..., 3, 3)`` for angle, columns and rows ``(..., 3)``: where what a pixel shows was before."""
    angle, across, down = motion.unbind(-1)
    none, one = torch.zeros_like(angle), torch.ones_like(angle)
    turned = (angle.cos(), -angle.sin(), across, angle.sin(), angle.cos(), down, none, none, one)
    return torch.stack(turned, -1).unflatten(-1, (3, 3))


def carried(frames: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Move frames ``(N, 3, 64, 64)`` by ``(N, 3, 3)``; also return 1 where a pixel was on the ground of the frame, ``(N, 64, 64)``."""
    columns, rows = places()
    spots = torch.stack((columns, rows, torch.ones_like(rows)), -1)  # (64, 64, 3)
    there = torch.einsum("nij,hwj->nhwi", matrix, spots)[..., :2] + torch.tensor(PIVOT)  # (N, 64, 64, 2)
    moved = F.grid_sample(frames, (there + 0.5) * 2 / SIDE - 1, mode="bilinear", padding_mode="border", align_corners=False)
    inside = (there > 0).all(-1) & (there[..., 0] < SIDE - 1) & (there[..., 1] < PANEL - 1)  # (N, 64, 64)
    return moved, inside.float() * ground()


def best_motion(frames: Tensor, target: Tensor, *, steps: int = 120) -> Tensor:
    """Return the motions ``(N, 3)`` of frames that fit a target best on its ground, both ``(N, 3, 64, 64)``; none is the first try."""
    found = torch.zeros(len(frames), 3, requires_grad=True)
    optimizer, sizes, mask = torch.optim.Adam([found], 0.2), torch.tensor(SIZES), ground()
    best, least = torch.zeros(len(frames), 3), torch.full((len(frames),), float("inf"))
    for _ in range(steps):
        error = ((carried(frames, matrices(found * sizes))[0] - target).square().mean(1) * mask).mean((1, 2))  # (N,)
        better = error.detach() < least
        best[better], least[better] = found.detach()[better], error.detach()[better]
        optimizer.zero_grad()
        torch.log(error + 1e-6).sum().backward()
        optimizer.step()
    return best * sizes


def decibels(error: Tensor) -> float:
    """Return the mean PSNR of squared errors ``(N, 64, 64)`` of frames in 0..1."""
    return float((-10 * torch.log10(error.mean((1, 2)).clamp(min=1e-7))).mean())


def at_step(truth: Tensor, made: Tensor, first: Tensor, motion: Tensor) -> dict[str, float]:
    """Return the figures of one step: frames ``(N, 3, 64, 64)`` that happened, that were imagined, that came last, and from there on."""
    shown, seen = carried(first, motion)
    error = (made - truth).square().mean(1)  # (N, 64, 64)
    exact = torch.where(seen.bool(), (shown - truth).square().mean(1), error)
    offset = best_motion(made, truth)
    placed = torch.where(ground().bool(), carried(made, matrices(offset))[0], made)
    whole = error.mean((1, 2))  # (N,)
    areas = {"seen": seen, "new": ground() * (1 - seen), "panel and car": (1 - ground()).expand_as(seen)}
    shares = {f"{name}, of the error": float(((error * area).mean((1, 2)) / whole).mean()) for name, area in areas.items()}
    return shares | {
        "seen, of the pixels": float(seen.mean()),
        "psnr": decibels(error),
        "psnr, seen parts carried": decibels(exact),
        "psnr, placed": decibels((placed - truth).square().mean(1)),
        "turned by": float(offset[:, 0].abs().median()),
        "across by": float(offset[:, 1].abs().median()),
        "along by": float(offset[:, 2].abs().median()),
    }


def measure(world: WorldModel, store: EpisodeReader, *, segments: int) -> dict[int, dict[str, float]]:
    """Return the figures of each of ``STEPS``."""
    cut = cut_segments(store, split="heldout", context=8, horizon=max(STEPS), per_episode=4, limit=segments)
    first = np.stack([segment.context.frames[-1] for segment in cut])  # (N, 64, 64, 3)
    arrays = (first[:, None], real(cut), imagine(Simulator(world), cut).frames)
    before, truth, made = (torch.from_numpy(one).movedim(-1, 2).float() / 255 for one in arrays)  # (N, T, 3, 64, 64)
    whole, motion, figures = torch.cat((before, truth), 1), torch.eye(3).repeat(len(cut), 1, 1), dict[int, dict[str, float]]()
    for t in range(1, max(STEPS) + 1):
        motion = motion @ matrices(best_motion(whole[:, t - 1], whole[:, t]))
        if t in STEPS:
            figures[t] = at_step(truth[:, t - 1], made[:, t - 1], before[:, 0], motion)
            print(f"step {t}: {figures[t]}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano")
    parser.add_argument("--data", type=Path, required=True, help="dataset that the world was learned from")
    parser.add_argument("--segments", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "carracing-nano")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = WorldModel.from_pretrained(args.world)
    found = measure(world, EpisodeReader(args.data), segments=args.segments)
    figures: dict[str, Any] = {"made": machine_facts(), "world": world.spec.name, "sha256": world.fingerprint, "steps": found}
    names = [name for name in found[1] if not name.endswith(" by")]
    rows = [[name, *(f"{x[name]:.2f}" if name.startswith("psnr") else f"{x[name]:.0%}" for x in found.values())] for name in names]
    off = [f"{x['turned by']:.3f} / {np.hypot(x['across by'], x['along by']):.2f}" for x in found.values()]
    rows.append(["wrong place, median: radians / pixels", *off])
    text = f"# Where the error lies: {world.spec.name}\n\n{describe(figures['made'])} {args.segments} held-out segments.\n\n"
    save("error_places", figures, text + table(["", *(f"step {t}" for t in found)], rows), args.out)


if __name__ == "__main__":
    main()
