"""Every field of `AlgoConfig` reaches its place: changing it changes a number, and to what is worked out here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sim.pool import EnvironmentPool
from tests.fakes import HORIZON, FakeSuite
from tests.vla.rl.helpers import (
    FakeInputs,
    TrainableFakePolicy,
    load_fake_policy,
    random_generator,
    reward,
    small_config,
    training_parts,
)
from tests.vla.rl.test_collection import FinalFrame
from tests.vla.rl.test_update import samples_of
from vla.policies.sampling import GREEDY, Sampling
from vla.rewards.embeddings import FrameEmbedding
from vla.rl.batch import Batch, Samples
from vla.rl.collection import Collector
from vla.rl.config import AlgoConfig
from vla.rl.loop import Loop
from vla.rl.parts import make_estimator, make_variants
from vla.rl.setup import load_trainable, open_reward, open_state
from vla.rl.state import Counters
from vla.rl.update import make_optimiser, update_policy
from vla.run.run_folder import RunFolder


class Recording(TrainableFakePolicy):
    """The fake policy, which notes how it was asked."""

    def __init__(self) -> None:
        super().__init__(gain=0.25)
        with torch.no_grad():
            self.bias[0] = 0.25
        self.sampled: list[dict[str, Any]] = []
        self.scored: list[tuple[int, float, float]] = []
        self.vision = 0

    def act(self, observations: Any, sampling: Sampling = GREEDY, generators: Any = None) -> Any:
        self.sampled.append(asdict(sampling))
        return super().act(observations, sampling, generators)

    def log_prob(
        self, inputs: FakeInputs, decisions: torch.Tensor, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.scored.append((len(decisions), sampling.temperature, sampling.token_noise))
        return super().log_prob(inputs, decisions, sampling)

    def encode_vision(self, inputs: FakeInputs) -> FakeInputs:
        self.vision += 1
        return inputs


# Of an update


def updated(samples: Samples | None = None, iteration: int = 0, **algo: Any) -> SimpleNamespace:
    """An update of 24 decisions: its metrics, the optimiser, and what the policy was asked."""
    config = AlgoConfig(**({"reward": "binary", "minibatch_size": 24, "update_epochs": 1, "target_kl": None} | algo))
    policy = Recording()
    reference = TrainableFakePolicy(gain=0.5) if config.kl_coefficient else None
    optimiser = make_optimiser(policy, config)
    learnt = samples_of(policy) if samples is None else samples
    policy.scored.clear()
    metrics = update_policy(
        policy, optimiser, learnt, config, iteration=iteration,
        generator=random_generator(), reference=reference, kl_weight=config.kl_coefficient,
    )  # fmt: skip
    return SimpleNamespace(policy=policy, optimiser=optimiser, metrics=metrics)


def off_policy(ratio: float, advantage: float) -> Samples:
    """Decisions that have become `ratio` times as likely, all of one advantage."""
    samples = samples_of(Recording())
    shifted = samples.old_log_probs - float(np.log(ratio))
    return replace(samples, old_log_probs=shifted, advantages=torch.full_like(samples.advantages, advantage))


def loss(ratio: float, advantage: float, **algo: Any) -> float:
    return updated(off_policy(ratio, advantage), **{"sampling": Sampling(1.0, 0.0, 0.0)} | algo).metrics["update/loss"]


def rate(**algo: Any) -> float:
    (group,) = updated(
        iteration=3, **({"learning_rate": 0.1, "warmup_iterations": 0, "constant_iterations": None} | algo)
    ).optimiser.param_groups
    return float(group["lr"])


def steps(**algo: Any) -> float:
    return updated(**algo).metrics["update/steps"]


def loss_with_entropy(coefficient: float) -> float:
    """Less what the bonus takes from the loss."""
    found = updated(entropy_coefficient=coefficient).metrics
    return (updated().metrics["update/loss"] - found["update/loss"]) / found["update/entropy"]


def loss_of_stop(target: float | None) -> float:
    return updated(off_policy(1.5, 1.0), target_kl=target).metrics["update/stopped_early"]


def pull(coefficient: float) -> float:
    """What the penalty adds to the loss, in units of the distance."""
    found = updated(kl_coefficient=coefficient).metrics
    distance = found["update/reference_kl"]
    return (found["update/loss"] - updated().metrics["update/loss"]) / distance if distance else 0.0


def step_without_momentum(norm: float) -> float:
    """Length of a plain gradient step at learning rate 1, the gradient being longer than 0.1."""
    policy, config = Recording(), AlgoConfig(learning_rate=1.0, warmup_iterations=0, max_gradient_norm=norm)
    before = torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])
    plain = torch.optim.SGD(policy.parameters(), lr=1.0)
    many = replace(samples_of(policy), advantages=torch.full((24,), 100.0))
    whole = replace(config, minibatch_size=24, update_epochs=1, target_kl=None)
    update_policy(policy, plain, many, whole, iteration=0, generator=random_generator())
    return float(torch.linalg.vector_norm(torch.cat([p.detach().flatten() for p in policy.parameters()]) - before))


def decay_of_optimiser(value: float) -> float:
    (group,) = make_optimiser(Recording(), AlgoConfig(weight_decay=value)).param_groups
    return float(group["weight_decay"])


# Of a batch


def collected(**algo: Any) -> SimpleNamespace:
    """A batch of the fake suite, and how its rollouts were sampled."""
    settings = {"reward": "binary", "group_size": 4, "groups_per_iteration": 2, "max_sampling_rounds": 1} | algo
    settings = {"sampling": Sampling(1.0, 0.0, 0.0), "initial_states": "even"} | settings
    policy, config = Recording(), AlgoConfig(**settings)
    made = training_parts(config, policy)
    with EnvironmentPool("fake", 8, 0, factory="tests.fakes:get_suite") as pool:
        collector = Collector(
            policy, pool, FakeSuite(), reward("binary"), make_estimator(made), config, {0: 4, 1: 4},
            make_variants(made),
        )  # fmt: skip
        batch = collector.collect(0, {(0, state, 0): 1.0 for state in range(4)})
    return SimpleNamespace(batch=batch, policy=policy)


def rounds(limit: int) -> float:
    batch: Batch = collected(max_sampling_rounds=limit, groups_per_iteration=6, group_size=2).batch
    return batch.metrics["groups/rounds"]


def spared_task(initial_states: str) -> float:
    """Whether a task that always succeeds gets fewer of the groups than its share."""
    batch: Batch = collected(initial_states=initial_states, groups_per_iteration=4, group_size=2).batch
    return float(np.mean(batch.task_ids == 0) < 0.4)


def most_negative(weight: float) -> float:
    """Against what it is in full, so that every batch would do."""
    batch, full = (collected(group_size=8, negative_weight=value).batch.advantages for value in (weight, 1.0))
    return float(batch.min() / full.min())


def frames(stride: int | None) -> float:
    """Control steps between the frames that the reward is shown of a rollout of 40 steps."""
    shown: list[int] = []

    class Looking(FinalFrame):
        def encode(self, clips: Any) -> Any:
            shown.extend(map(len, clips))
            return super().encode(clips)

    config = AlgoConfig(group_size=2, groups_per_iteration=1, max_sampling_rounds=1, frame_stride=stride)
    hopeless = TrainableFakePolicy(gain=0.0)
    looking = reward("srpo", FrameEmbedding(Looking(), 100))
    with EnvironmentPool("fake", 8, 0, factory="tests.fakes:get_suite") as pool:
        estimator = make_estimator(training_parts(config, hopeless))
        Collector(hopeless, pool, FakeSuite(), looking, estimator, config, {0: 4}).collect(0)
    return HORIZON / (shown[0] - 1)


# Of a run


def learnt_from(**algo: Any) -> Samples:
    """The samples that a run's loop makes of a batch, some of whose rollouts are shorter than others."""
    settings = {"reward": "binary", "group_size": 8, "groups_per_iteration": 3, "max_sampling_rounds": 1} | algo
    loop = SimpleNamespace(
        config=SimpleNamespace(algo=AlgoConfig(**settings)),
        collector=SimpleNamespace(variants=[]),
        state=SimpleNamespace(counters=Counters()),
    )
    samples, _ = Loop._samples(loop, collected(**settings).batch, random_generator())  # type: ignore[arg-type]
    assert samples is not None
    return samples


def most_moments(count: int) -> float:
    """Numbers in the embedding of a run's reward, by the eight of each moment."""
    config = small_config(Path("unused"), encoder="proprioception", algo_reward="srpo", algo_reward_frames=count)
    made = open_reward(SimpleNamespace(path=Path("unused")), config, load_fake_policy, {})  # type: ignore[arg-type]
    episode: Any = SimpleNamespace(states=np.zeros((9, 8), np.float32))
    return made.embed([episode]).shape[1] / 8


def average_of(decay: float) -> float:
    with TemporaryDirectory() as folder, RunFolder(f"{folder}/run") as run:
        average = open_state(run, small_config(Path(folder), algo_average_decay=decay), load_fake_policy).average
        return 0.0 if average is None else average.decay


def frozen(freeze: bool) -> float:
    """How often a policy that is loaded for training is frozen, and an update computes vision ahead of its passes."""
    calls: list[int] = []

    class Freezing(Recording):
        def freeze_vision(self) -> None:
            calls.append(1)

    load_trainable(small_config(Path("unused"), algo_freeze_vision=freeze), lambda *_: Freezing(), "weak")
    assert len(calls) == updated(freeze_vision=freeze).policy.vision
    return len(calls)


def sampling(**changes: float) -> dict[str, Any]:
    """What rollouts were sampled with."""
    (asked,) = {tuple(sorted(options.items())) for options in (
        {name: value for name, value in asked.items() if name != "generators"}
        for asked in collected(sampling=Sampling(**changes)).policy.sampled
    )}  # fmt: skip
    return dict(asked)


CASES: dict[str, tuple[Callable[[Any], float], list[tuple[Any, float]]]] = {
    # Of an update. A token of ratio 2 is cut at 1 + clip_high, one of ratio 1/2 at 1 - clip_low.
    "clip_high": (lambda value: -loss(2.0, 1.0, clip_high=value), [(0.28, 1.28), (0.5, 1.5)]),
    "clip_low": (lambda value: loss(0.5, -1.0, clip_low=value), [(0.2, 0.8), (0.3, 0.7)]),
    "dual_clip": (lambda value: loss(8.0, -1.0, dual_clip=value), [(None, 8.0), (3.0, 3.0)]),
    "kl_coefficient": (pull, [(0.0, 0.0), (0.3, 0.3)]),
    "entropy_coefficient": (loss_with_entropy, [(0.0, 0.0), (0.2, 0.2)]),
    "learning_rate": (lambda value: rate(learning_rate=value), [(0.1, 0.1), (0.2, 0.2)]),
    "warmup_iterations": (lambda value: rate(warmup_iterations=value), [(0, 0.1), (8, 0.05)]),
    "constant_iterations": (lambda value: rate(constant_iterations=value), [(None, 0.1), (1, 0.05)]),
    "weight_decay": (decay_of_optimiser, [(0.0, 0.0), (0.1, 0.1)]),
    "max_gradient_norm": (step_without_momentum, [(0.1, 0.1), (0.2, 0.2)]),
    "update_epochs": (lambda value: steps(update_epochs=value), [(1, 1), (3, 3)]),
    "minibatch_size": (lambda value: steps(minibatch_size=value), [(24, 1), (7, 4)]),
    "micro_batch_size": (
        lambda value: max(count for count, *_ in updated(micro_batch_size=value).policy.scored),
        [(None, 24), (5, 5)],
    ),
    "target_kl": (lambda value: loss_of_stop(value), [(None, 0), (0.001, 1)]),
    "freeze_vision": (frozen, [(False, 0), (True, 1)]),
    # Of a batch
    "group_size": (lambda value: len(collected(group_size=value).batch.rollouts), [(4, 8), (3, 6)]),
    "groups_per_iteration": (
        lambda value: len(set(collected(groups_per_iteration=value).batch.groups)),
        [(2, 2), (3, 3)],
    ),
    "max_sampling_rounds": (rounds, [(1, 1), (2, 2)]),
    "initial_states": (spared_task, [("even", 0), ("uncertain", 1)]),
    "negative_weight": (most_negative, [(1.0, 1.0), (0.3, 0.3)]),
    "frame_stride": (frames, [(None, 8), (4, 4)]),
    "sampling": (lambda value: sampling(temperature=value)["temperature"], [(0.5, 0.5), (1.6, 1.6)]),
    # Of a run
    "max_samples_per_update": (lambda value: len(learnt_from(max_samples_per_update=value)), [(3, 3), (5, 5)]),
    "aggregation": (
        lambda value: float(np.ptp(learnt_from(aggregation=value).weights.numpy()) > 0.1),
        [("token", 0), ("episode", 1)],
    ),
    "average_decay": (average_of, [(0.0, 0.0), (0.7, 0.7)]),
    "reward_frames": (most_moments, [(2, 2), (5, 5)]),
    # By name, which tests of each method try; settings are tried in `test_settings`.
    "reward": (
        lambda name: reward(name, FrameEmbedding(FinalFrame())).compares_rollouts,
        [("binary", 0), ("srpo", 1)],
    ),
    "advantage": (
        lambda name: make_estimator(training_parts(AlgoConfig(advantage=name))).replaces_groups,
        [("rloo", 1), ("critic", 0)],
    ),
    "variants": (
        lambda names: len(make_variants(training_parts(AlgoConfig(variants=names)))),
        [([], 0), (["salt"], 1)],
    ),
    "settings": (
        lambda value: make_estimator(training_parts(AlgoConfig(settings=value))).settings.minimum_deviation,
        [({}, 0.2), ({"group_mean": {"minimum_deviation": 0.5}}, 0.5)],
    ),
}
"""Field -> the number it changes, and what that is for two values."""


def test_every_field_is_tried() -> None:
    assert set(CASES) == {field.name for field in fields(AlgoConfig)}


@pytest.mark.parametrize("field", CASES)
def test_changing_a_field_changes_its_number(field: str) -> None:
    measure, values = CASES[field]
    assert len({number for _, number in values}) > 1
    for value, number in values:
        assert measure(value) == pytest.approx(number, rel=2e-3, abs=2e-4), value


def test_every_field_of_sampling_reaches_the_rollouts_and_those_that_shape_likelihoods_the_update() -> None:
    asked = {"temperature": 1.6, "token_noise": 3.0, "chunk_correlation": 0.25, "flow_noise": 0.75}
    assert set(asked) == {field.name for field in fields(Sampling)}
    assert sampling(**asked) == asked
    scored = updated(sampling=Sampling(**asked)).policy.scored
    assert scored and {(temperature, noise) for _, temperature, noise in scored} == {(1.6, 3.0)}
