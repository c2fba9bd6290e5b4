"""Video encoders: clips of rollouts in, one embedding per clip out."""

from world_models.encoders.base import CachedEncoder, Clip, VideoEncoder, sample_frames
from world_models.encoders.load import load_encoder
from world_models.encoders.pixels import PixelConfig, PixelEncoder

__all__ = ["CachedEncoder", "Clip", "PixelConfig", "PixelEncoder", "VideoEncoder", "load_encoder", "sample_frames"]
