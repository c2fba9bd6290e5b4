"""Hydra configuration of `vla sft`."""
