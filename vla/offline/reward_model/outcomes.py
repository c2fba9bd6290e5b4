"""Reward models without labels: from which episodes succeeded, and from the order of time within them.

- `fit_value`: a value. Moments of successes are worth what is left of their discounted success, moments of failures 0;
  and later moments of a success rank above earlier ones, its end above every moment of a failure.
- `fit_goals`: contrastive and goal-conditioned (arXiv 2206.07568). A later moment of a successful episode is near the
  moments that it soon followed, and far from the others of its episode and from failures; the reward is how near a
  moment is to ends of successes.
- `nearest_success`: SRPO's distance (arXiv 2511.15605) for single moments: to the nearest cluster of ends of successes.

All return the ensemble that preferences are fitted with, so that they are kept, asked and compared alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from vla.errors import ReflexError
from vla.offline.reward_model.bradley_terry import SECOND, agreement, negative_log_likelihood
from vla.offline.reward_model.fit import held_out_pairs
from vla.offline.reward_model.training import FitSettings, new_ensemble, train_members
from vla.rewards.models.ensemble import EnsembleShape, RewardEnsemble
from vla.rewards.models.networks import TEMPERATURE
from vla.rewards.srpo import cluster_successes
from vla.run.devices import resolve_device
from vla.run.seeding import derive_seed
from vla.run.settings import Checks

MOST_GOALS = 64
"""Ends of successes that a contrastive model keeps: enough ways to finish, and quick to ask."""

COUNTEREXAMPLES = 4
"""Moments of the same episode, and as many of failures, that each pair of the contrastive model is set against."""


@dataclass(frozen=True)
class OutcomeSettings:
    """What is made of outcomes."""

    draws: int = 4000
    """Pairs of moments that are drawn from the episodes."""
    discount: float = 0.98
    """How much less a success is worth one step earlier."""
    future_steps: float = 8.0
    """How many steps later a contrastive model's later moments are, on average; shorter than episodes are."""
    value_weight: float = 1.0
    """What the error of the value counts beside the ranking; 0 ranks only."""

    def __post_init__(self) -> None:
        check = Checks(self, "outcome.")
        check.at_least(2, "draws")
        check.within(0, 0.9999, "discount")
        check.at_least(0, "value_weight")
        check.at_least(1, "future_steps")


@dataclass(frozen=True)
class Timeline:
    """Where moments are in their episodes, and how these ended."""

    episodes: NDArray[np.int64]
    """[N] episode of each row, 0 to E - 1, whose rows are next to one another in order of time."""
    successes: NDArray[np.bool_]
    """[E]"""

    def __post_init__(self) -> None:
        """Raises `ReflexError` when no episode succeeded."""
        if not self.successes.any():
            raise ReflexError(
                f"none of {len(self.successes)} episodes succeeded, so that outcomes say nothing; label pairs"
            )

    @property
    def first(self) -> NDArray[np.int64]:
        """[E] first row of each episode."""
        return np.searchsorted(self.episodes, np.arange(len(self.successes)))

    @property
    def last(self) -> NDArray[np.int64]:
        """[E] last row of each episode."""
        return np.searchsorted(self.episodes, np.arange(len(self.successes)), side="right") - 1

    def values(self, discount: float) -> NDArray[np.float32]:
        """[N] discount to the power of the steps that are left to the end of a success; 0 in a failure."""
        left = self.last[self.episodes] - np.arange(len(self.episodes))
        return (self.successes[self.episodes] * discount**left).astype(np.float32)


def outcome_pairs(timeline: Timeline, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Pairs of rows [P, 2] of which the second is better, by outcomes alone.

    Half are two moments of one success, the later one second. In the other half the second is the end of a success and
    the first any moment of a failure; without a failure, there is only the first half.
    """
    first, last = timeline.first, timeline.last
    won, lost = np.flatnonzero(timeline.successes), np.flatnonzero(~timeline.successes)
    longer = won[last[won] > first[won]]
    pairs = []
    if len(longer):
        chosen = generator.choice(longer, draws // 2)
        drawn = generator.uniform(size=(len(chosen), 2))
        drawn.sort(axis=1)
        length = (last - first)[chosen]
        early = np.minimum((drawn[:, 0] * (length + 1)).astype(np.int64), length - 1)
        late = np.maximum((drawn[:, 1] * (length + 1)).astype(np.int64), early + 1)
        pairs.append(np.stack([first[chosen] + early, first[chosen] + late], axis=1))
    if len(lost):
        rows = np.flatnonzero(~timeline.successes[timeline.episodes])
        pairs.append(np.stack([generator.choice(rows, draws // 2), last[generator.choice(won, draws // 2)]], axis=1))
    if not pairs:
        raise ReflexError("there is one moment of each success and no failure, so that outcomes order nothing")
    return np.concatenate(pairs)


def future_pairs(timeline: Timeline, draws: int, steps: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Pairs of rows [P, 2] of one success each, the second later by a geometric number of steps, or the last.

    `steps` is the mean of that number, 1 or more.
    """
    rows = np.flatnonzero(timeline.successes[timeline.episodes])
    chosen = generator.choice(rows, draws)
    ahead = generator.geometric(1 / steps, draws)
    return np.stack([chosen, np.minimum(chosen + ahead, timeline.last[timeline.episodes[chosen]])], axis=1)


def counterexamples(timeline: Timeline, pairs: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Moments [P, 2 COUNTEREXAMPLES] that the second of each pair came after less likely than after the first.

    Half are any moments of the same episode, so that time within it counts; half are moments of failures (of any
    episode where there is none). Moments of other successes are none: they would say no more than that episodes look
    different, and a goal of another episode could then never be near.
    """
    owner = timeline.episodes[pairs[:, 0]]
    shape = (len(pairs), COUNTEREXAMPLES)
    own = generator.integers(timeline.first[owner][:, None], timeline.last[owner][:, None] + 1, shape)
    lost = np.flatnonzero(~timeline.successes[timeline.episodes])
    rows = lost if len(lost) else np.arange(len(timeline.episodes))
    return np.concatenate([own, generator.choice(rows, shape)], axis=1)


def fit_value(
    features: NDArray[Any],
    timeline: Timeline,
    settings: FitSettings | None = None,
    outcome: OutcomeSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> RewardEnsemble:
    """A value model, fitted to outcomes: features [N, F], or uint8 pictures [N, H, W, 3] for a cnn.

    Raises `ReflexError` when nothing succeeded or too few episodes remain to hold some out.
    """
    settings, outcome = settings or FitSettings(), outcome or OutcomeSettings()
    generator = np.random.default_rng(derive_seed("reward of outcomes", seed))
    pairs = outcome_pairs(timeline, outcome.draws, generator)
    fitted, held_out = _split(pairs, timeline, settings.held_out, generator)
    place = resolve_device(device)
    shape = EnsembleShape(settings.network, settings.members, tuple(features.shape[1:]), settings.hidden)
    ensemble = new_ensemble(shape, features, seed, place)
    inputs = ensemble.inputs_of(features)
    rows = torch.from_numpy(pairs).to(place)
    values = torch.from_numpy(timeline.values(outcome.discount)).to(place)

    def scores(chosen: torch.Tensor) -> torch.Tensor:
        """Of both moments of pairs [M, B]: [M, B, 2]"""
        return ensemble.forward(inputs[rows[chosen].flatten(1)]).view(*chosen.shape, 2)

    def losses(chosen: torch.Tensor) -> torch.Tensor:
        found = scores(chosen)
        ranking = negative_log_likelihood(found[..., 1] - found[..., 0], torch.ones_like(found[..., 0]))
        error = functional.binary_cross_entropy_with_logits(found, values[rows[chosen]], reduction="none")
        return ranking + outcome.value_weight * error.mean(dim=-1)

    record = train_members(ensemble, losses, fitted, held_out, settings, generator)
    for name, chosen in (("fitted", fitted), ("held_out", held_out)):
        record[f"pairs_{name}"] = len(chosen)
        if len(chosen):
            record[f"{name}_accuracy"] = _order(ensemble, features, pairs[chosen])
    ensemble.record = record | {"settings": asdict(settings) | asdict(outcome) | {"seed": seed}}
    return ensemble


def fit_goals(
    features: NDArray[Any],
    timeline: Timeline,
    settings: FitSettings | None = None,
    outcome: OutcomeSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> RewardEnsemble:
    """A contrastive goal-conditioned model of features [N, F] that keeps ends of successes as its goals.

    Raises `ReflexError` for pictures, and as `fit_value` does.
    """
    settings, outcome = settings or FitSettings(), outcome or OutcomeSettings()
    if settings.network != "mlp":
        raise ReflexError(f"fit.network={settings.network}: a contrastive model looks at features; use fit.network=mlp")
    generator = np.random.default_rng(derive_seed("contrastive reward", seed))
    pairs = future_pairs(timeline, outcome.draws, outcome.future_steps, generator)
    others = counterexamples(timeline, pairs, generator)
    fitted, held_out = _split(pairs, timeline, settings.held_out, generator)
    ends = timeline.last[timeline.successes]
    goals = generator.permutation(ends)[:MOST_GOALS]
    place = resolve_device(device)
    shape = EnsembleShape("goals", settings.members, (features.shape[1],), settings.hidden, references=len(goals))
    ensemble = new_ensemble(shape, features, seed, place)
    inputs = ensemble.inputs_of(features)
    network: Any = ensemble.network
    network.goals.copy_(inputs[torch.from_numpy(goals).to(place)])
    moments = torch.from_numpy(np.concatenate([pairs[:, :1], others], axis=1)).to(place)
    later = torch.from_numpy(pairs[:, 1]).to(place)

    def losses(chosen: torch.Tensor) -> torch.Tensor:
        near = network.moments.directions(inputs[moments[chosen].flatten(1)]).view(*chosen.shape, moments.shape[1], -1)
        goal = network.ends.directions(inputs[later[chosen]])
        logits = (near * goal.unsqueeze(2)).sum(dim=-1) / TEMPERATURE
        loss: torch.Tensor = logits.logsumexp(dim=-1) - logits[..., 0]
        return loss

    record = train_members(ensemble, losses, fitted, held_out, settings, generator)
    record |= {"pairs_fitted": len(fitted), "pairs_held_out": len(held_out), "goals": len(goals)}
    ensemble.record = record | {"settings": asdict(settings) | asdict(outcome) | {"seed": seed}}
    return ensemble


def nearest_success(features: NDArray[Any], timeline: Timeline, device: str = "cpu") -> RewardEnsemble:
    """SRPO's distance to the centres of the clusters of ends of successes, negative; features [N, F]."""
    if features.ndim != 2:
        raise ReflexError("method=distance measures features; use fit.network=mlp")
    ends = np.asarray(features[timeline.last[timeline.successes]], dtype=np.float64)
    centres = ends[cluster_successes(ends).centres].astype(np.float32)
    shape = EnsembleShape("centres", 1, (features.shape[1],), references=len(centres))
    ensemble = RewardEnsemble(shape, shape.build().to(resolve_device(device)), {"centres": len(centres)})
    network: Any = ensemble.network
    network.centres.copy_(torch.from_numpy(centres))
    return ensemble


def _split(
    pairs: NDArray[np.int64], timeline: Timeline, share: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which pairs are fitted to, and which are held out because they touch a held-out episode."""
    held = held_out_pairs(pairs[..., None], timeline.episodes, share, generator)
    return np.flatnonzero(~held), np.flatnonzero(held)


def _order(ensemble: RewardEnsemble, features: NDArray[Any], pairs: NDArray[np.int64]) -> float:
    """The share of pairs that the members' mean puts in the right order."""
    used, places = np.unique(pairs, return_inverse=True)
    scores = torch.from_numpy(ensemble.mean_score(features[used])[places.reshape(pairs.shape)])
    return float(agreement(scores[:, 1] - scores[:, 0], torch.full((len(pairs),), float(SECOND))))
