"""What a frame of Oasis-500M costs with a cache of keys and values, beside the public code on the same random weights.

python benchmarks/oasis_speed.py --reference path/to/open-oasis
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from common import RESULTS, describe, save, spread
from oasis_reference import draw_weights, reference
from torch import Tensor, nn

from worldsim.evaluation.report import table
from worldsim.evaluation.speed import count_flops, machine_facts, peak_memory_mb
from worldsim.oasis import OasisDiT, OasisRollout, OasisVAE, OasisWorld, action_row
from worldsim.oasis.sampler import CONTEXT_STEP, ddim, ladder

FULL_STEPS = 10
T = TypeVar("T")


class Peer:
    """The public networks, holding the very weights of our world, for one frame at a full window."""

    def __init__(self, load: Callable[[str], Any], rollout: OasisRollout) -> None:
        self.dit: nn.Module = load("dit").DiT_models["DiT-S/2"]().eval()
        self.vae: Any = load("vae").VAE_models["vit-l-20-shallow-encoder"]().eval()
        self.dit.load_state_dict(rollout.world.dit.state_dict(), assign=True)
        self.vae.load_state_dict(rollout.world.vae.state_dict(), assign=True)
        self.context = rollout.latents[None].clone()  # (1, 31, C, h, w)

    @torch.no_grad()
    def denoise(self, noise: Tensor, action: Tensor, steps: int) -> Tensor:
        """Make latents ``(1, 1, C, h, w)`` by its denoiser over the whole window in every step."""
        frames = self.context.shape[1]
        actions = torch.cat((torch.zeros(1, frames, len(action)), action[None, None]), dim=1)

        def predict(x: Tensor, i: int) -> Tensor:
            labels = torch.tensor([[CONTEXT_STEP] * frames + [ladder(steps)[i]]])
            v: Tensor = self.dit(torch.cat((self.context, x), dim=1), labels, actions)[:, -1:]
            return v

        return ddim(predict, noise, steps=steps)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> None:
        """Decode one frame ``(1, 1, C, h, w)``."""
        self.vae.decode(latents[0].flatten(2).transpose(1, 2))


def build_world(seed: int) -> OasisWorld:
    """Build Oasis-500M with random weights; prompts are not encoded but drawn, which costs no time and changes none."""
    world = OasisWorld(OasisDiT(), OasisVAE())
    draw_weights(world, torch.Generator().manual_seed(seed))
    random = torch.Generator().manual_seed(seed + 1)
    shape = world.vae.latent_shape
    world.vae.encode = lambda frames: torch.randn(len(frames), *shape, generator=random)  # type: ignore[method-assign]
    return world.eval().requires_grad_(False)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return seconds on the clock and seconds of this process on its core."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="checkout of github.com/etched-ai/open-oasis")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps that both sides are timed with")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds, of which medians are taken")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with reference(options.reference) as load:
        figures = compare(load, steps=options.steps, rounds=options.rounds)
    save("oasis_speed", figures, _text(figures), options.out)


def compare(load: Callable[[str], Any], *, steps: int, rounds: int) -> dict[str, Any]:
    """Time both sides, one after another in every round, and return the figures."""
    world = build_world(seed=0)
    rows, columns = world.spec.frame_size
    prompt = np.zeros((world.spec.window - 1, rows, columns, 3), np.uint8)
    few, full = (OasisRollout(world, prompt, steps=n) for n in (steps, FULL_STEPS))
    peer, row = Peer(load, few), action_row("forward", camera=(0.1, -0.2))
    noise = torch.randn(1, 1, *world.vae.latent_shape, generator=torch.Generator().manual_seed(2))
    given, started = torch.from_numpy(row), machine_facts()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ("peer", "few", "full", "peer_decode", "decode")}
    flops: dict[str, int] = {}
    apart, deviation = 0.0, 0.0

    def measure(name: str, call: Callable[[], T]) -> T:
        """Time a call; in the first round count its operations too, which takes no time beside them."""
        results: list[T] = []
        if name not in flops:
            flops[name] = count_flops(lambda: taken[name].append(timed(lambda: results.append(call()))))
        else:
            taken[name].append(timed(lambda: results.append(call())))
        print(f"{name}: {taken[name][-1][0]:.1f} s on the clock, {taken[name][-1][1]:.1f} s of CPU", flush=True)
        return results[0]

    for _ in range(rounds):
        fresh = few.clone(), full.clone()  # at a full window that has not slid yet
        made = measure("few", partial(fresh[0].step_latents, row, noise=noise[0, 0]))
        other = measure("peer", partial(peer.denoise, noise, given, steps))[0, 0]
        apart, deviation = max(apart, float((made - other).abs().max())), float(other.std())
        measure("full", partial(fresh[1].step_latents, row, noise=noise[0, 0]))
        measure("decode", partial(few.decode, made))
        measure("peer_decode", partial(peer.decode, other[None, None]))
    return {
        "made": started,
        "load_after": machine_facts()["load"],
        "rounds": rounds,
        "steps": steps,
        "window": world.spec.window,
        "largest_difference_of_latents": apart,
        "latents_std": round(deviation, 3),
        "tflop_a_frame": {
            "peer": _tera(flops["peer"] + flops["peer_decode"]),
            "ours": _tera(flops["few"] + flops["decode"]),
            "peer_full": _tera(FULL_STEPS * flops["peer"] // steps + flops["peer_decode"]),
            "ours_full": _tera(flops["full"] + flops["decode"]),
        },
        "seconds_a_frame": {clock: _frames(taken, which, steps) for which, clock in enumerate(("wall", "cpu"))},
        "peak_memory_mb": round(peak_memory_mb()),
    }


def _frames(taken: dict[str, list[tuple[float, float]]], which: int, steps: int) -> dict[str, Any]:
    """Put frames together from their parts, round by round, on one of the two clocks."""
    part = {name: [pair[which] for pair in pairs] for name, pairs in taken.items()}
    peer = [a + b for a, b in zip(part["peer"], part["peer_decode"], strict=True)]
    ours = [a + b for a, b in zip(part["few"], part["decode"], strict=True)]
    peer_full = [a * FULL_STEPS / steps + b for a, b in zip(part["peer"], part["peer_decode"], strict=True)]
    ours_full = [a + b for a, b in zip(part["full"], part["decode"], strict=True)]
    return {
        "peer": spread(peer),
        "ours": spread(ours),
        "peer_full": spread(peer_full),
        "ours_full": spread(ours_full),
        "ratio": round(statistics.median(a / b for a, b in zip(peer, ours, strict=True)), 1),
        "ratio_full": round(statistics.median(a / b for a, b in zip(peer_full, ours_full, strict=True)), 1),
    }


def _tera(flops: int) -> float:
    return round(flops / 1e12, 3)


def _text(figures: dict[str, Any]) -> str:
    seconds, flops, steps = figures["seconds_a_frame"], figures["tflop_a_frame"], figures["steps"]

    few = "1 step" if steps == 1 else f"{steps} steps"

    def row(said: str, name: str) -> list[str]:
        wall, cpu = seconds["wall"][name], seconds["cpu"][name]
        return [said, f"{wall['median']:.1f}", f"{wall['low']:.1f} to {wall['high']:.1f}", f"{cpu['median']:.1f}", f"{flops[name]:.3f}"]

    def ratio(suffix: str) -> list[str]:
        work = flops[f"peer{suffix}"] / flops[f"ours{suffix}"]
        wall, cpu = (seconds[clock][f"ratio{suffix}"] for clock in ("wall", "cpu"))
        return ["**times less**", f"**{wall:.1f}×**", "", f"**{cpu:.1f}×**", f"**{work:.1f}×**"]

    rows = [
        row(f"open-oasis, {few}", "peer"),
        row(f"worldsim, {few}", "ours"),
        ratio(""),
        row(f"open-oasis, {FULL_STEPS} steps (its default), from {few}", "peer_full"),
        row(f"worldsim, {FULL_STEPS} steps", "ours_full"),
        ratio("_full"),
    ]
    after = "/".join(f"{x:.1f}" for x in figures["load_after"])
    return "\n".join(
        [
            "# A frame of Oasis-500M at a full window\n",
            f"{describe(figures['made'])} Load average afterwards {after}. Medians of {figures['rounds']} interleaved rounds, "
            "ratios taken within rounds.\n",
            table(["", "s a frame", "range", "s of CPU", "TFLOP a frame"], rows),
            f"- Both run the same random weights in float32 on one frame with {figures['window'] - 1} before it, decoding included. Random "
            "weights say nothing of pictures, and cost what trained ones cost.",
            f"- Latents of the frame differ by at most {figures['largest_difference_of_latents']:.1e} between the two "
            f"(their standard deviation is {figures['latents_std']}).",
            "- open-oasis: its networks, unchanged, called as its script calls them. Every one of its denoising steps is the same pass "
            f"over the window, so {FULL_STEPS} steps are {FULL_STEPS / steps:g} times the {steps} measured. worldsim: both measured.",
            '- worldsim: `OasisRollout(cache="stream")`, its pass that remembers the frame included. TFLOP count products, convolutions '
            "and attention; causal attention counts in full on both sides.",
            "- On a machine that does other work besides, seconds of CPU are the fairer clock.",
            f"- Peak memory of the process, both sides together: {figures['peak_memory_mb']} MB.\n",
        ]
    )


if __name__ == "__main__":
    main()
