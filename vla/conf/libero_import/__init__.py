"""Hydra configuration of `vla libero import`."""
