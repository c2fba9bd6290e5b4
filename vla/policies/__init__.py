"""Policies: a folder a family, one protocol (`vla.policies.protocol.Policy`)."""

from vla.policies.blocks.inputs import ModelInputs
from vla.policies.prismatic import PrismaticConfig, PrismaticPolicy, openvla_oft_config
from vla.policies.protocol import Policy, PolicyOutput, PolicySpec, TrainablePolicy
from vla.policies.registry import load_policy
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.tiny import TinyConfig, TinyPolicy, reflex_tiny_config

__all__ = [
    "GREEDY",
    "ModelInputs",
    "Policy",
    "PolicyOutput",
    "PolicySpec",
    "PrismaticConfig",
    "PrismaticPolicy",
    "Sampling",
    "TinyConfig",
    "TinyPolicy",
    "TrainablePolicy",
    "load_policy",
    "openvla_oft_config",
    "reflex_tiny_config",
]
