"""Action-conditioned dynamics of vectors: an ensemble, how unsure it is, and rollouts that it imagines."""

from world_models.dynamics.config import DynamicsConfig
from world_models.dynamics.ensemble import DynamicsEnsemble
from world_models.dynamics.fit import DynamicsTelemetry, Steps, fit_dynamics
from world_models.dynamics.penalties import PENALTIES, PenaltyName
from world_models.dynamics.rollouts import ImaginedRollouts, imagine, uncertainty_quantile

__all__ = [
    "PENALTIES",
    "DynamicsConfig",
    "DynamicsEnsemble",
    "DynamicsTelemetry",
    "ImaginedRollouts",
    "PenaltyName",
    "Steps",
    "fit_dynamics",
    "imagine",
    "uncertainty_quantile",
]
