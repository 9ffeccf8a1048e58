"""WorldModel: tokenizer, dynamics, heads and spec of one trained world, from a folder and back to it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from worldsim.checkpoint import content_hash, load_component, read_files, resolve, save_component
from worldsim.contexts import Contexts
from worldsim.dit import VideoDiT
from worldsim.heads import Heads
from worldsim.spec import WorldSpec
from worldsim.tokenizer import FrameAutoencoder

_CACHE: dict[tuple[str, str, torch.dtype], WorldModel] = {}


class WorldModel(nn.Module):
    """One learned world.

    Args:
        tokenizer: Frames to latents and back.
        dynamics: Latents and actions to the next latents.
        heads: Reward, end and state.
        spec: What it is.
        contexts: Clips that rollouts start from.
        fingerprint: sha256 over the files it was loaded from; empty for one that was not.
    """

    def __init__(
        self, tokenizer: FrameAutoencoder, dynamics: VideoDiT, heads: Heads, spec: WorldSpec, contexts: Contexts, *, fingerprint: str = ""
    ) -> None:
        super().__init__()
        self.tokenizer, self.dynamics, self.heads = tokenizer, dynamics, heads
        self.spec, self.contexts, self.fingerprint = spec, contexts, fingerprint

    @staticmethod
    def from_pretrained(name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> WorldModel:
        """Load a world, once per process for each content, device and dtype.

        Args:
            name: A shipped world such as ``carracing-nano``, a folder, or a Hub repository.
            device: Where to put it.
            dtype: Weights' type.

        Returns:
            The world in evaluation mode. It is shared: do not train it in place.

        Raises:
            ValueError: There is no such world, a file of it is missing or altered, or the device is not there.
        """
        folder = resolve(name)
        place = _device(device)
        fingerprint = content_hash(folder)
        key = (fingerprint, str(place), dtype)
        if key not in _CACHE:
            _CACHE[key] = _load(folder, fingerprint).to(device=place, dtype=dtype).eval().requires_grad_(False)
        return _CACHE[key]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the world to ``folder``: one sub-folder a component, the contexts, and ``world.json`` last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer", "dynamics", "heads"):
            save_component(getattr(self, name), folder / name)
        self.contexts.save(folder)
        self.spec.save(folder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dynamics.place.device


def _device(device: str | torch.device) -> torch.device:
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees no GPU here: use device='cpu'")
    return place


def _load(folder: Path, fingerprint: str) -> WorldModel:
    read_files(folder)
    spec = WorldSpec.load(folder)
    return WorldModel(
        load_component(FrameAutoencoder, folder / "tokenizer"),
        load_component(VideoDiT, folder / "dynamics"),
        load_component(Heads, folder / "heads"),
        spec,
        Contexts.load(folder),
        fingerprint=fingerprint,
    )
