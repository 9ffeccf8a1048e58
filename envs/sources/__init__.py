"""Simulators that episodes are recorded from, each a Gymnasium environment with labelled state and conditioning in its infos."""
