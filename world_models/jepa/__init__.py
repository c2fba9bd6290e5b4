"""A small joint-embedding world model, trained here from rollouts without labels."""

from world_models.jepa.config import JepaConfig
from world_models.jepa.encoder import JepaEncoder
from world_models.jepa.train import JepaTelemetry, train_jepa

__all__ = ["JepaConfig", "JepaEncoder", "JepaTelemetry", "train_jepa"]
