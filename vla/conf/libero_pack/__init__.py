"""Hydra configuration of `vla libero pack`."""
