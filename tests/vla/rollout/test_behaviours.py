"""Episodes of known quality: how a mixture is allotted, what each flaw does, and what ends up in a data set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.contract import FloatArray, ManipulationEnvironment
from sim.pool import EpisodeRequest
from sim.suites import get_suite
from tests.sim.odd_suite import OddEnvironment, OddExpert
from tests.vla.data.point_suite import FACTORY
from tests.vla.rollout.test_collect import assert_same_files, monkeypatched_finalize, settings
from vla.data.lerobot_reader import read_demonstrations
from vla.errors import ReflexError
from vla.rollout.behaviours import FLAWS, Afterwards, Changed, Mixture, Wandering, allot, play_behaviour, sideways
from vla.rollout.collect import collect
from vla.rollout.play import Player
from vla.rollout.requests import RolloutRequest


def test_a_mixture_is_allotted_by_largest_remainders() -> None:
    # Of 7: 1.75 random, 4.55 medium and 0.7 expert. Whole parts are 1, 4 and 0; the two that are left go to the
    # remainders .75 and .70.
    assert Counter(allot(Mixture(0.25, 0.65, 0.1), 7, seed=0, task_id=0)) == {"random": 2, "medium": 4, "expert": 1}
    assert allot(Mixture(0.0, 0.5, 0.0), 3, seed=0, task_id=0) == ["medium"] * 3


@given(
    st.tuples(*[st.floats(0, 1)] * 3).filter(lambda shares: sum(shares) > 1e-3), st.integers(1, 60), st.integers(0, 9)
)
def test_every_share_is_met_to_within_one_episode(shares: tuple[float, float, float], count: int, seed: int) -> None:
    found = allot(Mixture(*shares), count, seed, task_id=3)
    assert len(found) == count
    for name, share in zip(("random", "medium", "expert"), shares, strict=True):
        assert abs(found.count(name) - count * share / sum(shares)) < 1 + 1e-9


def test_the_order_is_the_seed_s_and_the_task_s() -> None:
    orders = {tuple(allot(Mixture(), 40, seed, task)) for seed, task in ((0, 0), (0, 0), (1, 0), (0, 1))}
    assert len(orders) == 3
    first = allot(Mixture(), 40, 0, 0)
    assert first != sorted(first)


class Constant:
    """Always the same action; says how often it was reset."""

    def __init__(self, value: float) -> None:
        self.value, self.resets = value, 0

    def reset(self, environment: ManipulationEnvironment) -> None:
        self.resets += 1

    def act(self, environment: ManipulationEnvironment) -> FloatArray:
        return np.full(7, self.value, np.float32)


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_wandering_expert_is_interrupted_for_its_share_of_the_time(share: float) -> None:
    environment, intended = OddEnvironment(2), Constant(0.5)
    actor = Wandering(intended, np.random.default_rng(0), share)
    actor.reset(environment)
    actions = np.stack([actor.act(environment) for _ in range(6000)])  # type: ignore[misc]
    random = ~(actions == 0.5).all(axis=1)
    assert random.mean() == pytest.approx(share, abs=0.03)
    held = (np.diff(actions[random], axis=0) == 0).all(axis=1).mean()
    assert held == pytest.approx(2.5 / 3.5, abs=0.05), "a burst of 3.5 steps on average holds one action"
    assert intended.resets == 1


def test_actions_are_changed_after_they_are_clipped_and_drift_to_a_side() -> None:
    environment = OddEnvironment(2)
    drifting = Changed(Constant(3.0), sideways(np.pi / 2, 0.25))
    drifting.reset(environment)
    np.testing.assert_allclose(drifting.act(environment), [1.0, 1.25, 1, 1, 1, 1, 1], atol=1e-6)


def test_one_actor_follows_another_from_where_it_left() -> None:
    environment, first, second = OddEnvironment(2), Constant(1.0), OddExpert()
    actor = Afterwards(first, second, switch=2)
    for _ in range(2):
        actor.reset(environment)
    acted = [float(actor.act(environment)[0]) for _ in range(4)]  # type: ignore[index]
    np.testing.assert_allclose(acted, [1.0, 1.0, 0.1, 0.2], rtol=1e-6)
    assert (first.resets, second.resets) == (2, 1)


def medium(suite: str, task_id: int, count: int) -> list[tuple[str, bool]]:
    player = Player(get_suite(suite))
    wanted = [
        RolloutRequest(EpisodeRequest(task_id, "train", number % 50), seed=900 + number) for number in range(count)
    ]
    episodes = [play_behaviour(player, "medium", one) for one in wanted]
    again = play_behaviour(player, "medium", wanted[3])
    np.testing.assert_array_equal(again.actions, episodes[3].actions)
    assert all(np.abs(episode.actions).max() <= 1.0 or suite == "so101" for episode in episodes)
    assert all(len(episode.states) == episode.length + 1 for episode in episodes)
    player.close()
    return [(episode.policy_id.removeprefix("medium_"), episode.success) for episode in episodes]


def test_medium_episodes_succeed_in_part_and_with_every_flaw() -> None:
    found = medium("tabletop_state", 2, 60)
    assert {flaw for flaw, _ in found} == set(FLAWS)
    assert 0.2 <= np.mean([success for _, success in found]) <= 0.6
    for flaw in ("slow", "misaimed", "wrong_task"):
        assert {success for name, success in found if name == flaw} == {True, False}, flaw
    assert not any(success for name, success in found if name == "abandoned")


def test_flaws_that_change_a_translation_need_one() -> None:
    assert {flaw for flaw, _ in medium("so101", 0, 6)} <= {"wandering", "noisy", "abandoned", "wrong_task"}


def test_a_mixture_keeps_every_episode_and_says_of_which_behaviour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path / "one", behaviour="mixed", mixture=Mixture(0.3, 0.5, 0.2), episodes_per_task=10)
    folder = collect(config, FACTORY)
    episodes = read_demonstrations(folder)
    names = [episode.policy_id.partition("_")[0] for episode in episodes]
    assert names == [name for task in (0, 1) for name in allot(config.mixture, 10, 0, task)]
    assert [episode.init_state_id for episode in episodes] == [number % 6 for number in range(10)] * 2
    assert {episode.success for episode in episodes} == {True, False}
    # The expert cannot do initial states 1 and 4, and such episodes are kept too.
    experts = [episode for episode in episodes if episode.policy_id == "expert"]
    assert all(episode.success == (episode.init_state_id not in (1, 4)) for episode in experts) and experts
    printed = " ".join(capsys.readouterr().err.split())
    successes = sum(episode.success for episode in episodes)
    assert f"all: {successes} of 20 succeeded" in printed and "random: " in printed

    assert_same_files(folder, collect(settings(tmp_path / "two", **_of(config), num_workers=2), FACTORY))
    interrupted = settings(tmp_path / "three", **_of(config))
    with monkeypatched_finalize(), pytest.raises(KeyboardInterrupt):
        collect(interrupted, FACTORY)
    staged = sorted((tmp_path / "three.partial" / "episodes").iterdir())
    for path in staged[3:]:
        path.rename(tmp_path / path.name)
    assert_same_files(folder, collect(interrupted, FACTORY))


def _of(config: object) -> dict[str, object]:
    return {name: getattr(config, name) for name in ("behaviour", "mixture", "episodes_per_task")}


def test_an_expert_s_failures_are_kept_where_a_behaviour_is_asked_for(tmp_path: Path) -> None:
    folder = collect(settings(tmp_path / "demos", behaviour="expert", tasks=[0], episodes_per_task=6), FACTORY)
    episodes = read_demonstrations(folder)
    assert [episode.success for episode in episodes] == [True, False, True, True, False, True]
    assert {episode.policy_id for episode in episodes} == {"expert"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behaviour": "good"}, "behaviour is 'good'; it must be one of random, medium, expert, mixed"),
        ({"behaviour": "mixed", "policy": "random"}, "behaviour=mixed needs policy=expert, not 'random'"),
        ({"behaviour": "medium", "pace": 0.5}, "leave out pace and action_noise, or behaviour"),
        ({"behaviour": "medium", "action_noise": 0.5}, "leave out pace and action_noise, or behaviour"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        settings(tmp_path / "demos", **changes)


def test_bad_shares_are_refused() -> None:
    with pytest.raises(ReflexError, match=r"mixture.medium is -0.1; it must lie in \[0, 1\]"):
        Mixture(medium=-0.1)
    with pytest.raises(ReflexError, match=r"mixture.random, mixture.medium and mixture.expert are all 0"):
        Mixture(0.0, 0.0, 0.0)
