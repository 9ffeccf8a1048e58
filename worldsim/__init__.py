"""worldsim: learned, action-conditioned video worlds as Gymnasium environments.

``import worldsim`` registers ``WorldSim-v0`` and the recordable sources; it imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from worldsim.model import WorldModel
    from worldsim.simulator import Simulator

__version__ = "0.1.0"
__all__ = ["Simulator", "WorldModel", "__version__"]

gymnasium.register(
    "WorldSim-v0", entry_point="worldsim.envs.world:WorldSimEnv", vector_entry_point="worldsim.envs.vector:WorldSimVectorEnv"
)
gymnasium.register("worldsim/CarRacing-v0", entry_point="worldsim.envs.sources.carracing:CarRacingSource")
gymnasium.register("worldsim/ViZDoom-v0", entry_point="worldsim.envs.sources.vizdoom:VizdoomSource")
gymnasium.register("worldsim/MetaWorld-v0", entry_point="worldsim.envs.sources.metaworld:MetaWorldSource")
gymnasium.register("worldsim/Minetest-v0", entry_point="worldsim.envs.sources.minetest:MinetestSource")
gymnasium.register("worldsim/Gym-v0", entry_point="worldsim.envs.sources.generic:GymSource")

_LAZY = {"WorldModel": "worldsim.model", "Simulator": "worldsim.simulator"}


def __getattr__(name: str) -> Any:
    """Import the torch side only when it is used."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'worldsim' has no attribute {name!r}")
