"""Gymnasium environments: the learned world, and the real simulators that worlds are learned from."""
