"""How likely a rollout's actions are under another policy than the one that sampled it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vla.policies.protocol import TrainablePolicy
from vla.policies.sampling import Sampling
from vla.rl.batch import Rollout

BATCH = 256
"""Decisions judged together."""


def unit_log_probs(
    policy: TrainablePolicy, rollouts: Sequence[Rollout], sampling: Sampling
) -> list[NDArray[np.float32] | None]:
    """[D, U] log-probabilities of each rollout's decisions under `policy`; None where the inputs are dropped."""
    found: list[NDArray[np.float32] | None] = [None] * len(rollouts)
    known = [index for index, rollout in enumerate(rollouts) if rollout.inputs is not None]
    if not known:
        return found
    inputs = type(rollouts[known[0]].inputs).concatenate([rollouts[index].inputs for index in known])
    decisions = torch.from_numpy(np.concatenate([rollouts[index].decisions for index in known]))
    parts = []
    for rows in torch.split(torch.arange(len(decisions)), BATCH):
        with torch.inference_mode():
            log_probs, _ = policy.log_prob(inputs[rows], decisions[rows], sampling)
        parts.append(log_probs.float().cpu().numpy())
    ends = np.cumsum([len(rollouts[index].decisions) for index in known])
    for index, judged in zip(known, np.split(np.concatenate(parts), ends[:-1]), strict=True):
        found[index] = judged
    return found


def mean_log_probs(policy: TrainablePolicy, rollouts: Sequence[Rollout], sampling: Sampling) -> NDArray[np.float64]:
    """[N] mean log-probability of each rollout's executed units under `policy`; NaN where the inputs are dropped."""
    judged = unit_log_probs(policy, rollouts, sampling)
    return np.array(
        [
            np.nan if rows is None else float(rows[rollout.executed].mean())
            for rollout, rows in zip(rollouts, judged, strict=True)
        ],
        dtype=np.float64,
    )


def sampled_log_probs(rollouts: Sequence[Rollout]) -> NDArray[np.float64]:
    """[N] the same under the policy that sampled each, as recorded."""
    return np.array([rollout.log_probs[rollout.executed].mean() for rollout in rollouts], dtype=np.float64)
