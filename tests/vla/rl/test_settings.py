"""Every setting of every reward, estimator and variant reaches its place: changing it changes a number."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.vla.rl.helpers import TrainableFakePolicy, reward, training_parts
from tests.vla.rl.test_collection import FinalFrame, episode_of
from tests.vla.rl.variants.test_oprl import rollout
from vla.rewards import reward as rewards
from vla.rewards.embeddings import FrameEmbedding
from vla.rewards.reward import Scores
from vla.rl.batch import Batch, Rollout
from vla.rl.collection import set_advantages
from vla.rl.config import AlgoConfig
from vla.rl.likelihood import mean_log_probs
from vla.rl.method import ESTIMATORS, VARIANTS
from vla.rl.parts import make_estimator, make_variants
from vla.rl.sampling import GroupRequest
from vla.run.plugins import Part

# Rewards


def made_reward(name: str, **settings: Any) -> Any:
    return reward(name, FrameEmbedding(FinalFrame()), **settings)


def scores(
    name: str, rows: Any, successes: Sequence[int], groups: Sequence[int] | None = None, **settings: Any
) -> Scores:
    """Of rollouts of task 0."""
    count = len(successes)
    found: Scores = made_reward(name, **settings).score(
        np.array(rows, np.float32), np.array(successes, bool), np.zeros(count, np.int64),
        np.zeros(count, np.int64) if groups is None else np.array(groups),
    )  # fmt: skip
    return found


def failure(name: str, rows: Any, groups: Sequence[int] | None = None, **settings: Any) -> float:
    """Reward of the second rollout; the first one succeeded, and all others failed."""
    return float(scores(name, rows, [1] + [0] * (len(rows) - 1), groups, **settings).rewards[1])


def banked(later: int = 0, **settings: Any) -> float:
    """Successes that a bank holds, of three of the first iteration, `later` iterations on."""
    model = made_reward("success_bank", **settings)
    for iteration in range(later + 1):
        count = 0 if iteration else 3
        model.learn(iteration, np.zeros((count, 1), np.float32), np.ones(count, bool), np.zeros(count, np.int64))
    found = model.score(np.zeros((1, 1), np.float32), np.zeros(1, bool), np.zeros(1, np.int64), np.zeros(1, np.int64))
    return float(found.metrics["bank/successes"])


class Two:
    """A reward model of one opinion."""

    opinion = 2.0

    def score(self, frames: NDArray[np.uint8], instruction: str, states: Any = None) -> NDArray[np.float32]:
        return np.full(len(frames), self.opinion, np.float32)


class Five(Two):
    """Another."""

    opinion = 5.0


def fitted_failure(alpha: float) -> float:
    return failure("fitted", [[9.0], [1.0], [3.0]], alpha=alpha, model=f"{__name__}:Two")


def fitted_embedding(model: str) -> float:
    return float(made_reward("fitted", model=model).embed([episode_of(np.zeros((2, 8, 8, 3), np.uint8))])[0, 0])


# Methods


def batch_of(features: Sequence[Sequence[float]] = ((0.0, 1.0), (0.1, 1.1))) -> Batch:
    """A success and a failure of one group, of two decisions each, with a feature for each decision."""
    made: list[Rollout] = []
    for success, sideways, rows in zip((True, False), (0.5, -1.0), features, strict=True):
        one = rollout(success, sideways)
        one.features = np.array(rows, np.float32)[:, None]
        made.append(one)
    return Batch(rollouts=made, groups=[0, 0], rewards=np.array([1, 0], np.float32))


def estimator(name: str, **settings: Any) -> Any:
    parts = training_parts(AlgoConfig(advantage=name, settings={name: settings}), reference=TrainableFakePolicy)
    return make_estimator(parts)


def variant(name: str, algo: dict[str, Any] | None = None, parts: dict[str, Any] | None = None, **settings: Any) -> Any:
    config = AlgoConfig(variants=[name], settings={name: settings}, **(algo or {}))
    (made,) = make_variants(training_parts(config, **(parts or {})))
    return made


def of_close_rewards(name: str, minimum_deviation: float) -> float:
    """The better one's advantage, of two whose rewards deviate by 0.1."""
    batch = Batch(rollouts=batch_of().rollouts, groups=[0, 0])
    values = np.array([0.5, 0.3], np.float32)
    found, _ = estimator(name, minimum_deviation=minimum_deviation).estimate(batch, values, np.ones(2, np.float32))
    return float(found[0])


def first_decision_of_critic(decay: float) -> float:
    """Its advantage over the last one's, where the critic changes its mind from 0.2 to 0.6 to 0.4, and 1 comes."""
    critic = estimator("critic", decay=decay)
    critic._critic = SimpleNamespace(values=lambda _: [np.array([0.2, 0.6, 0.4], np.float32)])
    ((first, _, last),), _ = critic.estimate(Batch(groups=[0]), np.ones(1, np.float32), np.ones(1, np.float32))
    return float(first / last)


def passes_of_critic(window: int) -> float:
    """Over the first batch, which fits a step of its optimiser."""
    critic = estimator("critic", window=window)
    critic.learn(batch_of(), 0)
    state = next(iter(critic._critic._optimiser.state.values()))
    return float(state["step"])


def logit_per_log_ratio(beta: float) -> float:
    """What PACS makes of log-ratios, read back from the advantage: A = 2 (1 - sigmoid(beta * difference))."""
    batch, pacs = batch_of(), estimator("pacs", beta=beta)
    found, _ = pacs.estimate(batch, batch.rewards, np.ones(2, np.float32))
    sampled = np.array([one.log_probs.mean() for one in batch.rollouts])
    ratios = sampled - mean_log_probs(TrainableFakePolicy(), batch.rollouts, pacs.parts.algo.sampling)
    chance = 1.0 - float(found[0]) / 2
    return float(np.log(chance / (1 - chance)) / (ratios[0] - ratios[1]))


def credited(name: str, batch: Batch, **settings: Any) -> tuple[Batch, dict[str, float]]:
    """The batch with advantages 1 and -1, and with what a variant makes of its decisions."""
    batch.advantages = np.array([1, -1], np.float32)
    return batch, variant(name, **settings).credit(batch)


def step_part(name: str, weight: float) -> float:
    """Of the first decision; where every decision's worth is one deviation from the mean it is the weight."""
    batch, _ = credited(name, batch_of(((0.0, 1.0), (0.0, 0.0))), weight=weight)
    return abs(float(batch.decision_advantages[0][0] - batch.advantages[0]))  # type: ignore[index]


def implicit_reward(beta: float) -> float:
    """Against that of beta 1."""
    one, other = (variant("oprl", beta=value).rewards_of(batch_of().rollouts)[0].sum() for value in (beta, 1.0))
    return float(one / other)


def likely(**settings: float) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Rewards of two successes of one group, one of them likelier, and metrics."""
    rollouts = [rollout(True, 0.0), rollout(True, 1.0)]
    batch = Batch(rollouts=rollouts, groups=[0, 0])
    found: tuple[NDArray[np.float32], dict[str, float]] = variant("grpo_care", **settings).rewards(
        batch, np.ones(2, np.float32)
    )
    return found


def replayed(capacity: int) -> float:
    replay = variant("webrl_replay", capacity=capacity)
    replay.add([rollout(True, 0.5) for _ in range(3)])
    return len(replay)


def moved(share: float) -> float:
    """Of eight groups, how many go on from a demonstration."""
    demonstration = episode_of(np.zeros((10, 2, 2, 3), np.uint8))
    object.__setattr__(demonstration, "split", "train")
    made = variant("demonstration_starts", parts={"demonstrations": {0: [demonstration]}}, share=share)
    groups = made.choose([GroupRequest(0, state, (1, 2)) for state in range(8)], {}, 0, 0)
    return sum(bool(group.lead) for group in groups)


Case = tuple[Callable[[Any], float], list[tuple[Any, float]]]


def _sigmoid(x: float) -> float:
    return 1 / (1 + float(np.exp(-x)))


PAIR, THREE = [[0.0], [5.0]], [[1.0, 0.0], [100.0, 0.0], [0.0, 5.0]]
CASES: dict[str, Case] = {
    # One failure is worth half of alpha.
    "srpo.alpha": (lambda value: failure("srpo", PAIR, alpha=value), [(0.8, 0.4), (0.5, 0.25)]),
    # A hundred times as long as the success, the failure is far, or in the same direction.
    "srpo.metric": (
        lambda value: failure("srpo", THREE, metric=value),
        [("euclidean", 0.8 * _sigmoid(-1)), ("cosine", 0.8 * _sigmoid(1))],
    ),
    # Half of the way from 10 to 0.
    "calibrated.alpha": (
        lambda value: failure("calibrated", [[0.0, 10.0], [5.0, 10.0]], alpha=value),
        [(0.8, 0.4), (0.5, 0.25)],
    ),
    "reference_scope.reward": (
        lambda value: failure("reference_scope", PAIR, reward=value),
        [("srpo", 0.4), ("binary", 0.0)],
    ),
    "reference_scope.scope": (
        lambda value: failure("reference_scope", PAIR, [0, 1], scope=value),
        [("group", 0.0), ("batch", 0.4)],
    ),
    "without_success.reward": (
        lambda value: failure("without_success", PAIR, [0, 1], reward=value),
        [("srpo", 0.4), ("binary", 0.0)],
    ),
    "success_bank.reward": (
        lambda value: failure("success_bank", PAIR, reward=value),
        [("srpo", 0.4), ("binary", 0.0)],
    ),
    "success_bank.capacity": (lambda value: banked(capacity=value), [(1, 1), (2, 2), (16, 3)]),
    # Of two failures' scores 1 and 3 the first is one deviation below the mean.
    "fitted.alpha": (fitted_failure, [(0.5, 0.5 / (1 + np.e)), (1.0, 1 / (1 + np.e))]),
    # What the model says of the last moment.
    "fitted.model": (fitted_embedding, [(f"{__name__}:Two", 2.0), (f"{__name__}:Five", 5.0)]),
    "success_bank.age": (lambda value: banked(later=2, age=value), [(2, 0), (3, 3)]),
    # The better one's reward is 0.1 above the mean.
    "group_mean.minimum_deviation": (lambda value: of_close_rewards("group_mean", value), [(0.2, 0.5), (0.4, 0.25)]),
    "lite_ppo.minimum_deviation": (lambda value: of_close_rewards("lite_ppo", value), [(0.2, 0.5), (0.4, 0.25)]),
    "critic.minimum_deviation": (lambda value: of_close_rewards("critic", value), [(0.2, 0.5), (0.4, 0.25)]),
    # Changes of mind 0.4, -0.2 and 0.6.
    "critic.decay": (first_decision_of_critic, [(0.0, 0.4 / 0.6), (1.0, 0.8 / 0.6)]),
    "critic.window": (passes_of_critic, [(1, 1), (3, 3)]),
    "pacs.beta": (logit_per_log_ratio, [(1.0, 1.0), (2.5, 2.5)]),
    # Both make the same first step, or none.
    "salt.tolerance": (
        lambda value: credited("salt", batch_of(), tolerance=value)[1]["advantage/shared_steps"],
        [(0.0, 0.0), (10.0, 0.5)],
    ),
    # The success is half of the way after each decision, the failure never leaves the start.
    "step_progress.weight": (lambda value: step_part("step_progress", value), [(0.5, 0.5), (2.0, 2.0)]),
    "oprl.weight": (lambda value: step_part("oprl", value) / step_part("oprl", 1.0), [(0.5, 0.5), (2.0, 2.0)]),
    "oprl.beta": (implicit_reward, [(0.05, 0.05), (3.0, 3.0)]),
    "grpo_care.bonus": (lambda value: float(likely(bonus=value)[0].max()), [(0.5, 1.5), (0.25, 1.25)]),
    "grpo_care.margin": (lambda value: likely(margin=value)[1]["advantage/likely_successes"], [(0.0, 1), (1.0, 2)]),
    "webrl_replay.capacity": (replayed, [(1, 1), (2, 2)]),
    "demonstration_regularisation.demonstrations": (
        lambda value: variant("demonstration_regularisation", {"kl_coefficient": 0.3}, demonstrations=value).kl_weight(
            0.3
        ),
        [(30, 0.01), (10, 0.03)],
    ),
    "demonstration_starts.share": (moved, [(0.25, 2), (0.5, 4)]),
}
"""Class by name, and setting -> the number it changes, and what that is for some values."""


def shipped() -> Iterator[tuple[str, type[Any]]]:
    """The name of every shipped reward, estimator and variant, and its class."""
    for place in {*rewards.SHIPPED, *ESTIMATORS, VARIANTS}:
        package = importlib.import_module(place)
        path = getattr(package, "__path__", None)
        names = [place] if path is None else [f"{place}.{found.name}" for found in pkgutil.iter_modules(path)]
        for module in map(importlib.import_module, names):
            for value in vars(module).values():
                own = inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, Part)
                if own and not inspect.isabstract(value):
                    yield module.__name__.rpartition(".")[2], value


def test_every_setting_is_tried() -> None:
    found = {f"{name}.{field.name}" for name, cls in shipped() for field in fields(cls.Settings)}
    assert found == set(CASES)


@pytest.mark.parametrize("setting", CASES)
def test_changing_a_setting_changes_its_number(setting: str) -> None:
    measure, values = CASES[setting]
    assert len({number for _, number in values}) > 1
    for value, number in values:
        assert measure(value) == pytest.approx(number, rel=1e-3, abs=1e-4), value


# What variants are asked for along the way


def test_rollouts_of_uncertain_groups_count_for_more() -> None:
    rollouts = [rollout(bool(success), 0.5) for success in (1, 0, 1, 1, 1, 0)]
    groups, values = [0, 0, 1, 1, 1, 1], np.array([1, 0, 1, 1, 1, 0], np.float32)
    found = {}
    for variants in ([], ["difficulty_weight"]):
        parts = training_parts(AlgoConfig(variants=variants))
        batch = Batch(rollouts=rollouts, groups=groups, rewards=values)
        set_advantages(batch, make_estimator(parts), make_variants(parts))
        found[bool(variants)] = batch.advantages
    # 4 p (1 - p): 1 where half succeeded, 0.75 where three of four did.
    assert found[True] == pytest.approx(found[False] * np.array([1, 1, 0.75, 0.75, 0.75, 0.75]))
    assert found[False].all()


def test_likely_successes_are_found_by_the_averaged_policy() -> None:
    policy, entered = TrainableFakePolicy(), []

    @contextmanager
    def averaged() -> Iterator[None]:
        """An average of another opinion than the weights in training."""
        before = policy.bias.detach().clone()
        entered.append(True)
        with torch.no_grad():
            policy.bias[1] = 1.0
        yield
        with torch.no_grad():
            policy.bias.copy_(before)

    config = AlgoConfig(variants=["grpo_care"])
    batch = Batch(rollouts=[rollout(True, 0.0), rollout(True, 1.0)], groups=[0, 0])
    bonuses = []
    for parts in (training_parts(config, policy), training_parts(config, policy, averaged=averaged)):
        (care,) = make_variants(parts)
        bonuses.append((care.rewards(batch, np.ones(2, np.float32))[0] > 1).tolist())
    assert bonuses == [[True, False], [False, True]] and entered == [True]


def test_a_success_that_became_likelier_than_at_the_start_teaches_less() -> None:
    """The sign of the log-ratio: the sampling policy against the reference."""
    advantages = {}
    for shift in (-0.5, 0.5):
        batch = batch_of()
        batch.rollouts[0].log_probs = batch.rollouts[0].log_probs + np.float32(shift)
        found, _ = estimator("pacs").estimate(batch, batch.rewards, np.ones(2, np.float32))
        advantages[shift] = float(found[0])
    assert advantages[0.5] < advantages[-0.5]
