"""Pretraining: play data, imitation with localisation and latent prediction as auxiliaries, then the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from scripts.pretraining.play_data import KINDS, PlaySamples, generate_play, load_play
from vla.errors import ReflexError
from vla.imitation.augmentation import small_picture_augmentation
from vla.imitation.loop import AuxiliaryLoss, ImitationConfig, ImitationTrainer, Metrics
from vla.imitation.samples import ArraySamples
from vla.policies import load_policy
from vla.policies.normalisation import quantiles
from vla.policies.tiny import TinyFeatures, TinyPolicy, reflex_tiny_config
from vla.policies.tiny.keypoints import PATCH, WORD_RADIUS, expected_positions
from vla.run.cores import worker_count
from vla.run.devices import autocast, set_threads
from vla.run.files import read_json, write_json
from vla.run.run_folder import RunFolder
from vla.run.settings import Checks

WORD_WEIGHT = 0.3
"""Weight of the words' places among the localisation losses: a cross-entropy over a thousand places is large."""
POSITION_SCALE = 0.1
"""Localisation targets are in units of this many metres."""


@dataclass
class PretrainConfig:
    """Pretraining of the embedded policy."""

    output: str = "runs/pretrain"
    """Run folder; the weights end up in its `policy` folder."""
    policy: str | None = None
    """Weights to go on from (a policy folder or a run); null starts from random ones."""
    play_folder: str = "datasets/play"
    """Where the play shards are kept (24 kB a sample)."""
    play_episodes: int = 24_000
    """Episodes of scripted play."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core. Another number rounds sums otherwise."""
    localisation_weight: float = 1.0
    """Weight of the localisation losses."""
    latent_weight: float = 0.1
    """Weight of predicting the next decision's picture in the space of the vision tokens."""
    checkpoint_every: int = 500
    """Optimiser steps between checkpoints."""
    resume: bool = False
    """Continue the run in `output`."""
    imitation: ImitationConfig = field(
        default_factory=lambda: ImitationConfig(
            steps=12000,
            batch_size=64,
            optimiser="muon",
            learning_rate=3.5e-3,
            warmup_steps=100,
            precision="auto",
            augmentation=small_picture_augmentation(),
        )
    )
    """Optimisation."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(1, "num_workers", "play_episodes")
        check.at_least(0, "localisation_weight", "latent_weight")


class PlayAuxiliary(AuxiliaryLoss):
    """Where things are, where what each word names is, what to approach now, and what comes next."""

    def __init__(self, policy: TinyPolicy, samples: PlaySamples, config: PretrainConfig) -> None:
        super().__init__()
        width = int(policy.language_model.config.hidden_size)
        tokens = policy.config.tokens_per_camera * len(policy.config.cameras)
        self._policy = [policy]  # in a list, so that its parameters are not registered twice
        self._samples = samples
        self._config = config
        self.position_head = nn.Sequential(nn.Linear(tokens * width, 256), nn.ReLU(), nn.Linear(256, 2 * len(KINDS)))
        self._named = named_things(samples)
        self.target_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 6))
        self.latent_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, tokens * 32))
        self.latent_projection: torch.Tensor
        self.register_buffer("latent_projection", torch.randn(width, 32) / width**0.5)

    def losses(
        self, inputs: Any, actions: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor, Metrics]:
        """The policy's losses [B], the weighted sum of the auxiliary ones, and each of them."""
        policy = self._policy[0]
        with autocast(policy.device, self._config.imitation.precision):
            features = policy.forward_features(inputs)
            losses, metrics = policy.imitation_loss_from_features(features, actions)
            extra, extra_metrics = self._auxiliary(features, indices)
        return losses, extra, metrics | extra_metrics

    def _auxiliary(self, features: TinyFeatures, indices: NDArray[np.int64]) -> tuple[torch.Tensor, Metrics]:
        samples, config = self._samples, self._config
        query = features.action_hidden.mean(1)
        positions = self.position_head(features.vision.flatten(1)).view(len(indices), len(KINDS), 2)
        position_loss, position_error = _masked_regression(positions, samples.positions[indices])
        word_loss, word_error = self._word_loss(features.word_responses, indices)
        target_loss, target_error = _masked_regression(self.target_head(query), samples.targets[indices])
        latent_loss = self._latent_loss(query, indices)
        localisation = position_loss + WORD_WEIGHT * word_loss + target_loss
        total = config.localisation_weight * localisation + config.latent_weight * latent_loss
        return total, {
            "position_error_cm": position_error,
            "word_error_pixels": word_error,
            "target_error_cm": target_error,
            "latent_loss": float(latent_loss.detach()),
        }

    def _word_loss(self, responses: torch.Tensor | None, indices: NDArray[np.int64]) -> tuple[torch.Tensor, float]:
        """Cross-entropy of where each naming word responds in each picture [B, cameras, P, T] with what it names.

        Also the mean distance of the expected place, in pixels.
        """
        samples, tower = self._samples, self._policy[0].keypoint_tower
        if responses is None or tower is None:
            return torch.zeros(()), 0.0
        named = self._named[indices, : responses.shape[-1]]
        rows, tokens = np.nonzero(named >= 0)
        places = samples.pictured[indices[rows], :, named[rows, tokens]]
        seen = np.isfinite(places[..., 0])
        maps = responses[rows, :, :, tokens][torch.from_numpy(seen)]
        return place_loss(maps, places[seen], tower.coordinates)

    def _latent_loss(self, query: torch.Tensor, indices: NDArray[np.int64]) -> torch.Tensor:
        following = self._samples.next_sample[indices]
        rows = np.flatnonzero(following >= 0)[: len(indices) // 4]
        if not len(rows):
            return query.sum() * 0.0
        pictures = np.stack(
            [self._samples.images[following[rows]], self._samples.wrist_images[following[rows]]], axis=1
        )
        with torch.no_grad():
            vision = self._policy[0].vision_tokens(torch.from_numpy(pictures))
            target = nn.functional.layer_norm(vision @ self.latent_projection, (32,))
        prediction = self.latent_head(query[torch.from_numpy(rows)]).view_as(target)
        return nn.functional.smooth_l1_loss(prediction.float(), target.float())


def place_loss(
    responses: torch.Tensor, places: NDArray[np.float32], coordinates: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Cross-entropy of n response maps [n, P] with places [n, 2] (x right, y down, in [-1, 1]), and an error in pixels.

    `coordinates` [P, 3] are (1, x, y) of the patches, P a square number, rows from the top. The error is the mean
    distance between the map's expected place and the true one. A classification over places, not a regression of the
    expected one: a map that responds to the whole table has no gradient towards one small thing on it.
    """
    if not len(places):
        return responses.sum() * 0.0, 0.0
    side = math.isqrt(len(coordinates))
    responses = responses.float()
    x, y = np.minimum((places.T + 1.0) / 2.0 * side, side - 1).astype(np.int64)
    loss = nn.functional.cross_entropy(responses, torch.from_numpy(y * side + x).to(responses.device))
    with torch.autocast(responses.device.type, enabled=False):
        found = expected_positions(responses.detach().unsqueeze(-1), coordinates, WORD_RADIUS)
        expected = found[:, 0, :2].cpu().numpy()
    # a picture is 2 wide in these coordinates, and `side` patches of `PATCH` pixels
    error = np.linalg.norm(expected - places, axis=-1).mean() * side * PATCH / 2.0
    return loss, float(error)


def named_things(samples: PlaySamples) -> NDArray[np.int64]:
    """[N, T] which of `KINDS` each token of a sample's instruction names, or -1; token 0 marks the text's beginning.

    A colour names what it is a colour of, "drawer" and "button" name themselves, and a plural ("both cubes") names the
    thing to see to now.
    """
    words = [instruction.split() for instruction in samples.instructions]
    by_instruction = np.full((len(words), 1 + max(map(len, words), default=0)), -1)
    plurals = np.zeros(by_instruction.shape, dtype=bool)
    for row, instruction in enumerate(words):
        for token, (word, following) in enumerate(zip(instruction, [*instruction[1:], ""], strict=True), start=1):
            name = word if word in KINDS else f"{word} {following}"
            if name in KINDS:
                by_instruction[row, token] = KINDS.index(name)
            plurals[row, token] = word in ("cubes", "cylinders")
    named = by_instruction[samples.instruction_index]
    rows, tokens = np.nonzero(plurals[samples.instruction_index])
    distances = np.linalg.norm(samples.positions[rows] - samples.targets[rows, None, :2], axis=-1)
    named[rows, tokens] = np.argmin(np.nan_to_num(distances, nan=np.inf), axis=1)
    return named


def _masked_regression(prediction: torch.Tensor, target: NDArray[np.float32]) -> tuple[torch.Tensor, float]:
    """Smooth L1 in units of `POSITION_SCALE` where the target is known, and the mean absolute error in cm."""
    known = torch.from_numpy(np.isfinite(target))
    values = torch.from_numpy(np.nan_to_num(target)) / POSITION_SCALE
    error = (prediction.float() - values)[known]
    if not len(error):
        return prediction.sum() * 0.0, 0.0
    loss = nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.3)
    return loss, float(error.detach().abs().mean()) * POSITION_SCALE * 100.0


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pretrain, resumable; returns the provenance record that is stored beside the weights."""
    started = time.monotonic()
    set_threads(config.threads)
    run = RunFolder(Path(config.output), resume=config.resume)
    run.write_config(dataclasses.asdict(config))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("play")
        paths = generate_play(
            Path(config.play_folder),
            config.play_episodes,
            config.imitation.seed,
            worker_count(config.num_workers, config.play_episodes),
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
        samples = load_play(paths)
        progress.remove_task(bar)
        trainer = build_trainer(samples, config)
        last = run.last_checkpoint()
        if last is not None:
            trainer.load(last[1])
            run.truncate_after(last[0])
        bar = progress.add_task("pretrain", total=config.imitation.steps, completed=trainer.steps_done)
        while trainer.steps_done < config.imitation.steps:
            metrics = trainer.step()
            progress.update(bar, completed=trainer.steps_done)
            if trainer.steps_done % 50 == 0:
                run.append_metrics(trainer.steps_done, metrics)
            if trainer.steps_done % config.checkpoint_every == 0:
                run.save_checkpoint(trainer.steps_done, trainer.save)
    policy_folder = run.path / "policy"
    policy: Any = trainer.policy  # of a family that stores its weights in half the size
    policy.save_pretrained(policy_folder, dtype="float16")
    record = provenance(config, samples, metrics, policy_folder, time.monotonic() - started)
    write_json(policy_folder / "provenance.json", record)
    run.write_summary(record)
    return record


def build_trainer(samples: PlaySamples, config: PretrainConfig) -> ImitationTrainer:
    """The policy to start from with the play set's normalisation, and its trainer."""
    torch.manual_seed(config.imitation.seed)
    policy = load_policy(config.policy) if config.policy else TinyPolicy.from_config(reflex_tiny_config())
    if not isinstance(policy, TinyPolicy):
        raise ReflexError(f"policy {config.policy} is not of the family that is pretrained here")
    action_low, action_high = quantiles(samples.chunks[:, 0])
    state_low, state_high = quantiles(samples.states)
    # Rotations are almost always zero: a range of their own keeps one bin from meaning a hundredth of a degree.
    action_low[3:6], action_high[3:6] = -0.2, 0.2
    policy.set_normalisation(action_low, action_high, state_low, state_high)
    arrays = ArraySamples(
        policy,
        {"image": samples.images, "wrist_image": samples.wrist_images},
        samples.states,
        samples.instructions,
        samples.instruction_index,
        samples.chunks,
    )
    return ImitationTrainer(policy, arrays, config.imitation, PlayAuxiliary(policy, samples, config))


def provenance(
    config: PretrainConfig, samples: PlaySamples, metrics: Metrics, policy_folder: Path, seconds: float
) -> dict[str, Any]:
    """How the weights were made, JSON-ready."""
    weights = (policy_folder / "model.safetensors").read_bytes()
    earlier = Path(config.policy) / "provenance.json" if config.policy else None
    return {
        "command": "python -m scripts.pretraining",
        "config": dataclasses.asdict(config),
        "samples": len(samples),
        "distinct_instructions": len(set(samples.instructions)),
        "final_metrics": metrics,
        "wall_seconds": round(seconds, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mujoco": mujoco.__version__,
            "numpy": np.__version__,
        },
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "continued_from": read_json(earlier) if earlier is not None and earlier.exists() else None,
        "held_out": "every (skill, object) pair of the ten evaluated tasks, and with it each of their instructions",
    }
