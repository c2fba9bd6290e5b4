"""Hydra configuration of `vla demo`."""
