"""Writes ``tests/golden/oasis.safetensors``: inputs and outputs of the public Oasis code at tiny sizes, with the random weights used.

python benchmarks/oasis_golden.py --reference path/to/open-oasis
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from oasis_reference import draw_weights, generate, reference
from safetensors.torch import save_file
from torch import Tensor, nn

from worldsim.oasis.vae import SCALE

SIZES: dict[str, Any] = {
    "channels": 4,
    "grid": [4, 6],
    "patch": 2,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "window": 4,
    "frame_size": [16, 24],
    "vae_patch": 4,
    "encoder_depth": 1,
    "decoder_depth": 2,
    "sampling_steps": 4,
    "prompt_frames": 2,
    "frames": 8,
}
SEEDS = {"dit": 1, "vae": 2, "inputs": 3}


def build_dit(load: Any) -> nn.Module:
    """Build the public denoiser at tiny sizes with the weights of its seed."""
    height, width = SIZES["grid"]
    model: nn.Module = load("dit").DiT(
        input_h=height,
        input_w=width,
        patch_size=SIZES["patch"],
        in_channels=SIZES["channels"],
        hidden_size=SIZES["width"],
        depth=SIZES["depth"],
        num_heads=SIZES["heads"],
        max_frames=SIZES["window"],
    )
    draw_weights(model, torch.Generator().manual_seed(SEEDS["dit"]))
    return model.eval()


def build_vae(load: Any) -> nn.Module:
    """Build the public autoencoder at tiny sizes with the weights of its seed."""
    height, width = SIZES["frame_size"]
    model: nn.Module = load("vae").AutoencoderKL(
        latent_dim=SIZES["channels"],
        input_height=height,
        input_width=width,
        patch_size=SIZES["vae_patch"],
        enc_dim=SIZES["width"],
        enc_depth=SIZES["encoder_depth"],
        enc_heads=SIZES["heads"],
        dec_dim=SIZES["width"],
        dec_depth=SIZES["decoder_depth"],
        dec_heads=SIZES["heads"],
    )
    draw_weights(model, torch.Generator().manual_seed(SEEDS["vae"]))
    return model.eval()


@torch.no_grad()
def golden(load: Any) -> dict[str, Tensor]:
    """Return weights, inputs and outputs."""
    random = torch.Generator().manual_seed(SEEDS["inputs"])
    dit, vae = build_dit(load), build_vae(load)
    (height, width), (rows, columns), channels = SIZES["frame_size"], SIZES["grid"], SIZES["channels"]
    latents = torch.randn(2, 3, channels, rows, columns, generator=random)
    steps = torch.randint(0, 1000, (2, 3), generator=random)
    actions = torch.rand(2, 3, 25, generator=random)
    pictures = torch.rand(2, 3, height, width, generator=random) * 2 - 1
    codes = torch.randn(2, rows * columns, channels, generator=random)
    prompt = torch.randint(0, 256, (SIZES["prompt_frames"], height, width, 3), generator=random, dtype=torch.uint8)
    driven = torch.rand(SIZES["frames"], 25, generator=random)
    driven[0] = 0
    made = generate(
        load,
        partial(build_dit, load),
        partial(build_vae, load),
        prompt=prompt.permute(0, 3, 1, 2) / 255,
        actions=driven,
        steps=SIZES["sampling_steps"],
        frames=SIZES["frames"],
    )
    return {
        **{f"dit.{name}": value for name, value in _unshared(dit).items()},
        **{f"vae.{name}": value for name, value in vae.state_dict().items()},
        "forward.latents": latents,
        "forward.steps": steps,
        "forward.actions": actions,
        "forward.v": dit(latents, steps, actions),
        "vae_io.frames": pictures,
        "vae_io.mean": vae.encode(pictures).mean,
        "vae_io.codes": codes,
        "vae_io.decoded": vae.decode(codes),
        "rollout.prompt": prompt,
        "rollout.actions": driven,
        "rollout.noises": made.noises,
        "rollout.latents": made.latents.transpose(1, 2).unflatten(2, (rows, columns)) * SCALE,
        "rollout.frames": made.frames,
    }


def _unshared(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with frequencies once, under the name that they have in the published file."""
    kept = {"blocks.0.s_attn.rotary_emb.freqs", "blocks.0.t_attn.rotary_emb.freqs"}
    return {name: value for name, value in module.state_dict().items() if not name.endswith("freqs") or name in kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="checkout of github.com/etched-ai/open-oasis")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests" / "golden" / "oasis.safetensors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with reference(options.reference) as load:
        tensors = {name: value.contiguous() for name, value in golden(load).items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"sizes": json.dumps(SIZES), "seeds": json.dumps(SEEDS), "torch": torch.__version__.partition("+")[0], "reference": "f59deef"}
    save_file(tensors, options.out, metadata=about)
    print(f"{options.out}: {len(tensors)} tensors, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
