"""Training the small world model from rollouts, without labels, in a minute or two on a CPU."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from world_models.encoders.base import Clip, check_clips, resize_frames
from world_models.errors import WorldModelError
from world_models.jepa.config import JepaConfig
from world_models.jepa.encoder import JepaEncoder
from world_models.jepa.measures import effective_rank, latent_deviation, ridge_r2
from world_models.jepa.model import Jepa
from world_models.jepa.regulariser import random_directions, sigreg

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, latest measurements) after every measurement."""

_MEASURED_FRAMES = 2048
"""Frames, evenly spread over all clips, on which the deviation and rank of the latents are measured."""


@dataclass(frozen=True)
class JepaTelemetry:
    """Whether the latents are worth using. Measured on held-out clips, except deviation and rank: on all clips."""

    steps: int
    """Gradient steps made (fewer than asked when training stopped at a collapse)."""
    prediction_loss: float
    """Mean squared error of the predicted next latent. Not comparable between runs: it shrinks with the latents."""
    copy_ratio: float
    """Prediction error over the error of predicting no change; below 1 the model knows dynamics."""
    latent_deviation: float
    """Mean standard deviation of the latent dimensions; about 1 when healthy, 0 when collapsed."""
    effective_rank: float
    """Directions the latents use, between 0 and the latent size."""
    collapsed: bool
    """Deviation or rank is under the configured threshold: distances between embeddings mean nothing."""
    probe_r2: float | None = None
    """Mean R2 of a linear read-out of `probe_targets` from latents; None without targets, or if none of them varies."""
    probe_r2_per_target: tuple[float, ...] = ()
    """R2 of each target; NaN for one that does not vary on the held-out clips."""
    history: tuple[dict[str, float], ...] = ()
    """The measurements made during training, in order, each with its `step`."""
    seconds: float = field(default=0.0, compare=False)
    """Wall-clock time of training."""


@dataclass(frozen=True)
class _Frames:
    """All clips in one tensor, resized: frames [F, S, S, 3], and where each clip starts and how long it is."""

    frames: torch.Tensor
    starts: torch.Tensor  # [N]
    lengths: torch.Tensor  # [N]

    def clip(self, index: int) -> torch.Tensor:
        start = int(self.starts[index])
        return self.frames[start : start + int(self.lengths[index])]


def train_jepa(
    clips: Sequence[Clip],
    config: JepaConfig | None = None,
    output: Path | None = None,
    on_progress: Progress | None = None,
    probe_targets: Sequence[NDArray[np.floating]] | None = None,
) -> tuple[JepaEncoder, JepaTelemetry]:
    """Train a frame encoder and a predictor of the next latent on clips, uint8 [T_i, H, W, 3], and wrap it as encoder.

    Loss: mean squared error of the predicted next latent + `regulariser_weight` * SIGReg of the latents (arXiv
    2603.19312, without actions) + `change_weight` * SIGReg of their change over a window (ours). Frames of a clip
    should be equally spaced in time, as those at a rollout's decisions are. `probe_targets`, one [T_i, K] per
    clip (robot states, say), are only ever read out of the finished latents. With `output`, the encoder is written
    there as a folder. The same seed, clips and thread count give the same weights.

    Raises:
        WorldModelError: unusable clips or targets, fewer than two clips with two frames, a loss that is not finite,
            collapsed latents (unless `on_collapse` is "flag"), an output that cannot be written.
    """
    config = config or JepaConfig()
    checked = check_clips(clips)
    targets = _check_targets(probe_targets, checked)
    data = _stack(checked, config)
    train, heldout = _split(data, config)
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Jepa(config).to(config.device)
    history = _optimise(model, data, train, heldout, config, on_progress)
    latest = history[-1]
    probes = _probe(model, data, train, heldout, targets, config) if targets else ()
    varying = [value for value in probes if not math.isnan(value)]
    telemetry = JepaTelemetry(
        steps=int(latest["step"]),
        prediction_loss=latest["prediction_loss"],
        copy_ratio=latest["copy_ratio"],
        latent_deviation=latest["latent_deviation"],
        effective_rank=latest["effective_rank"],
        collapsed=_collapsed(latest, config),
        probe_r2=float(np.mean(varying)) if varying else None,
        probe_r2_per_target=probes,
        history=tuple(history),
        seconds=time.perf_counter() - started,
    )
    if telemetry.collapsed and config.on_collapse == "raise":
        raise WorldModelError(_collapse_message(telemetry, config))
    encoder = JepaEncoder(model, config, config.device)
    if output is not None:
        encoder.save(Path(output), asdict(telemetry))
    return encoder, telemetry


def _check_targets(
    targets: Sequence[NDArray[np.floating]] | None, clips: list[Clip]
) -> list[NDArray[np.floating]] | None:
    if targets is None:
        return None
    if len(targets) != len(clips):
        raise WorldModelError(f"{len(targets)} probe targets for {len(clips)} clips; give one array per clip")
    for index, (target, clip) in enumerate(zip(targets, clips, strict=True)):
        if target.ndim != 2 or len(target) != len(clip) or target.shape[1] != targets[0].shape[1]:
            raise WorldModelError(
                f"probe target {index} has shape {list(target.shape)}; it must be [frames, targets] with "
                f"{len(clip)} frames and as many targets as the others"
            )
        if not np.isfinite(target).all():
            raise WorldModelError(f"probe target {index} holds a value that is not finite")
    return list(targets)


def _stack(clips: list[Clip], config: JepaConfig) -> _Frames:
    resized = [resize_frames(torch.from_numpy(np.ascontiguousarray(clip)), config.image_size) for clip in clips]
    lengths = torch.tensor([len(clip) for clip in clips])
    if int((lengths >= 2).sum()) < 2:
        raise WorldModelError(f"training needs at least two clips of two frames or more, got {len(clips)} clips")
    return _Frames(torch.cat(resized), lengths.cumsum(0) - lengths, lengths)


def _split(data: _Frames, config: JepaConfig) -> tuple[list[int], list[int]]:
    """Training and held-out clip indices, drawn with the seed from the clips that have a next frame to predict."""
    usable = np.flatnonzero(data.lengths.numpy() >= 2)
    order = np.random.default_rng(config.seed).permutation(usable)
    count = min(max(1, round(config.heldout_share * len(order))), len(order) - 1)
    return sorted(int(i) for i in order[count:]), sorted(int(i) for i in order[:count])


def _optimise(
    model: Jepa, data: _Frames, train: list[int], heldout: list[int], config: JepaConfig, on_progress: Progress | None
) -> list[dict[str, float]]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    target = copy.deepcopy(model).requires_grad_(False) if config.ema_decay > 0 else None
    generator = torch.Generator().manual_seed(config.seed)
    windows = _window_starts(data, train, config.window)
    history: list[dict[str, float]] = []
    for step in range(1, config.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.steps)
        chosen = windows[torch.randint(len(windows), (config.batch_size,), generator=generator)]
        frames, valid = _gather(data, chosen, config)
        directions = random_directions(config.latent_size, config.directions, generator).to(config.device)
        loss = _loss(model, target, frames, valid, directions, config)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimiser.step()
        if target is not None:
            _follow(target, model, config.ema_decay)
        if step % config.report_every == 0 or step == config.steps:
            measured = {"step": float(step), "loss": float(loss.detach()), **_measure(model, data, heldout, config)}
            history.append(measured)
            if on_progress is not None:
                on_progress(step, config.steps, measured)
            if not math.isfinite(measured["loss"]):
                raise WorldModelError(f"the JEPA loss is not finite at step {step}; lower learning_rate")
            # Twice in a row after the first half: a slow start is not a collapse, and a collapse does not recover.
            latest = [_collapsed(entry, config) for entry in history[-2:]]
            if step * 2 >= config.steps and latest == [True, True]:
                break
    return history


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate at step 1..steps: linear over the first 5 %, then cosine to zero."""
    warm_up = max(1, steps // 20)
    if step <= warm_up:
        return step / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _window_starts(data: _Frames, clips: list[int], window: int) -> torch.Tensor:
    """Every (clip, first frame) a window can have: [M, 2]. A clip shorter than a window has one, at its start."""
    pairs = [(clip, first) for clip in clips for first in range(max(1, int(data.lengths[clip]) - window + 1))]
    return torch.tensor(pairs)


def _gather(data: _Frames, chosen: torch.Tensor, config: JepaConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames [B, T, S, S, 3] of windows [B, 2], and which of their frames are real [B, T] (the rest hold the last)."""
    clip, first = chosen[:, 0], chosen[:, 1]
    offsets = first[:, None] + torch.arange(config.window)
    last = data.lengths[clip][:, None] - 1
    indices = data.starts[clip][:, None] + offsets.minimum(last)
    return data.frames[indices].to(config.device), (offsets <= last).to(config.device)


def _loss(
    model: Jepa,
    target: Jepa | None,
    frames: torch.Tensor,
    valid: torch.Tensor,
    directions: torch.Tensor,
    config: JepaConfig,
) -> torch.Tensor:
    latents = model.encode_windows(frames)
    if target is None:
        goals = latents
    else:
        with torch.no_grad():
            goals = target.encode_windows(frames)
    errors = (model.predictor(latents[:, :-1]) - goals[:, 1:]).square().mean(dim=-1)
    weights = valid[:, 1:].to(errors.dtype)  # a held frame says nothing about dynamics
    prediction = (errors * weights).sum() / weights.sum().clamp_min(1.0)
    loss = prediction
    if config.regulariser_weight > 0:
        loss = loss + config.regulariser_weight * sigreg(latents.transpose(0, 1), directions)
    if config.change_weight > 0:
        # What stays the same in an episode is predicted perfectly and differs between episodes, so the two terms above
        # are content with latents that show the layout and never the robot. This one asks for latents that move.
        change = (latents[:, -1] - latents[:, 0]) / config.change_scale
        loss = loss + config.change_weight * sigreg(change, directions)
    return cast(torch.Tensor, loss)


@torch.no_grad()
def _follow(target: Jepa, model: Jepa, decay: float) -> None:
    for average, parameter in zip(target.parameters(), model.parameters(), strict=True):
        average.lerp_(parameter, 1 - decay)


def _latents(model: Jepa, frames: torch.Tensor, config: JepaConfig) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model.encoder(part.to(config.device)) for part in torch.split(frames, 256)])


def _measure(model: Jepa, data: _Frames, heldout: list[int], config: JepaConfig) -> dict[str, float]:
    predicted, copied, count = 0.0, 0.0, 0
    for index in heldout:
        latents = _latents(model, data.clip(index), config)
        with torch.inference_mode():
            guesses = model.predictor(latents[None, :-1])[0]
        predicted += float(functional.mse_loss(guesses, latents[1:], reduction="sum"))
        copied += float(functional.mse_loss(latents[:-1], latents[1:], reduction="sum"))
        count += latents[1:].numel()
    spread = np.linspace(0, len(data.frames) - 1, min(_MEASURED_FRAMES, len(data.frames))).round().astype(np.int64)
    sample = _latents(model, data.frames[torch.from_numpy(spread)], config).cpu().numpy()
    return {
        "prediction_loss": predicted / count,
        "copy_ratio": predicted / max(copied, 1e-12),
        "latent_deviation": latent_deviation(sample),
        "effective_rank": effective_rank(sample) if np.isfinite(sample).all() else 0.0,
    }


def _probe(
    model: Jepa,
    data: _Frames,
    train: list[int],
    heldout: list[int],
    targets: list[NDArray[np.floating]],
    config: JepaConfig,
) -> tuple[float, ...]:
    """R2 of each target, read from latents by a ridge regression fitted on training clips, on held-out clips."""

    def gather(indices: list[int]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        latents = [_latents(model, data.clip(index), config).cpu().numpy() for index in indices]
        return np.concatenate(latents), np.concatenate([targets[index] for index in indices])

    return tuple(float(value) for value in ridge_r2(*gather(train), *gather(heldout)))


def _collapsed(measured: dict[str, float], config: JepaConfig) -> bool:
    spread, rank = measured["latent_deviation"], measured["effective_rank"]
    return spread < config.min_latent_deviation or rank < config.min_effective_rank


def _collapse_message(telemetry: JepaTelemetry, config: JepaConfig) -> str:
    return (
        f"the latents collapsed after {telemetry.steps} steps: standard deviation {telemetry.latent_deviation:.3g} "
        f"(at least {config.min_latent_deviation} wanted), effective rank {telemetry.effective_rank:.3g} (at least "
        f"{config.min_effective_rank} wanted); raise regulariser_weight (now {config.regulariser_weight}) or give "
        "clips that differ more"
    )
