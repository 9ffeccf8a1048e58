"""Policies: what chooses actions for a world or a simulator, a batch of rows at a time."""

from __future__ import annotations

from worldsim.policies.braking import Braking
from worldsim.policies.camera import RoadCamera
from worldsim.policies.explorer import Explorer
from worldsim.policies.handling import Handling
from worldsim.policies.manipulation import MetaWorldExpert, Reaching
from worldsim.policies.noise import ActionNoise
from worldsim.policies.pursuit import PurePursuit
from worldsim.policies.random import RandomPolicy
from worldsim.policies.recorded import RecordedPolicy

__all__ = [
    "ActionNoise",
    "Braking",
    "Explorer",
    "Handling",
    "MetaWorldExpert",
    "PurePursuit",
    "RandomPolicy",
    "Reaching",
    "RecordedPolicy",
    "RoadCamera",
]
