"""Hydra configs: the groups from which every command's settings are put together."""
