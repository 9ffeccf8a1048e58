"""Drives a world from its own state readings and writes the drive as a GIF or WebP, several starts side by side.

python benchmarks/drive_gif.py --world carracing-nano --contexts 21 34 40 54 --megabytes 0.9 --out docs/drive.webp
python benchmarks/drive_gif.py --world metaworld-nano --policy hand --contexts 12 3 25 30 43 --columns 5 --steps 60 --scale 2 \
    --out docs/arm.webp
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import worldsim  # noqa: F401  (registers WorldSim-v0)
from worldsim.rollout import EpisodeJob, rollout
from worldsim.targets import instantiate_allowed

POLICIES = {
    "driver": {"_target_": "worldsim.policies.pursuit.PurePursuit", "speeds": [30, 45], "noises": [0.0], "weaving": 0.0, "lane": 0.0},
    "hand": {"_target_": "worldsim.policies.handling.Handling", "speeds": [0.8, 1.0]},
}


def drive(world: str, policy_name: str, *, starts: list[int | None], steps: int, seed: int) -> tuple[NDArray[np.uint8], float]:
    """Roll out one episode a start; return frames ``(B, steps + 1, H, W, 3)`` and their rate. One that ends holds its last frame."""
    env = gym.make_vec("WorldSim-v0", num_envs=len(starts), world=world, horizon=None)
    rate = float(env.metadata["render_fps"])
    policy = instantiate_allowed(POLICIES[policy_name], action_space=env.single_action_space)
    options = [{} if start is None else {"context": start} for start in starts]
    jobs = [EpisodeJob(i, seed + i, steps, options=own) for i, own in enumerate(options)]
    episodes = rollout(env, policy, jobs, state_names=env.unwrapped.rows.spec.state_names)  # type: ignore[attr-defined]
    env.close()
    held = [np.concatenate((e.frames, np.repeat(e.frames[-1:], steps + 1 - len(e.frames), axis=0))) for e in episodes]
    return np.stack(held), rate


def tile(frames: NDArray[np.uint8], *, columns: int, scale: int, gap: int = 4) -> list[Image.Image]:
    """Lay B rollouts side by side, enlarged by nearest neighbour; one picture a step."""
    b, _, height, width, _ = frames.shape
    lines = -(-b // columns)
    size = (columns * (width * scale + gap) - gap, lines * (height * scale + gap) - gap)
    sheets = []
    for moment in frames.swapaxes(0, 1):
        sheet = Image.new("RGB", size, "white")
        for i, frame in enumerate(moment):
            place = ((i % columns) * (width * scale + gap), (i // columns) * (height * scale + gap))
            sheet.paste(Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.NEAREST), place)
        sheets.append(sheet)
    return sheets


def encode(sheets: list[Image.Image], *, milliseconds: int, colours: int) -> bytes:
    """Write an endless GIF with one palette for all pictures: three quarters of it for what fills them, the rest for small things."""
    sample = sheets[:: max(1, len(sheets) // 16)]
    strip = Image.new("RGB", (sample[0].width, sample[0].height * len(sample)))
    for i, sheet in enumerate(sample):
        strip.paste(sheet, (0, i * sheet.height))
    palette, chosen = Image.new("P", (1, 1)), list[int]()
    for method, count in ((Image.Quantize.MEDIANCUT, colours - colours // 4), (Image.Quantize.MAXCOVERAGE, colours // 4)):
        chosen += (strip.quantize(count, method=method, dither=Image.Dither.NONE).getpalette() or [])[: 3 * count]
    palette.putpalette(chosen)
    pictures = [sheet.quantize(palette=palette, dither=Image.Dither.NONE) for sheet in sheets]
    out = io.BytesIO()
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True)
    return out.getvalue()


def encode_webp(sheets: list[Image.Image], *, milliseconds: int, quality: int) -> bytes:
    """Write an endless WebP: all colours in a fraction of a GIF's bytes."""
    out = io.BytesIO()
    sheets[0].save(out, "WEBP", save_all=True, append_images=sheets[1:], duration=milliseconds, loop=0, quality=quality, method=6)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="carracing-nano", help="shipped name or folder")
    parser.add_argument("--policy", choices=POLICIES, default="driver")
    parser.add_argument("--contexts", type=int, nargs="*", help="start contexts; default: drawn by the seed")
    parser.add_argument("--rows", type=int, default=4, help="rollouts, where no contexts are named")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="keep every n-th frame")
    parser.add_argument("--megabytes", type=float, default=4.0, help="size limit; quality or colours are given up for it")
    parser.add_argument("--out", type=Path, default=Path("drive.gif"))
    options = parser.parse_args()

    starts = list(options.contexts) if options.contexts else [None] * options.rows
    frames, rate = drive(options.world, options.policy, starts=starts, steps=options.steps, seed=options.seed)
    sheets = tile(frames[:, :: options.every], columns=min(options.columns, len(starts)), scale=options.scale)
    webp, data = options.out.suffix == ".webp", b""
    pause = round(1000 * options.every / rate)
    for level in (95, 85, 75, 60, 45) if webp else (256, 128, 64, 32, 16):
        data = encode_webp(sheets, milliseconds=pause, quality=level) if webp else encode(sheets, milliseconds=pause, colours=level)
        if len(data) <= options.megabytes * 1e6:
            break
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(data)
    told = f"{level} {'% quality' if webp else 'colours'}, {len(data) / 1e6:.2f} MB"
    print(f"{options.out}: {len(sheets)} pictures of {sheets[0].width}x{sheets[0].height}, {told}")


if __name__ == "__main__":
    main()
