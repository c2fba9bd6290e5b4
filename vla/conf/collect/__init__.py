"""Hydra configuration of `vla collect`."""
