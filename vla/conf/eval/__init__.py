"""Hydra configuration of `vla eval`."""
