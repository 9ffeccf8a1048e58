"""Runs a checkout of the public Oasis code (github.com/etched-ai/open-oasis) as it is; it needs timm, einops and torchvision.

Seen with commit f59deef. Nothing of it is kept here: it is imported from the folder that the user names.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

MODULES = ("attention", "dit", "generate", "rotary_embedding_torch", "utils", "vae")


@dataclass(frozen=True)
class Generated:
    """What a run of the public generation script gave.

    Attributes:
        noises: ``(N, C, h, w)`` that the N new frames started from.
        latents: ``(T, C, h, w)`` of all frames, prompt first.
        frames: ``(T, H, W, 3)`` uint8 of all frames.
    """

    noises: Tensor
    latents: Tensor
    frames: Tensor


@contextmanager
def reference(checkout: Path) -> Iterator[Callable[[str], Any]]:
    """Give a function that imports a module of the checkout by name.

    Raises:
        SystemExit: The folder is no such checkout.
    """
    if not all((checkout / f"{name}.py").is_file() for name in MODULES):
        raise SystemExit(f"{checkout} is no checkout of open-oasis: it lacks one of {', '.join(f'{name}.py' for name in MODULES)}")
    import torchvision.io

    for name in ("read_image", "read_video", "write_video"):  # imported there, unused here, and gone from newer torchvision
        if not hasattr(torchvision.io, name):
            setattr(torchvision.io, name, None)
    sys.path.insert(0, str(checkout))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(checkout))
        for name in MODULES:
            sys.modules.pop(name, None)


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Make every weight random, gates and output layers too, so that all of them show in the output."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("freqs"):
                continue
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(0.7 * drawn / weight[0].numel() ** 0.5)
            else:
                weight.copy_(0.1 * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def generate(
    load: Callable[[str], Any],
    dit: Callable[[], nn.Module],
    vae: Callable[[], nn.Module],
    *,
    prompt: Tensor,
    actions: Tensor,
    steps: int,
    frames: int,
) -> Generated:
    """Run the public generation script on CPU in float32, with other models, prompt and actions than it would load from its files.

    Args:
        load: From ``reference``.
        dit: Builds the denoiser, always with the same weights.
        vae: Builds the autoencoder, likewise.
        prompt: ``(F, 3, H, W)`` in [0, 1].
        actions: ``(frames, 25)``, the action that led to each frame.
        steps: Denoising steps.
        frames: Frames in all.
    """
    noises: list[Tensor] = []
    latents: list[Tensor] = []
    written: list[Tensor] = []
    draw = torch.randn

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        drawn = draw(*args, **kwargs)
        if drawn.ndim == 5:  # (1, 1, C, h, w); weights are drawn too
            noises.append(drawn.clone())
        return drawn

    def watched() -> nn.Module:
        model: Any = vae()
        decode = model.decode

        def decoded(z: Tensor) -> Tensor:
            latents.append(z.clone())
            return decode(z)

        model.decode = decoded
        return model  # type: ignore[no-any-return]

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        with mock.patch.object(torch.cuda, "is_available", return_value=True):  # it refuses to be imported otherwise
            script = load("generate")
        files = Path(folder) / "dit.safetensors", Path(folder) / "vae.safetensors"
        save_model(dit(), str(files[0]))
        save_model(vae(), str(files[1]))
        replaced: dict[str, Any] = {
            "device": "cpu",
            "DiT_models": dict.fromkeys(script.DiT_models, dit),
            "VAE_models": dict.fromkeys(script.VAE_models, watched),
            "load_prompt": lambda *_, **__: prompt[None],
            "load_actions": lambda *_, **__: actions[None],
            "write_video": lambda _, video, **__: written.append(video),
        }
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(script, name, value))
        options = {"oasis_ckpt": str(files[0]), "vae_ckpt": str(files[1]), "n_prompt_frames": len(prompt), "num_frames": frames}
        options |= {"ddim_steps": steps, "prompt_path": "", "actions_path": "", "output_path": "", "video_offset": None, "fps": 20}
        stack.enter_context(mock.patch.object(torch, "randn", recorded))
        script.main(argparse.Namespace(**options))
    return Generated(torch.cat(noises)[:, 0], latents[0], written[0])
