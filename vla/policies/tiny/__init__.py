"""The tiny family: the policy that is shipped, which trains and runs on two CPU cores."""

from vla.policies.tiny.configuration import TinyConfig, reflex_tiny_config
from vla.policies.tiny.policy import TinyFeatures, TinyPolicy

__all__ = ["TinyConfig", "TinyFeatures", "TinyPolicy", "reflex_tiny_config"]
