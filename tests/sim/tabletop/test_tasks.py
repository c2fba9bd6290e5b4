"""The ten tasks and where things start: stored results stand on them."""

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError, Split
from sim.suites import get_suite
from sim.tabletop.goals import DrawerShut, Goal, Lifted, Pushed
from sim.tabletop.scene import MovableObject, Plate, Scene
from sim.tabletop.tasks import (
    LEFT,
    NUM_INIT_STATES,
    RIGHT,
    TASKS,
    Layout,
    Task,
    get_task,
    initial_layout,
    sample_layout,
)

HORIZONS = [48, 48, 64, 64, 64, 48, 48, 128, 80, 128]

# Task -> positions, yaw and joint noise of training state 3 and evaluation state 7, each weighted by its place (1, 2,
# ...) and summed up. Generator and order of draws may never change, or results stop being comparable.
STORED = [
    (0.483021546738, -0.759055277904),
    (-1.890322574021, -0.597751880988),
    (1.394968532416, -1.700253792396),
    (0.451512178946, 0.159414508235),
    (-2.965407939015, 0.662181334572),
    (-0.676261233718, 2.125392043404),
    (1.782465054409, -0.589310030774),
    (0.276204158823, -0.940260360127),
    (-3.156441325629, 3.389969628951),
    (-0.308304177278, 0.997110366432),
]


def numbers(layout: Layout) -> np.ndarray:
    parts = (layout.objects, layout.plates, layout.drawer_x, layout.drawer_slide, layout.button, layout.joint_noise)
    return np.concatenate([np.ravel(part) for part in parts])


def test_initial_states_are_the_stored_ones() -> None:
    assert NUM_INIT_STATES == 50
    for task_id, expected in enumerate(STORED):
        layouts = [numbers(initial_layout(task_id, "train", 3)), numbers(initial_layout(task_id, "eval", 7))]
        found = [float(values @ np.arange(1, len(values) + 1)) for values in layouts]
        assert found == pytest.approx(expected, abs=1e-10), get_task(task_id).name


def footprints(scene: Scene, layout: Layout) -> list[tuple[np.ndarray, float]]:
    """Where (m) everything stands and how far it reaches, corners of turned cubes included."""
    found = [(place[:2], 0.03) for place in layout.objects] + [(place, 0.065) for place in layout.plates]
    return [*found, (layout.button, 0.045)] if scene.button else found


@pytest.mark.parametrize("task_id", range(len(TASKS)))
def test_everything_stands_apart_and_within_reach(task_id: int) -> None:
    scene = get_task(task_id).scene
    splits: tuple[Split, Split] = ("train", "eval")
    for layout in [initial_layout(task_id, split, index) for split in splits for index in range(NUM_INIT_STATES)]:
        things = footprints(scene, layout)
        for position, (place, radius) in enumerate(things):
            assert -0.12 <= place[0] <= 0.10
            assert -0.18 <= place[1] <= (-0.03 if scene.drawer else 0.18), "the drawer slides over the other half"
            for other, other_radius in things[:position]:
                assert np.linalg.norm(place - other) > radius + other_radius + 0.025
        assert layout.objects.shape == (len(scene.objects), 3) and layout.plates.shape == (len(scene.plates), 2)
        assert np.abs(layout.objects[:, 2]).max() <= 0.25
        assert abs(layout.drawer_x) <= 0.05 and layout.drawer_slide == 0.0
        assert layout.joint_noise.shape == (7,) and np.abs(layout.joint_noise).max() <= 0.03


def test_a_scene_may_hold_no_object_and_not_too_many() -> None:
    generator = np.random.default_rng(0)
    layout = sample_layout(Scene(plates=(Plate("white"),)), generator)
    assert layout.objects.shape == (0, 3) and layout.plates.shape == (1, 2) and layout.button.tolist() == [0.0, 0.0]
    with pytest.raises(EnvironmentRequestError, match="too many things"):
        sample_layout(Scene(objects=(MovableObject("red", "cube"),) * 40), generator)


@pytest.mark.parametrize("task_id", [-1, 10, True, "0", 0.0])
def test_unknown_tasks_are_refused(task_id: object) -> None:
    with pytest.raises(EnvironmentRequestError, match="0 pick_red, 1 pick_blue"):
        get_task(task_id)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 50])
def test_unknown_initial_states_are_refused(index: int) -> None:
    with pytest.raises(EnvironmentRequestError, match=rf"50 eval initial states \(0 to 49\), not number {index}"):
        initial_layout(0, "eval", index)


def test_tasks_have_their_horizons_and_directions() -> None:
    suite = get_suite("tabletop")
    assert [suite.horizon(task_id) for task_id in suite.task_ids] == HORIZONS
    assert (LEFT, RIGHT) == ((0.0, -1.0), (0.0, 1.0))
    directions = {task.name: goal.direction for task in TASKS for goal in task.goals if isinstance(goal, Pushed)}
    assert directions == {"push_left": LEFT, "push_right": RIGHT}
    assert [task.name for task in TASKS if task.any_order] == ["tidy"]


def test_tasks_of_one_scene_know_each_other() -> None:
    suite = get_suite("tabletop")
    assert [suite.tasks_of_same_scene(task_id) for task_id in suite.task_ids] == [
        *((1, 2), (0, 2), (0, 1)),
        *((4,), (3,)),
        *((6,), (5,)),
        *((), (), ()),
    ]


def test_only_placing_can_be_without_order() -> None:
    goals: tuple[Goal, ...] = (Lifted("red cube"), DrawerShut())
    with pytest.raises(AssertionError):
        Task("both", "do both", Scene(), goals, 64, any_order=True).ordered_goals(None)  # type: ignore[arg-type]
