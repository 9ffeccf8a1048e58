"""Measuring worlds: open loop, state, reward, endings, speed, and the model card."""
