"""The configuration of the small world model, and its checks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from world_models.errors import WorldModelError

Pooling = Literal["mean", "last", "mean_last"]
"""How frame latents become a clip embedding; see `JepaConfig.pooling`."""

OnCollapse = Literal["raise", "flag"]


@dataclass(frozen=True)
class JepaConfig:
    """A small joint-embedding world model: its networks, its training, and how it embeds a clip."""

    image_size: int = 64
    """Side in pixels of the frames the network sees, a multiple of 16; other sizes are resized, whole frame kept."""
    latent_size: int = 64
    """Length of a frame's latent."""
    width: int = 64
    """Channels of the first two convolutions; the third has twice as many."""
    predictor_size: int = 128
    """Hidden units of the recurrent predictor of the next latent."""
    window: int = 4
    """Frames in a training window; the predictor sees those before the one it predicts."""
    pooling: Pooling = "mean_last"
    """Clip embedding: "mean" of all frame latents, mean of the "last" ones, or both side by side ("mean_last")."""
    last_frames: int = 2
    """Frames at the end of a clip that "last" and "mean_last" average."""
    steps: int = 600
    """Gradient steps."""
    batch_size: int = 64
    """Windows in a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; 5 % linear warm-up, then cosine to zero."""
    weight_decay: float = 1e-3
    """Weight decay of AdamW."""
    regulariser_weight: float = 0.09
    """Weight of SIGReg beside the prediction error; 0 lets the latents collapse."""
    change_weight: float = 0.09
    """Weight of SIGReg on how latents change over a window; 0 lets them keep only what never changes in an episode."""
    change_scale: float = 0.7
    """Standard deviation asked of that change."""
    directions: int = 128
    """Random directions along which SIGReg compares latents with a Gaussian, drawn anew at every step."""
    ema_decay: float = 0.0
    """Above 0: predict the latents of an exponential moving average of the encoder, without gradient, instead."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient."""
    heldout_share: float = 0.1
    """Share of clips (at least one) kept from training, on which prediction and probe are measured."""
    report_every: int = 100
    """Steps between measurements of the telemetry."""
    min_latent_deviation: float = 0.3
    """Mean standard deviation of the latents under which they count as collapsed (SIGReg asks for 1)."""
    min_effective_rank: float = 3.0
    """Effective rank of the latents under which they count as collapsed."""
    on_collapse: OnCollapse = "raise"
    """Collapsed latents: "raise" an error and write nothing, or "flag" them in the telemetry."""
    seed: int = 0
    """Seed of initialisation, held-out split, windows and directions."""
    device: str = "cpu"
    """Torch device to train on."""

    def __post_init__(self) -> None:
        """Raises `WorldModelError` for the first field that is out of range."""
        for name in ("latent_size", "width", "predictor_size", "last_frames", "steps", "directions", "report_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("image_size", self.image_size >= 16 and self.image_size % 16 == 0, "a multiple of 16")
        self._require("window", self.window >= 2, "at least 2 (one frame to predict from, one to predict)")
        self._require("batch_size", self.batch_size >= 2, "at least 2 (SIGReg compares samples of a batch)")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("gradient_clip", self.gradient_clip > 0, "above 0")
        self._require("weight_decay", self.weight_decay >= 0, "at least 0")
        self._require("regulariser_weight", self.regulariser_weight >= 0, "at least 0")
        self._require("change_weight", self.change_weight >= 0, "at least 0")
        self._require("change_scale", self.change_scale > 0, "above 0")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self._require("heldout_share", 0 < self.heldout_share < 1, "in (0, 1)")
        self._require("pooling", self.pooling in get_args(Pooling), f"one of {', '.join(get_args(Pooling))}")
        self._require(
            "on_collapse", self.on_collapse in get_args(OnCollapse), f"one of {', '.join(get_args(OnCollapse))}"
        )

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise WorldModelError(f"{name} of the JEPA configuration must be {rule}, got {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> JepaConfig:
        """Build from JSON values; `source` names their file in errors. Raises `WorldModelError` on an unknown field."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise WorldModelError(f"{source} has unknown JEPA settings: {', '.join(unknown)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise WorldModelError(f"{source} has a JEPA setting of the wrong type: {error}") from error
