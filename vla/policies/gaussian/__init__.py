"""The Gaussian family: a small perceptron on the state (or on features given as the state) that trains in minutes."""

from vla.policies.gaussian.policy import GaussianPolicy

__all__ = ["GaussianPolicy"]
