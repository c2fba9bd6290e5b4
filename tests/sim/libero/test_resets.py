"""What an episode changed is as it was after the next reset."""

import numpy as np
import pytest

from sim.libero.environment import LiberoEnvironment
from sim.libero.suite import LiberoSuite

pytestmark = pytest.mark.libero
RESTING = np.array([0.0] * 6 + [-1.0])


def test_steps_are_counted_from_the_reset(
    between_plate_and_ramekin: LiberoEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = between_plate_and_ramekin
    monkeypatch.setattr(environment, "horizon", 3)
    for _ in range(2):
        environment.reset_to("eval", 0)
        assert [environment.advance(RESTING).truncated for _ in range(3)] == [False, False, True]


def test_a_stove_that_was_switched_on_is_off_and_its_flame_unseen(spatial: LiberoSuite) -> None:
    environment = LiberoSuite("libero_goal_fast", image_size=64).make(7)
    environment.reset_to("train", 0)
    scene = environment.scene
    predicate, (flame,) = scene.definition.goal[0], scene.definition.flames[:1]
    (knob,), state = predicate.things[0].joints, scene.flattened_state()
    progress = environment.true_progress()
    assert predicate.name == "turnon" and scene.model.site_rgba[flame.site, 3] <= 0.0
    scene.data.qpos[knob] = dict(predicate.things[0].ranges)["turnon"].threshold + 0.3
    outcome = environment.advance(np.array([0.0] * 6 + [1.0]))
    assert outcome.success and not outcome.truncated and outcome.progress == 1.0
    assert scene.model.site_rgba[flame.site, 3] > 0.0
    environment.reset_to("train", 0)
    assert scene.model.site_rgba[flame.site, 3] <= 0.0
    assert np.array_equal(scene.flattened_state(), state) and environment.true_progress() == progress
    outcome = environment.advance(RESTING)
    assert not outcome.success and outcome.progress < 0.3
    assert np.abs(environment.robot_state()[6:]).min() > 0.03, "the fingers are open again"
    environment.close()
