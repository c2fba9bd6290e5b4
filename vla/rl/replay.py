"""Successes of earlier iterations, learnt from again where the policy has become less likely to act so.

WebRL (arXiv 2411.02337) replays one success of each task and keeps of it the decisions whose tokens its policy finds
neither certain nor unlikely (probabilities of 0.5 to 0.95). Tokens of a continuous action are never that probable, so
that here they are compared with what they were when the policy sampled them: what it has not forgotten teaches nothing,
and what has become foreign to it is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vla.errors import restoring
from vla.rl.advantages import length_weights
from vla.rl.batch import Rollout, Samples, TrainablePolicy
from vla.rl.config import AlgoConfig

FILE = "replay.pt"
WINDOW = (0.5, 0.95)
"""How probable a decision's tokens may be beside what they were, to be learnt from again."""
ARRAYS = ("tokens", "log_probs", "executed")


def forgotten(now: ArrayLike, then: ArrayLike, executed: ArrayLike) -> NDArray[np.bool_]:
    """[D] which decisions have become less likely, but not foreign: exp(mean(now - then)) within `WINDOW`.

    Args:
        now, then: [D, K] log-probabilities of their tokens under today's policy and the one that sampled them.
        executed: [D, K] bool, the tokens that count.
    """
    counted = np.asarray(executed, dtype=bool)
    differences = np.where(counted, np.asarray(now, dtype=np.float64) - np.asarray(then, dtype=np.float64), 0.0)
    likelihoods = np.exp(differences.sum(axis=1) / np.maximum(counted.sum(axis=1), 1))
    low, high = WINDOW
    return np.asarray((likelihoods > low) & (likelihoods <= high) & counted.any(axis=1))


class Replay:
    """The newest successes of each task, as far as they are of groups that also failed."""

    def __init__(self, capacity: int) -> None:
        """At most `capacity` of a task are kept."""
        self._capacity = capacity
        self._kept: dict[int, list[dict[str, Any]]] = {}
        """Task -> arrays of each rollout and its inputs' fields, oldest first."""

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Take in the successes of an iteration whose inputs are still there."""
        for rollout in rollouts:
            if rollout.success and rollout.inputs is not None:
                entry: dict[str, Any] = {name: torch.from_numpy(getattr(rollout, name)) for name in ARRAYS}
                entry["inputs"] = dict(vars(rollout.inputs))
                self._kept.setdefault(rollout.task_id, []).append(entry)
        self._kept = {task: kept[-self._capacity :] for task, kept in self._kept.items()}

    def samples(
        self, policy: TrainablePolicy, inputs_type: type[Any], algo: AlgoConfig, generator: np.random.Generator
    ) -> Samples | None:
        """The forgotten decisions of one success of each task, drawn at random, with advantage 1; None for none.

        `inputs_type` is that of the policy's prepared inputs.
        """
        parts: list[Samples] = []
        for _, kept in sorted(self._kept.items()):
            entry = kept[int(generator.integers(len(kept)))]
            inputs = inputs_type(**entry["inputs"])
            with torch.inference_mode():
                now, _ = policy.log_prob_from_inputs(inputs, entry["tokens"], algo.temperature, algo.token_noise)
            known = now.float().cpu()
            rows = torch.from_numpy(
                np.flatnonzero(forgotten(known.numpy(), entry["log_probs"].numpy(), entry["executed"].numpy()))
            )
            if len(rows):
                whole = Samples(
                    inputs=inputs,
                    tokens=entry["tokens"],
                    old_log_probs=known.clone(),
                    executed=entry["executed"],
                    advantages=torch.ones(len(known)),
                    weights=torch.ones(len(known)),
                )
                parts.append(whole[rows])
        return _weighed(parts, algo) if parts else None

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def save(self, folder: Path) -> None:
        """Write `replay.pt`."""
        torch.save(self._kept, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when the file is damaged or missing."""
        with restoring(folder / FILE):
            self._kept = torch.load(folder / FILE, map_location="cpu", weights_only=True)


def _weighed(parts: Sequence[Samples], algo: AlgoConfig) -> Samples:
    """Joined, tokens weighed as those of fresh rollouts are."""
    weights = length_weights([int(part.executed.sum()) for part in parts], algo.aggregation)
    return Samples.concatenate(
        [
            replace(part, weights=torch.full((len(part),), float(weight)))
            for part, weight in zip(parts, weights, strict=True)
        ]
    )
