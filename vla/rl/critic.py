"""A critic: what a rollout will come to, judged from where it is at each decision.

A group's mean reward is one baseline for a whole rollout, though after a few decisions it shows how it will end: what
comes later is then credited or blamed for nothing. The critic is a small network on what the policy makes of what it
sees (its hidden state before it acts, which costs nothing), the robot's state, the time and the task. It is trained on
the rollouts of the last iterations and judges those of the present one, which it has not seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from vla.errors import restoring
from vla.rl.batch import Batch, Rollout
from vla.rl.group_mean import GroupMean
from vla.rl.method import AdvantageEstimator, Advantages
from vla.rl.parts import TrainingParts
from vla.run.settings import Checks

FILE = "critic.pt"
HIDDEN, DROPOUT = 64, 0.2
SMALLEST_DEVIATION = 0.1
LEARNING_RATE, WEIGHT_DECAY, BATCH = 2e-3, 1e-2, 256


def generalised_advantages(values: NDArray[np.floating], reward: float, decay: float) -> NDArray[np.float32]:
    """Advantages [D] of a rollout's decisions from the critic's values [D] and the reward at its end.

        A_t = sum over l of decay^l * (V_{t+l+1} - V_{t+l}),  the V after the last decision being the reward

    Generalised advantage estimation (arXiv 1506.02438) without discount. decay 1 is reward - V_t; decay 0 the change of
    the critic's mind over one decision.
    """
    following = np.append(values[1:], reward)
    advantages = np.zeros(len(values))
    later = 0.0
    for step in reversed(range(len(values))):
        later = following[step] - values[step] + decay * later
        advantages[step] = later
    return advantages.astype(np.float32)


def critic_advantages(
    values: Sequence[NDArray[np.float32]],
    rewards: NDArray[np.float32],
    weights: NDArray[np.floating],
    decay: float,
    negative_weight: float,
) -> list[NDArray[np.float32]]:
    """Advantages [D] of the decisions of each of N rollouts, of deviation 1 over those with a weight.

    Multiplied by the rollouts' `weights` [N], negative ones by `negative_weight` too. All are 0 without a weight.
    """
    raw = [generalised_advantages(judged, float(reward), decay) for judged, reward in zip(values, rewards, strict=True)]
    used = [advantages for advantages, weight in zip(raw, weights, strict=True) if weight > 0]
    scale = 1.0 / (float(np.concatenate(used).std()) + 1e-6) if used else 0.0
    return [
        (np.where(advantages < 0, negative_weight, 1.0) * advantages * scale * weight).astype(np.float32)
        for advantages, weight in zip(raw, weights, strict=True)
    ]


def explained_variance(values: Sequence[NDArray[np.floating]], rewards: NDArray[np.floating]) -> float:
    """1 - variance left of rewards / their variance, over all decisions; 0 when rewards are equal.

    `values` has one array [D] for each rollout, `rewards` [N] one reward.
    """
    given = np.repeat(rewards.astype(np.float64), [len(value) for value in values])
    variance = float(given.var())
    return 1.0 - float(((given - np.concatenate(values)) ** 2).mean()) / variance if variance > 0 else 0.0


class ActorCritic(AdvantageEstimator):
    """Tells the decisions of a rollout apart: how much better it looked after each than before."""

    replaces_groups: ClassVar[bool] = False  # it tells decisions apart where rewards are equal

    @dataclass(frozen=True)
    class Settings(GroupMean.Settings):
        """Of `algo.advantage=critic`; the first iteration, before the critic has learnt, has group means."""

        decay: float = 0.9
        """How much of what happened later a decision is credited with: 0 none, 1 all."""
        window: int = 8
        """Iterations whose rollouts the critic learns from."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check = Checks(self)
            check.within(0.0, 1.0, "decay")
            check.at_least(1, "window")

    def __init__(self, settings: Settings, parts: TrainingParts) -> None:
        super().__init__(settings, parts)
        self._critic = Critic(parts.horizons, settings.window)
        self._first = GroupMean(settings, parts)

    def estimate(
        self, batch: Batch, rewards: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> tuple[Advantages, dict[str, float]]:
        """One number for each decision, once there is a critic."""
        values = self._critic.values(batch.rollouts)
        if values is None:
            return self._first.estimate(batch, rewards, weights)
        negative_weight = self.parts.algo.negative_weight
        advantages = critic_advantages(values, rewards, weights, self.settings.decay, negative_weight)
        return advantages, {"critic/explained_variance": explained_variance(values, rewards)}

    def learn(self, batch: Batch, iteration: int) -> dict[str, float]:
        """The critic learns from the batch's rollouts and rewards."""
        self._critic.learn(batch.rollouts, batch.rewards)
        return {}

    def save(self, folder: Path) -> None:
        """Write `critic.pt`."""
        self._critic.save(folder)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when the file is damaged or missing."""
        self._critic.load(folder)


class Critic:
    """The network, its optimiser and the rollouts it learns from."""

    def __init__(self, horizons: Mapping[int, int], window: int) -> None:
        """`horizons` are the control steps of each task's episodes; `window` the iterations that are learnt from."""
        self._tasks = {task: position for position, task in enumerate(sorted(horizons))}
        self._horizons, self._longest = dict(horizons), max(horizons.values())
        self._seen: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=window)
        """Inputs [S, I] and rewards [S] of an iteration's decisions."""
        self._window = window
        self._network: nn.Module | None = None
        self._optimiser: torch.optim.Optimizer | None = None

    def values(self, rollouts: Sequence[Rollout]) -> list[NDArray[np.float32]] | None:
        """The expected reward at each decision of each rollout, [D] in [0, 1]; None before anything was learnt."""
        if self._network is None:
            return None
        self._network.eval()
        with torch.inference_mode():
            judged = torch.sigmoid(self._network(self._standardised(self._inputs(rollouts)))[:, 0]).numpy()
        edges = np.cumsum([0, *(len(rollout.decisions) for rollout in rollouts)]).tolist()
        return [judged[first:last] for first, last in pairwise(edges)]

    def learn(self, rollouts: Sequence[Rollout], rewards: NDArray[np.floating]) -> None:
        """Take in an iteration's rollouts and their rewards [N] in [0, 1]; draws from torch's generator.

        Each iteration is passed over `window` times in all, while it is in the window.
        """
        inputs = self._inputs(rollouts)
        lengths = torch.tensor([len(rollout.decisions) for rollout in rollouts])
        self._seen.append((inputs, torch.from_numpy(rewards.astype(np.float32)).repeat_interleave(lengths)))
        self._build(inputs.shape[1])
        everything = self._standardised(torch.cat([seen for seen, _ in self._seen]))
        wanted = torch.cat([reward for _, reward in self._seen])
        network, optimiser = self._network, self._optimiser
        assert network is not None and optimiser is not None
        network.train()
        for _ in range(-(-self._window // len(self._seen))):
            for rows in torch.split(torch.randperm(len(wanted)), BATCH):
                loss = functional.binary_cross_entropy_with_logits(network(everything[rows])[:, 0], wanted[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                optimiser.step()

    def save(self, folder: Path) -> None:
        """Write `critic.pt`."""
        inputs, rewards = [pair[0] for pair in self._seen], [pair[1] for pair in self._seen]
        state: dict[str, Any] = {"inputs": inputs, "rewards": rewards}
        if self._network is not None and self._optimiser is not None:
            state |= {"network": self._network.state_dict(), "optimiser": self._optimiser.state_dict()}
        torch.save(state, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when the file is damaged or missing."""
        with restoring(folder / FILE):
            state = torch.load(folder / FILE, map_location="cpu", weights_only=True)
            self._seen.extend(zip(state["inputs"], state["rewards"], strict=True))
            if "network" in state:
                self._build(self._seen[0][0].shape[1])
                assert self._network is not None and self._optimiser is not None
                self._network.load_state_dict(state["network"])
                self._optimiser.load_state_dict(state["optimiser"])

    def _build(self, size: int) -> None:
        if self._network is None:
            self._network = nn.Sequential(
                nn.Linear(size, HIDDEN),
                nn.GELU(),
                nn.Dropout(DROPOUT),
                nn.Linear(HIDDEN, 1),
            )
            self._optimiser = torch.optim.AdamW(self._network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def _standardised(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs with mean 0 and deviation 1 over the window; what hardly varies there is not blown up."""
        seen = torch.cat([pair[0] for pair in self._seen])
        return (inputs - seen.mean(dim=0)) / seen.std(dim=0, correction=0).clamp(min=SMALLEST_DEVIATION)

    def _inputs(self, rollouts: Sequence[Rollout]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([self._rows(rollout) for rollout in rollouts]))

    def _rows(self, rollout: Rollout) -> NDArray[np.float32]:
        features = rollout.features_for("algo.advantage=critic")
        count, horizon = len(rollout.decisions), self._horizons[rollout.task_id]
        task = np.zeros((count, len(self._tasks)))
        task[:, self._tasks[rollout.task_id]] = 1.0
        elapsed = rollout.lead_steps + rollout.elapsed  # an episode that goes on from a demonstration began earlier
        time = np.stack([elapsed / horizon, (horizon - elapsed) / self._longest], axis=1)
        return np.concatenate([features, rollout.states, time, task], axis=1).astype(np.float32)
