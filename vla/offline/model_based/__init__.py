"""Offline RL with a model: dynamics that are fitted to the logs, and rollouts that they imagine."""
