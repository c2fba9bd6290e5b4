"""What moments of logged rollouts count, by hand; and that the loss counts them so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vla.imitation.helpers import make_episode
from tests.vla.policies.helpers import small_policy
from vla.data.advantages import ADVANTAGES_FILE, Advantages
from vla.errors import ReflexError
from vla.imitation.samples import EpisodeSamples
from vla.imitation.weighting import (
    LARGEST_WEIGHT,
    advantage_weights,
    chunk_increments,
    critic_weights,
    sample_weights,
    sirius_weights,
)


def test_a_chunk_adds_what_is_known_at_its_end() -> None:
    progress = np.array([0.0, 0.1, 0.4, 0.4, 1.0])
    every_step = chunk_increments(progress, np.arange(4), length=4, horizon=2)
    assert every_step.tolist() == pytest.approx([0.4, 0.3, 0.6, 0.6])
    # Observed at steps 0, 4, 8 and 12 of 14; chunks of 8: from 8 on they end with the episode.
    decisions = chunk_increments(progress, np.array([0, 4, 8, 12]), length=14, horizon=8)
    assert decisions.tolist() == pytest.approx([0.4, 0.3, 0.6, 0.6])


def test_weights_by_hand() -> None:
    # Task 0: increments 0, 2 (mean 1, deviation 1). Task 1: equal ones, which say nothing.
    weights = advantage_weights([np.array([0.0, 2.0]), np.array([3.0, 3.0])], [0, 1], temperature=0.5)
    raw = np.array([np.exp(-2), np.exp(2), 1.0, 1.0])
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-6)


def test_a_weight_is_bounded() -> None:
    weights = advantage_weights([np.append(np.zeros(99), 1.0)], [0], temperature=0.1)
    assert weights.max() / weights.mean() <= LARGEST_WEIGHT / (LARGEST_WEIGHT / 100)
    raw = np.append(np.full(99, np.exp(-(0.01 / np.sqrt(0.0099)) / 0.1)), LARGEST_WEIGHT)
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-5)


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=5), min_size=1, max_size=5), st.floats(0.05, 5.0))
@settings(max_examples=50, deadline=None)
def test_weights_are_positive_of_mean_one_and_grow_with_progress(parts: list[list[float]], temperature: float) -> None:
    increments = [np.array(part) for part in parts]
    weights = advantage_weights(increments, [0] * len(parts), temperature)
    values = np.concatenate(increments)
    assert (weights > 0).all() or temperature < 0.2, "an exponential may underflow to 0"
    assert weights.mean() == pytest.approx(1.0, rel=1e-4)
    order = np.argsort(values, kind="stable")
    assert (np.diff(weights[order]) >= -1e-5).all()


def test_only_successes_count_under_success() -> None:
    policy = small_policy()
    episodes = [make_episode(0), replace(make_episode(2, length=3), success=False)]
    weights = sample_weights(policy, episodes, "success", 1.0)
    assert weights is not None
    assert weights.tolist() == pytest.approx([1.5] * 6 + [0.0] * 3)
    assert sample_weights(policy, episodes, "none", 1.0) is None
    with pytest.raises(ReflexError, match="none of 1 is"):
        sample_weights(policy, episodes[1:], "progress", 1.0)


def test_a_failures_good_beginning_counts_and_what_it_did_then_does_not() -> None:
    """It sees what a success saw for half its way and then stands still before the same picture."""
    policy = small_policy()
    policy.set_normalisation(np.full(7, -0.9), np.full(7, 0.9), np.full(8, -1.0), np.full(8, 1.0))
    one, success = make_episode(0, length=16), make_episode(0, length=16)
    stuck = np.minimum(np.arange(16), 7)
    failure = replace(
        success,
        success=False,
        images={camera: frames[stuck] for camera, frames in success.images.items()},
        states=success.states[stuck],
    )
    weights = sample_weights(policy, [one, success, failure], "progress", 0.5)
    assert weights is not None
    of_failure = weights[32:]
    horizon = policy.config.chunk_horizon
    assert of_failure[0] > 1.5 * of_failure[-1]
    assert np.ptp(of_failure[7:]) == pytest.approx(0.0, abs=1e-6), "no progress is as bad as none"
    assert horizon < 8


def test_every_sample_needs_its_weight() -> None:
    with pytest.raises(ValueError, match="2 weights for 6 samples"):
        EpisodeSamples(small_policy(), [make_episode(0)], np.ones(2, np.float32))


def test_critics_weigh_moments_by_hand() -> None:
    episodes = [make_episode(0, length=3), make_episode(1, length=2)]
    advantages = Advantages(
        episodes=np.array([7, 7, 4, 4]),
        frames=np.array([0, 1, 0, 1]),
        values=np.array([1.0, -1.0, 1.0, -1.0], np.float32),
    )
    weights = critic_weights(advantages, [7, 4], episodes, temperature=1.0)
    great, small = (
        np.exp(1.0),
        np.exp(-1.0),
    )  # of deviation 1 already; of the first episode's last step nothing is known
    expected = np.array([great, small, 0, great, small])
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-5)
    with pytest.raises(ReflexError, match="of none of these episodes"):
        critic_weights(advantages, [0, 1], episodes, temperature=1.0)


def test_advantages_are_kept_in_a_file(tmp_path: Path) -> None:
    written = Advantages(np.array([0, 0]), np.array([0, 2]), np.array([1.5, -2.0], np.float32))
    written.write(tmp_path / ADVANTAGES_FILE)
    known = Advantages.read(tmp_path).of_episode(0, 4)
    np.testing.assert_array_equal(known, [1.5, np.nan, -2.0, np.nan])
    with pytest.raises(ReflexError, match=r"advantages\.parquet does not exist; give the run folder of vla offline"):
        Advantages.read(tmp_path / "elsewhere")


def flags(text: str) -> np.ndarray:
    """ "..hh." -> which steps a person made."""
    return np.array([letter == "h" for letter in text])


def test_only_what_a_person_did_counts_under_interventions() -> None:
    policy = small_policy()
    episodes = [
        replace(make_episode(0), interventions=flags("..hhh.")),
        replace(make_episode(2, length=3), interventions=flags("hhh"), success=False),
    ]
    weights = sample_weights(policy, episodes, "interventions")
    assert weights is not None
    assert weights.tolist() == pytest.approx([0, 0, 1.5, 1.5, 1.5, 0, 1.5, 1.5, 1.5])
    with pytest.raises(ReflexError, match="no column intervention"):
        sample_weights(policy, [episodes[0], make_episode(1)], "interventions")
    with pytest.raises(ReflexError, match="no person acted in it"):
        sample_weights(policy, [replace(make_episode(0), interventions=np.zeros(6, bool))], "sirius")


def test_sirius_by_hand() -> None:
    # Of 10 steps, 2 are a demonstration's, 2 interventions, 2 led to it, and 4 are the policy's other ones: shares of
    # 0.2, 0.2, 0.2 and 0.4. Wanted are 0.2, 0.5, 0 and 0.3.
    demonstration, rollout = sirius_weights([flags("hh"), flags("....hh..")], steps_before=2)
    assert demonstration.tolist() == pytest.approx([1.0, 1.0])
    assert rollout.tolist() == pytest.approx([0.75, 0.75, 0.0, 0.0, 2.5, 2.5, 0.75, 0.75])


def test_sirius_at_its_ends() -> None:
    (only,) = sirius_weights([flags(".hh")], steps_before=5)
    assert only.tolist() == pytest.approx([0.0, 1.5, 1.5]), "no other policy steps: interventions have it all"
    demonstration, rollout = sirius_weights([flags("hhh.h"), flags(".h")], steps_before=1)
    # Shares: demonstrations 4/7, interventions 1/7, of no account 2/7; interventions want the 3/7 left, not a half.
    assert demonstration.tolist() == pytest.approx([1, 1, 1, 0, 1]), "a step in which the person had lost the arm"
    assert rollout.tolist() == pytest.approx([0.0, 3.0])


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=6), st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_sirius_has_mean_one_and_never_prefers_the_policy_to_a_person_by_share(
    episodes: list[list[bool]], steps_before: int
) -> None:
    by_person = [np.array(steps) for steps in episodes]
    if not any(steps[1:].any() and not steps[0] for steps in by_person):
        return  # no intervention
    weights = sirius_weights(by_person, steps_before)
    whole, person = np.concatenate(weights), np.concatenate(by_person)
    assert (whole >= 0).all() and whole.mean() == pytest.approx(1.0)
    assert whole[person].sum() >= whole[~person].sum() - 1e-9
    for steps, of_steps in zip(by_person, weights, strict=True):
        for start in np.flatnonzero(steps[1:] & ~steps[:-1]) + 1:
            led = slice(max(0, start - steps_before), start)
            assert not of_steps[led][~steps[led]].any()
