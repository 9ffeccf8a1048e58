"""A batched learned world without its infos, for libraries that cannot read nested ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium.vector import AutoresetMode, VectorWrapper
from numpy.typing import NDArray

_FINAL = ("final_obs", "_final_obs")


class WithoutInfos(VectorWrapper[Any, Any, Any, Any, Any]):
    """Keeps ``final_obs`` of the infos alone.

    TorchRL's ``GymWrapper`` takes the environment as it is with autoreset disabled, and through this with ``SameStep``.
    """

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The environment's; TorchRL asks for it here."""
        mode: AutoresetMode = self.env.metadata["autoreset_mode"]
        return mode

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes, without infos."""
        given: Any = seed
        return self.env.reset(seed=given, options=options)[0], {}

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Move every row one frame on; infos hold ``final_obs`` where rows ended and were started anew."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        return observations, rewards, terminated, truncated, {name: value for name, value in infos.items() if name in _FINAL}
