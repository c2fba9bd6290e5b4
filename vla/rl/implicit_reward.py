"""Rewards of single decisions, learnt from which rollouts of a group won: a copy of the policy as their judge.

OPRL (iStar, arXiv 2509.19199). What the judge finds likelier than the policy that sampled it speaks for success:

    r_t = beta * sum over the decision's executed tokens of (log judge - log policy)

The judge learns that of two rollouts of a group the successful one has the larger sum of these. Here it judges rollouts
before it learns from them, where the paper has it learn first, so that a decision's reward says what others taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from vla.errors import restoring
from vla.rl.batch import Rollout, TrainablePolicy
from vla.rl.config import AlgoConfig
from vla.rl.likelihood import token_log_probs
from vla.rl.update import make_optimiser

FOLDER = "implicit_reward"
"""In a checkpoint."""
OPTIMISER_FILE = "optimiser.pt"
PAIRS = 16
"""Pairs of rollouts in an optimiser step."""


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
    """[S] implicit rewards of decisions, from log-probabilities [S, K] under judge and policy, over executed tokens."""
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


class ImplicitReward:
    """The judge and its optimiser."""

    def __init__(self, judge: TrainablePolicy, algo: AlgoConfig) -> None:
        """`judge` is to begin with the policy that training starts from, as an object of its own."""
        self._judge, self._algo = judge, algo
        judge.eval()
        self._optimiser = make_optimiser(judge, algo)

    def judge(self, rollouts: Sequence[Rollout]) -> list[NDArray[np.float32]]:
        """[D] the rewards of each rollout's decisions; 0 where the inputs are dropped."""
        algo, rewards = self._algo, []
        judged = token_log_probs(self._judge, rollouts, algo.temperature, algo.token_noise)
        for rollout, rows in zip(rollouts, judged, strict=True):
            if rows is None:
                rewards.append(np.zeros(len(rollout.tokens), dtype=np.float32))
                continue
            now, then, executed = (torch.from_numpy(part) for part in (rows, rollout.log_probs, rollout.executed))
            rewards.append(decision_rewards(now, then, executed, algo.implicit_beta).numpy())
        return rewards

    def learn(
        self, rollouts: Sequence[Rollout], successes: ArrayLike, groups: ArrayLike, generator: np.random.Generator
    ) -> dict[str, float]:
        """One pass over the pairs of a batch; returns what there is to say of it."""
        pairs = preference_pairs(successes, groups, generator)
        losses = []
        for part in np.array_split(generator.permutation(pairs), -(-len(pairs) // PAIRS)) if len(pairs) else []:
            members, positions = np.unique(part, return_inverse=True)
            rewards, rollout = self._rewards([rollouts[index] for index in members.tolist()])
            loss = preference_loss(rewards, rollout, torch.from_numpy(positions.reshape(part.shape)))
            self._optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self._judge.parameters(), self._algo.max_gradient_norm)
            self._optimiser.step()
            losses.append(float(loss.detach()) * len(part))
        self._optimiser.zero_grad(set_to_none=True)
        return {"advantage/preference_loss": sum(losses) / len(pairs)} if len(pairs) else {}

    def save(self, folder: Path) -> None:
        """Write the judge and its optimiser into a checkpoint."""
        self._judge.save_pretrained(folder / FOLDER)
        torch.save(self._optimiser.state_dict(), folder / FOLDER / OPTIMISER_FILE)

    def load_optimiser(self, folder: Path) -> None:
        """Go on from a checkpoint, from which the judge was loaded. Raises `ReflexError` when the file is damaged."""
        path = folder / FOLDER / OPTIMISER_FILE
        with restoring(path):
            self._optimiser.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def _rewards(self, rollouts: Sequence[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
        """[S] rewards of all decisions of some rollouts, and which of these [S] each belongs to."""
        algo = self._algo
        inputs = type(rollouts[0].inputs).concatenate([rollout.inputs for rollout in rollouts])
        tokens = torch.from_numpy(np.concatenate([rollout.tokens for rollout in rollouts]))
        judged, _ = self._judge.log_prob_from_inputs(inputs, tokens, algo.temperature, algo.token_noise)
        sampled, executed = (
            torch.from_numpy(np.concatenate(parts)).to(judged.device)
            for parts in (
                [rollout.log_probs for rollout in rollouts],
                [rollout.executed for rollout in rollouts],
            )
        )
        lengths = torch.tensor([len(rollout.tokens) for rollout in rollouts])
        owner = torch.arange(len(rollouts)).repeat_interleave(lengths).to(judged.device)
        return decision_rewards(judged.float(), sampled, executed, algo.implicit_beta), owner
