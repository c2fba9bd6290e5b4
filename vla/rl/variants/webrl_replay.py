"""Successes of earlier iterations, learnt from again where the policy has become less likely to act so.

WebRL (arXiv 2411.02337) replays one success of each task and keeps of it the decisions whose tokens its policy finds
neither certain nor unlikely (probabilities of 0.5 to 0.95). Tokens of a continuous action are never that probable, so
that here they are compared with what they were when the policy sampled them: what it has not forgotten gives no
gradient, and what has become foreign to it is left alone. Measured from a weak start on ten tabletop tasks, one seed
(docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vla.errors import restoring
from vla.rl.advantages import LengthNormalisation, length_weights
from vla.rl.batch import Batch, Rollout, Samples
from vla.rl.method import Variant
from vla.rl.parts import TrainingParts
from vla.rl.sampling import stream_generator
from vla.run.settings import Checks

FILE = "replay.pt"
WINDOW = (0.5, 0.95)
"""How probable a decision's units may be beside what they were, to be learnt from again."""
ARRAYS = ("decisions", "log_probs", "executed")


def forgotten(now: ArrayLike, then: ArrayLike, executed: ArrayLike) -> NDArray[np.bool_]:
    """[D] which decisions have become less likely, but not foreign: exp(mean(now - then)) within `WINDOW`.

    Args:
        now, then: [D, U] log-probabilities of their units under today's policy and the one that sampled them.
        executed: [D, U] bool, the units that count.
    """
    counted = np.asarray(executed, dtype=bool)
    differences = np.where(counted, np.asarray(now, dtype=np.float64) - np.asarray(then, dtype=np.float64), 0.0)
    likelihoods = np.exp(differences.sum(axis=1) / np.maximum(counted.sum(axis=1), 1))
    low, high = WINDOW
    return np.asarray((likelihoods > low) & (likelihoods <= high) & counted.any(axis=1))


class WebrlReplay(Variant):
    """The newest successes of each task, as far as they are of groups that also failed."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.variants=[webrl_replay]`."""

        capacity: int = 16
        """Successes of each task that are kept to be learnt from again."""

        def __post_init__(self) -> None:
            Checks(self).at_least(1, "capacity")

    def __init__(self, settings: Settings, parts: TrainingParts) -> None:
        super().__init__(settings, parts)
        self._kept: dict[int, list[dict[str, Any]]] = {}
        """Task -> arrays of each rollout and its inputs' fields, oldest first."""

    def learn(self, batch: Batch, iteration: int) -> dict[str, float]:
        """Take in the successes of an iteration whose inputs are still there."""
        self.add(batch.rollouts)
        return {}

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Keep the successes among rollouts whose inputs are still there."""
        for rollout in rollouts:
            if rollout.success and rollout.inputs is not None:
                entry: dict[str, Any] = {name: torch.from_numpy(getattr(rollout, name)) for name in ARRAYS}
                entry["inputs"] = dict(vars(rollout.inputs))
                self._kept.setdefault(rollout.task_id, []).append(entry)
        self._kept = {task: kept[-self.settings.capacity :] for task, kept in self._kept.items()}

    def more_samples(self, samples: Samples, iteration: int) -> Samples | None:
        """The forgotten decisions of one success of each task, drawn at random, with advantage 1; None for none."""
        generator = stream_generator("replay", self.parts.seed, iteration)
        inputs_type, sampling = type(samples.inputs), self.parts.algo.sampling
        parts: list[Samples] = []
        for _, kept in sorted(self._kept.items()):
            entry = kept[int(generator.integers(len(kept)))]
            inputs = inputs_type(**entry["inputs"])
            with torch.inference_mode():
                now, _ = self.parts.policy.log_prob(inputs, entry["decisions"], sampling)
            known = now.float().cpu()
            rows = torch.from_numpy(
                np.flatnonzero(forgotten(known.numpy(), entry["log_probs"].numpy(), entry["executed"].numpy()))
            )
            if len(rows):
                whole = Samples(
                    inputs=inputs,
                    decisions=entry["decisions"],
                    old_log_probs=known.clone(),
                    executed=entry["executed"],
                    advantages=torch.ones(len(known)),
                    weights=torch.ones(len(known)),
                )
                parts.append(whole[rows])
        return _weighed(parts, self.parts.algo.aggregation) if parts else None

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def save(self, folder: Path) -> None:
        """Write `replay.pt`."""
        torch.save(self._kept, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when the file is damaged or missing."""
        with restoring(folder / FILE):
            self._kept = torch.load(folder / FILE, map_location="cpu", weights_only=True)


def _weighed(parts: Sequence[Samples], normalisation: LengthNormalisation) -> Samples:
    """Joined, units weighed as those of fresh rollouts are."""
    weights = length_weights([int(part.executed.sum()) for part in parts], normalisation)
    return Samples.concatenate(
        [
            replace(part, weights=torch.full((len(part),), float(weight)))
            for part, weight in zip(parts, weights, strict=True)
        ]
    )
