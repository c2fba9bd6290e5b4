"""Hydra configuration of `vla libero`."""
