"""Oasis weights on disk: where they are, what sizes they have, and modules filled with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worldsim.oasis.dit import OasisDiT
from worldsim.oasis.rotary import pixel_frequencies, time_frequencies
from worldsim.oasis.vae import OasisVAE
from worldsim.spec import OASIS

NAME = OASIS
REPOSITORY = "Etched/oasis-500m"
FILES = ("oasis500m.safetensors", "vit-l-20.safetensors")
"""Denoiser and autoencoder, as the Hub repository names them."""


def find_weights(folder: str | Path | None = None) -> tuple[Path, Path]:
    """Return the files of ``oasis-500m``: denoiser and autoencoder. Nothing is downloaded, since access is granted by name.

    Args:
        folder: Where the two files are; None looks in the Hub's cache on this machine (``HF_HOME``).

    Raises:
        ValueError: A file is not there; says how to get it.
    """
    found = [_cached(file) if folder is None else Path(folder) / file for file in FILES]
    missing = [file for file, path in zip(FILES, found, strict=True) if path is None or not path.is_file()]
    if missing:
        where = "the Hub's cache" if folder is None else str(folder)
        raise ValueError(
            f"world {NAME!r}: {' and '.join(missing)} not found in {where}; accept the terms at https://huggingface.co/{REPOSITORY}, "
            f"run 'hf auth login' and 'hf download {REPOSITORY} {' '.join(FILES)}', then try again"
        )
    dit, vae = found
    assert dit is not None, "it was found above"
    assert vae is not None, "it was found above"
    return dit, vae


def _cached(file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(REPOSITORY, file)
    return Path(path) if isinstance(path, str) else None


def load_dit(file: Path, *, head_dim: int, dtype: torch.dtype) -> OasisDiT:
    """Build a denoiser of the sizes that ``file`` has, and fill it.

    Rotary frequencies may be there under any of their names, or not at all.

    Raises:
        ValueError: The file is missing, damaged, pickled, or holds something else.
    """
    tensors = _read(file, "x_embedder.proj.weight", "denoiser")
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    depth = _count(tensors, "blocks")
    with torch.device("meta"):
        dit = OasisDiT(
            channels=channels,
            patch=patch,
            width=width,
            depth=depth,
            heads=_heads(width, head_dim, file),
            actions=_size(tensors, "external_cond.weight", 1, file),
            mlp_ratio=_size(tensors, "blocks.0.s_mlp.fc1.weight", 0, file) / width,
        )
    for kind, fallback in (("s", pixel_frequencies(head_dim // 4, 256.0)), ("t", time_frequencies(head_dim // 2))):
        names = [f"{'spatial' if kind == 's' else 'temporal'}_rotary_emb.freqs"]
        names += [f"blocks.{i}.{kind}_attn.rotary_emb.freqs" for i in range(depth)]
        given = next((tensors[name] for name in names if name in tensors), fallback)
        tensors.update(dict.fromkeys(names, given))
    _fill(dit, tensors, file, dtype)
    return dit


def load_vae(file: Path, *, frame_size: tuple[int, int], head_dim: int, dtype: torch.dtype) -> OasisVAE:
    """Build an autoencoder of the sizes that ``file`` has, and fill it.

    Raises:
        ValueError: As ``load_dit``.
    """
    tensors = _read(file, "patch_embed.proj.weight", "autoencoder")
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    with torch.device("meta"):
        vae = OasisVAE(
            frame_size=frame_size,
            channels=_size(tensors, "post_quant_conv.weight", 1, file),
            patch=patch,
            width=width,
            encoder_depth=_count(tensors, "encoder"),
            decoder_depth=_count(tensors, "decoder"),
            heads=_heads(width, head_dim, file),
            mlp_ratio=_size(tensors, "decoder.0.mlp.fc1.weight", 0, file) / width,
        )
    _fill(vae, tensors, file, dtype)
    return vae


def _read(file: Path, mark: str, what: str) -> dict[str, Tensor]:
    """Read all tensors, and make sure by the name ``mark`` that they are an Oasis ``what``."""
    if not file.is_file():
        raise ValueError(f"Oasis {what} {file} is not there: give the path of its .safetensors file")
    if file.suffix != ".safetensors":
        raise ValueError(f"Oasis {what} {file} is no .safetensors file: pickled weights can run code and are not read; convert them first")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"Oasis {what} {file} is truncated or damaged ({error}): download it again") from error
    if mark not in tensors:
        raise ValueError(f"{file} is no Oasis {what}: it has no tensor {mark!r}; the order is denoiser, then autoencoder")
    return tensors


def _size(tensors: Mapping[str, Tensor], name: str, axis: int, file: Path) -> int:
    if name not in tensors:
        raise ValueError(f"{file} is incomplete: it has no tensor {name!r}; download it again")
    return tensors[name].shape[axis]


def _heads(width: int, head_dim: int, file: Path) -> int:
    if head_dim < 8 or head_dim % 8 or width % head_dim:
        raise ValueError(f"head_dim={head_dim} must be a multiple of 8 that divides the width {width} of {file}; Oasis-500M has 64")
    return width // head_dim


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{prefix}.")})


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], file: Path, dtype: torch.dtype) -> None:
    """Put the tensors in place of the module's, as ``dtype``; frequencies stay float32."""
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{file} is altered: {name} has values that are not finite; download it again")
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    wrong = [name for name in [*own, *given] if own.get(name) != given.get(name)]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{file} does not fit an Oasis model of its sizes: {name} should be {own.get(name, 'absent')}, "
            f"is {given.get(name, 'absent')}; check head_dim, or download it again"
        )
    typed = {name: value.to(torch.float32 if name.endswith(".freqs") else dtype) for name, value in tensors.items()}
    module.load_state_dict(typed, assign=True)
