"""Hydra configuration of `vla bench reward`."""
