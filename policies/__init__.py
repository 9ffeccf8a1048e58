"""Policies: what chooses actions for a world or a simulator, a batch of rows at a time."""

from __future__ import annotations

from worldsim.policies.pursuit import PurePursuit

__all__ = ["PurePursuit"]
