"""Groups that go on from demonstrations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.vla.data.samples import make_episode
from tests.vla.rl.helpers import components, small_config
from vla.errors import ReflexError
from vla.rl.loop import train
from vla.rl.sampling import choose_groups
from vla.rl.variants.demonstration_starts import Lead, leads_of, with_demonstration_starts


def test_starts_lie_along_each_demonstration():
    episode = replace(make_episode(0, length=10), task_id=2, split="train", init_state_id=7)
    leads = leads_of({2: [episode]})
    assert [lead.start for lead in leads] == [(2, 7, 2), (2, 7, 4), (2, 7, 6), (2, 7, 8)]
    np.testing.assert_allclose(np.array(leads[1].actions), episode.actions[:4])


@pytest.mark.parametrize("changes", [{"init_state_id": -1}, {"split": "eval"}])
def test_a_demonstration_from_nowhere_known_is_refused(changes: dict):
    episode = replace(make_episode(0, length=10), split="train", init_state_id=7)
    with pytest.raises(ReflexError, match="Record some with vla collect"):
        leads_of({0: [replace(episode, **changes)]})


def test_the_share_is_kept_and_failing_starts_are_drawn_more_often():
    action = (0.0,) * 7
    leads = [Lead(0, 5, (action,)), Lead(1, 5, (action, action))]
    rates = {leads[0].start: 1.0, leads[1].start: 0.0}
    drawn = []
    for iteration in range(40):
        groups = choose_groups({0: 50, 1: 50}, 8, 4, seed=0, iteration=iteration)
        moved = with_demonstration_starts(groups, leads, 0.25, rates, seed=0, iteration=iteration, sampling_round=0)
        assert moved[:6] == groups[:6] and all(request.lead for request in moved[6:])
        assert [request.seeds for request in moved] == [request.seeds for request in groups]
        drawn += [request.task_id for request in moved[6:]]
        again = with_demonstration_starts(groups, leads, 0.25, rates, seed=0, iteration=iteration, sampling_round=0)
        assert again == moved
    # Two of two without replacement: both, each time. One of two: nearly always the failing one.
    assert drawn.count(0) == drawn.count(1) == 40
    few = [
        with_demonstration_starts(
            choose_groups({0: 50}, 4, 2, seed=0, iteration=iteration),
            leads, 0.25, rates, seed=0, iteration=iteration, sampling_round=0,
        )[-1].task_id
        for iteration in range(60)
    ]  # fmt: skip
    assert few.count(1) > 55
    assert with_demonstration_starts(groups, [], 0.5, {}, seed=0, iteration=0, sampling_round=0) == groups


def test_starts_need_demonstrations(tmp_path):
    with pytest.raises(ReflexError, match="no demonstration to go on from"):
        train(small_config(tmp_path / "run", algo_variants=["demonstration_starts"]), components())
