"""Hydra configuration of `vla pretrain`."""
