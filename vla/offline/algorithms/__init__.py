"""Offline RL algorithms, a file each; `vla.offline.algorithms.algorithm` is what they have in common."""
