"""Optimizers of the training loop: AdamW, and Muon for the matrices that Muon is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return trained parameters in two groups: matrices and kernels with weight decay, vectors without."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizer(module: nn.Module, name: str, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Build the optimizer of a module.

    Args:
        module: What is trained.
        name: ``adamw``, or ``muon``: Muon (Jordan et al. 2024) for the matrices inside blocks, AdamW for all else.
        lr: Peak learning rate.
        weight_decay: Decoupled, on matrices only.

    Raises:
        ValueError: The name is unknown, or the module has no matrices in blocks, or this torch has no Muon.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameter_groups(module, weight_decay), lr=lr, betas=(0.9, 0.99))
    if name != "muon":
        raise ValueError(f"loop.optimizer={name!r} is unknown: use {' or '.join(OPTIMIZERS)}")
    return MuonAdamW(module, lr=lr, weight_decay=weight_decay)


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return the trained matrices inside ``blocks``: what maps hidden states to hidden states, which Muon is made for."""
    return [p for name, p in module.named_parameters() if p.requires_grad and p.ndim == 2 and "blocks." in name]


class MuonAdamW(torch.optim.Optimizer):
    """Muon on hidden matrices and AdamW on embeddings, outputs, kernels and vectors, behind one learning rate.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training", equation 4), so that one
    rate serves both.

    Args:
        module: What is trained.
        lr: Learning rate of all.
        weight_decay: Decoupled, on matrices only.
    """

    def __init__(self, module: nn.Module, *, lr: float, weight_decay: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"loop.optimizer=muon needs torch 2.9 or later, this is {torch.__version__}: update it, or use adamw")
        hidden = hidden_matrices(module)
        if not hidden:
            raise ValueError(f"loop.optimizer=muon: {type(module).__name__} has no matrices in blocks to use it on; use adamw")
        chosen = {id(p) for p in hidden}
        rest = parameter_groups(module, weight_decay)
        for group in rest:
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99)),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and the state of the whole."""
        groups = list(self.param_groups)
        for part in self._parts:
            count = len(part.param_groups)
            part.param_groups, groups = groups[:count], groups[count:]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another one."""
        super().load_state_dict(state_dict)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters once."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss
