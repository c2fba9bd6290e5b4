"""More for decisions that are likelier to a copy of the policy which learns to tell success from failure.

OPRL (iStar, arXiv 2509.19199). What the judge finds likelier than the policy that sampled it speaks for success:

    r_t = beta * sum over the decision's executed units of (log judge - log policy)

The judge learns that of two rollouts of a group the successful one has the larger sum of these. Here it judges rollouts
before it learns from them, where the paper has it learn first, so that a decision's reward says what others taught. It
costs about as much again as the update. Measured from a weak start on ten tabletop tasks, one seed
(docs/results/advantages.md): within what GRPO's seeds span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from vla.errors import restoring
from vla.policies.protocol import TrainablePolicy
from vla.rl.advantages import advantages_with_steps
from vla.rl.batch import Batch, Rollout
from vla.rl.config import AlgoConfig
from vla.rl.likelihood import unit_log_probs
from vla.rl.method import Variant, refuse_critic
from vla.rl.parts import TrainingParts
from vla.rl.sampling import stream_generator
from vla.rl.update import make_optimiser
from vla.run.settings import Checks

FOLDER = "implicit_reward"
"""In a checkpoint."""
OPTIMISER_FILE = "optimiser.pt"
PAIRS = 16
"""Pairs of rollouts in an optimiser step."""


class Oprl(Variant):
    """The judge and its optimiser."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.variants=[oprl]`."""

        weight: float = 0.5
        """What a decision's own part counts beside its rollout's advantage."""
        beta: float = 0.05
        """Reward of a decision per nat of its units' summed log-ratios."""

        def __post_init__(self) -> None:
            check = Checks(self)
            check.at_least(0, "weight")
            check.positive("beta")

    @classmethod
    def check_algorithm(cls, algo: AlgoConfig) -> None:
        """Not beside a critic."""
        refuse_critic(algo, "oprl")

    def __init__(self, settings: Settings, parts: TrainingParts) -> None:
        super().__init__(settings, parts)
        self._opened: tuple[TrainablePolicy, torch.optim.Optimizer] | None = None
        """Judge and optimiser, once they are needed: a resumed run has them in its checkpoint."""

    @property
    def judge(self) -> TrainablePolicy:
        """At first the policy that training started from, as an object of its own."""
        return self._open()[0]

    def _open(self, source: str | None = None) -> tuple[TrainablePolicy, torch.optim.Optimizer]:
        if self._opened is None or source is not None:
            judge = self.parts.trainable(source or self.parts.start)
            judge.eval()
            self._opened = judge, make_optimiser(judge, self.parts.algo)
        return self._opened

    def credit(self, batch: Batch) -> dict[str, float]:
        """Implicit rewards beside the rollouts' advantages."""
        steps = self.rewards_of(batch.rollouts)
        batch.decision_advantages = advantages_with_steps(batch.advantages, steps, batch.groups, self.settings.weight)
        return {}

    def rewards_of(self, rollouts: Sequence[Rollout]) -> list[NDArray[np.float32]]:
        """[D] the rewards of each rollout's decisions; 0 where the inputs are dropped."""
        rewards = []
        judged = unit_log_probs(self.judge, rollouts, self.parts.algo.sampling)
        for rollout, rows in zip(rollouts, judged, strict=True):
            if rows is None:
                rewards.append(np.zeros(len(rollout.decisions), dtype=np.float32))
                continue
            now, then, executed = (torch.from_numpy(part) for part in (rows, rollout.log_probs, rollout.executed))
            rewards.append(decision_rewards(now, then, executed, self.settings.beta).numpy())
        return rewards

    def learn(self, batch: Batch, iteration: int) -> dict[str, float]:
        """One pass over the pairs of a batch."""
        pairing = stream_generator("pairs", self.parts.seed, iteration)
        return self.learn_from(batch.rollouts, batch.successes, batch.groups, pairing)

    def learn_from(
        self, rollouts: Sequence[Rollout], successes: ArrayLike, groups: ArrayLike, generator: np.random.Generator
    ) -> dict[str, float]:
        """The same, from rollouts, which of them succeeded, and their groups [N]."""
        pairs = preference_pairs(successes, groups, generator)
        judge, optimiser = self._open()
        losses = []
        for part in np.array_split(generator.permutation(pairs), -(-len(pairs) // PAIRS)) if len(pairs) else []:
            members, positions = np.unique(part, return_inverse=True)
            rewards, rollout = self._rewards([rollouts[index] for index in members.tolist()])
            loss = preference_loss(rewards, rollout, torch.from_numpy(positions.reshape(part.shape)))
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(judge.parameters(), self.parts.algo.max_gradient_norm)
            optimiser.step()
            losses.append(float(loss.detach()) * len(part))
        optimiser.zero_grad(set_to_none=True)
        return {"advantage/preference_loss": sum(losses) / len(pairs)} if len(pairs) else {}

    def save(self, folder: Path) -> None:
        """Write the judge and its optimiser."""
        judge, optimiser = self._open()
        judge.save_pretrained(folder / FOLDER)
        torch.save(optimiser.state_dict(), folder / FOLDER / OPTIMISER_FILE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises `ReflexError` when a file is damaged or missing."""
        _, optimiser = self._open(str(folder / FOLDER))
        path = folder / FOLDER / OPTIMISER_FILE
        with restoring(path):
            optimiser.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def _rewards(self, rollouts: Sequence[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
        """[S] rewards of all decisions of some rollouts, and which of these [S] each belongs to."""
        sampling = self.parts.algo.sampling
        inputs = type(rollouts[0].inputs).concatenate([rollout.inputs for rollout in rollouts])
        decisions = torch.from_numpy(np.concatenate([rollout.decisions for rollout in rollouts]))
        judged, _ = self.judge.log_prob(inputs, decisions, sampling)
        sampled, executed = (
            torch.from_numpy(np.concatenate(parts)).to(judged.device)
            for parts in (
                [rollout.log_probs for rollout in rollouts],
                [rollout.executed for rollout in rollouts],
            )
        )
        lengths = torch.tensor([len(rollout.decisions) for rollout in rollouts])
        owner = torch.arange(len(rollouts)).repeat_interleave(lengths).to(judged.device)
        return decision_rewards(judged.float(), sampled, executed, self.settings.beta), owner


def preference_pairs(successes: ArrayLike, groups: ArrayLike, generator: np.random.Generator) -> NDArray[np.int64]:
    """[P, 2] a success and a failure of one group; each rollout of a group that has both is in one pair or more.

    Args:
        successes: [N] bool.
        groups: [N].
        generator: whom each is paired with.
    """
    won, ids = np.asarray(successes, dtype=bool), np.asarray(groups, dtype=np.int64)
    pairs: list[NDArray[np.int64]] = []
    for group in np.unique(ids).tolist():
        winners, losers = np.flatnonzero((ids == group) & won), np.flatnonzero((ids == group) & ~won)
        if len(winners) and len(losers):
            count = max(len(winners), len(losers))
            sides = [np.resize(generator.permutation(side), count) for side in (winners, losers)]
            pairs.append(np.stack(sides, axis=1))
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)


def decision_rewards(judged: torch.Tensor, sampled: torch.Tensor, executed: torch.Tensor, beta: float) -> torch.Tensor:
    """[S] implicit rewards of decisions, from log-probabilities [S, U] under judge and policy, over executed units."""
    return beta * ((judged - sampled) * executed).sum(dim=1)


def preference_loss(rewards: torch.Tensor, rollout: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of -log sigmoid(sum of the winner's rewards - sum of the loser's).

    Args:
        rewards: [S] of decisions.
        rollout: [S] which rollout, from 0, each belongs to.
        pairs: [P, 2] winner and loser.
    """
    sums = rewards.new_zeros(int(rollout.max()) + 1).index_add(0, rollout, rewards)
    return functional.softplus(sums[pairs[:, 1]] - sums[pairs[:, 0]]).mean()
