"""How well a tokenizer rebuilds held-out frames, and what it costs.

worldsim collect source.size=128 frames=30000 horizon=100 seed=128 out=data/carracing-128.worldsim
python benchmarks/tokenizer_quality.py --tokenizer benchmarks/results/tokenizer-small/tokenizer --data data/carracing-128.worldsim
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, describe, save
from PIL import Image

from worldsim.datasets.reader import EpisodeReader
from worldsim.evaluation.openloop import psnr, ssim
from worldsim.evaluation.report import table
from worldsim.evaluation.speed import count_flops, machine_facts
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.tokenizer_task import load_frames, reconstruct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    parser.add_argument("--data", required=True, help="dataset whose held-out frames are rebuilt")
    parser.add_argument("--training", default="", help="how it was trained, in words, for the report")
    parser.add_argument("--out", type=Path, default=RESULTS / "tokenizer-small")
    options = parser.parse_args()
    store = EpisodeReader(options.data)
    tokenizer: Any = FrameAutoencoder.from_pretrained(options.tokenizer).eval()
    real = load_frames(store, store.split("heldout"))
    made = reconstruct(tokenizer, real, batch_size=32)
    likeness, ratio = ssim(real, made), psnr(real, made)
    one = torch.zeros(1, 3, *store.info.frame_size)
    with torch.inference_mode():
        latents = tokenizer.encode(one)
        cost = {"encode": count_flops(lambda: tokenizer.encode(one)) / 1e9, "decode": count_flops(lambda: tokenizer.decode(latents)) / 1e9}
    figures = {
        "data": {"name": store.info.name, "fingerprint": store.info.fingerprint, "frames": len(real), "size": list(store.info.frame_size)},
        "latents": list(latents.shape[1:]),
        "psnr": {"mean": float(ratio.mean()), **{f"p{p}": float(np.percentile(ratio, p)) for p in (5, 50, 95)}},
        "ssim": float(likeness.mean()),
        "gflop_a_frame": cost,
        "training": options.training,
        "made": machine_facts(),
    }
    save("tokenizer", figures, text_of(figures), options.out)
    draw(options.out / "rebuilt.png", real, made)


def text_of(figures: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    data, quality, cost = figures["data"], figures["psnr"], figures["gflop_a_frame"]
    rows = [
        ["PSNR, mean", f"{quality['mean']:.2f} dB"],
        ["PSNR, 5th, 50th and 95th percentile", " / ".join(f"{quality[p]:.1f}" for p in ("p5", "p50", "p95")) + " dB"],
        ["SSIM, mean", f"{figures['ssim']:.3f}"],
        ["GFLOP a frame, encode / decode", f"{cost['encode']:.2f} / {cost['decode']:.2f}"],
    ]
    size, latents = ("x".join(map(str, numbers)) for numbers in (data["size"], figures["latents"]))
    head = [f"{data['frames']:,} held-out frames of `{data['name']}`, {size}", f"latents {latents}"]
    lines = [f"# A tokenizer for {size}\n", table(head, rows), figures["training"], "\n![Real above rebuilt frames.](rebuilt.png)\n"]
    return "\n".join([*lines, describe(figures["made"]), ""])


def draw(file: Path, real: np.ndarray[Any, Any], made: np.ndarray[Any, Any]) -> None:
    """Draw eight held-out frames above what they are rebuilt to."""
    chosen = np.linspace(0, len(real) - 1, 8).astype(int)
    Image.fromarray(np.concatenate([np.concatenate(list(frames[chosen]), axis=1) for frames in (real, made)])).save(file)


if __name__ == "__main__":
    main()
