"""Hydra configuration of `vla train`."""
