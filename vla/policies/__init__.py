"""Policies: one file per family, one protocol (`vla.policies.protocol.Policy`)."""

from vla.policies.configuration_prismatic import PrismaticConfig, openvla_oft_config, reflex_tiny_config
from vla.policies.prismatic import PrismaticPolicy
from vla.policies.processing_prismatic import ModelInputs
from vla.policies.protocol import Policy, PolicyOutput, PolicySpec, TrainablePolicy
from vla.policies.registry import load_policy
from vla.policies.sampling import GREEDY, Sampling

__all__ = [
    "GREEDY",
    "ModelInputs",
    "Policy",
    "PolicyOutput",
    "PolicySpec",
    "PrismaticConfig",
    "PrismaticPolicy",
    "Sampling",
    "TrainablePolicy",
    "load_policy",
    "openvla_oft_config",
    "reflex_tiny_config",
]
