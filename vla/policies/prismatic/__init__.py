"""The Prismatic family: the architecture of OpenVLA and OpenVLA-OFT."""

from vla.policies.prismatic.configuration import PrismaticConfig, openvla_oft_config
from vla.policies.prismatic.policy import PrismaticPolicy

__all__ = ["PrismaticConfig", "PrismaticPolicy", "openvla_oft_config"]
