"""World-model encoders and latent dynamics. Depends on torch and transformers only."""

from world_models.encoders.base import VideoEncoder
from world_models.encoders.load import load_encoder
from world_models.errors import WorldModelError
from world_models.jepa.config import JepaConfig
from world_models.jepa.train import JepaTelemetry, train_jepa

__all__ = ["JepaConfig", "JepaTelemetry", "VideoEncoder", "WorldModelError", "load_encoder", "train_jepa"]
