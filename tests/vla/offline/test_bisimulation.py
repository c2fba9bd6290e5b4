"""The bisimulation monitor: its terms by hand, representations that are good and bad, and the run that reports it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vla.data.samples import make_episode, write_dataset
from tests.vla.offline.corridor import corridor
from tests.vla.offline.test_command import config
from vla.errors import ReflexError
from vla.offline.bisimulation import BisimulationMonitor, bisimulation_metrics, bisimulation_terms, future_rewards
from vla.offline.command import train_from_logs
from vla.offline.goals import GoalSettings
from vla.offline.transitions import Transitions
from vla.policies.gaussian import GaussianPolicy
from vla.run.run_folder import RunFolder


def test_the_terms_of_two_pairs_by_hand() -> None:
    latents = np.array([[[0, 0], [3, 4]], [[1, 1], [1, 1]]], np.float32)
    following = np.array([[[0, 0], [0, 2]], [[5, 5], [6, 5]]], np.float32)
    here, rewards, later = bisimulation_terms(
        latents, following, np.array([[-1, 0], [0, 0]], np.float32), np.array([0.5, 0.0], np.float32)
    )
    assert here.tolist() == [5, 0] and rewards.tolist() == [1, 0] and later.tolist() == [1, 0]
    found = bisimulation_metrics(here, rewards, later, np.array([2.0, 0.0]))
    # (5 - 1 - 1)^2 and 0; in a unit of a fourth, 4 c = 1 and 0 c = 0 hold as they should
    assert found == pytest.approx({"loss": 4.5, "unexplained": 0.0, "order": 1.0})


def test_a_unit_that_does_not_help_leaves_everything_unexplained() -> None:
    here, rewards, later = np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.array([2.0, 3.0])
    assert bisimulation_metrics(here, rewards, later, np.array([2.0, 1.0])) == pytest.approx(
        {"loss": 4.0, "unexplained": 1.0, "order": -1.0}
    )
    same = np.ones(2)
    assert bisimulation_metrics(same, np.zeros(2), same, np.array([1.0, 2.0]))["order"] == 0.0  # all lies at one place


def test_future_rewards_end_with_the_episode() -> None:
    data = corridor(2).take(np.array([0, 1, 2, 12]))  # three steps of the first episode, and one of the next
    data = data.with_rewards(np.array([1, 2, 4, 8], np.float32))
    assert data.episodes.tolist() == [0, 0, 0, 1]
    assert future_rewards(data, 0.5).tolist() == [3, 4, 4, 8]


def policy_of(data: Transitions) -> GaussianPolicy:
    made = GaussianPolicy(data.embodiment, hidden=(8,))
    made.fit_normalisation(data.actions, data.observations)
    return made


def test_places_of_a_corridor_lie_by_their_future_rewards_and_noise_does_not() -> None:
    """Every step costs 1 until the goal: what is to come depends on the place alone, and on nothing of the noise."""
    data = corridor(200)
    data = data.with_rewards(data.rewards - 1).take(data.successes)
    steps_left = future_rewards(data, 1.0)
    known = replace(data, observations=steps_left[:, None].astype(np.float32))
    noise = np.random.default_rng(0).normal(size=(2, len(data), 1)).astype(np.float32)
    drowned = replace(data, observations=noise[0], next_observations=noise[1])
    orders = {}
    for name, given in (("known", known), ("place", data), ("noise", drowned)):
        found = BisimulationMonitor(given, 1.0, seed=0).metrics(policy_of(given))
        orders[name] = found["bisimulation/observations/order"]
        assert all(np.isfinite(value) for value in found.values()) and len(found) == 6
    assert orders["known"] > 0.99 and orders["place"] > 0.3 and abs(orders["noise"]) < 0.1


def test_a_run_reports_it_and_learns_the_same(tmp_path: Path) -> None:
    folder = str(write_dataset(tmp_path / "demos", [make_episode(seed, length=6) for seed in range(4)]))
    summary = train_from_logs(config(folder, tmp_path / "run", monitor="bisimulation", chunk_horizon=2))
    plain = train_from_logs(config(folder, tmp_path / "plain", chunk_horizon=2))
    lines = [line for line in RunFolder(tmp_path / "run", resume=True).read_metrics() if "train/loss/policy" in line]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    names = {
        f"bisimulation/{of}/{name}" for of in ("observations", "policy") for name in ("loss", "order", "unexplained")
    }
    assert all(names <= set(line) for line in lines) and names <= set(summary) and not names & set(plain)
    assert len({line["bisimulation/observations/order"] for line in lines}) == 1  # they do not learn
    assert len({line["bisimulation/policy/loss"] for line in lines}) == 4
    assert summary["loss/policy"] == plain["loss/policy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"monitor": "bisim"}, "monitor is 'bisim'; it must be one of none, bisimulation"),
        ({"monitor": "bisimulation", "goals": GoalSettings(method="hindsight")}, "with goals there are none"),
    ],
)
def test_settings_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=message):
        config("nowhere", tmp_path / "run", **changes)


def test_equal_rewards_have_nothing_to_compare() -> None:
    data = corridor(3)
    with pytest.raises(ReflexError, match="compares future rewards, and all are 0"):
        BisimulationMonitor(data.with_rewards(np.zeros(len(data))), 0.9, seed=0)
