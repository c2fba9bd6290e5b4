"""The picture: upright, of the present state, and not changed by what is left out of it."""

from __future__ import annotations

import gc

import mujoco
import numpy as np
import pytest

from sim.contract import Image
from sim.embodiments import Camera
from sim.metaworld import rendering
from sim.metaworld.environment import MetaWorldEnvironment
from sim.metaworld.suite import MetaWorldSuite
from sim.metaworld.tasks import TASKS

pytest.importorskip("metaworld")

NUMBERS = {task.name: number for number, task in enumerate(TASKS)}


def make(name: str, image_size: int | None = 64) -> MetaWorldEnvironment:
    return MetaWorldSuite("metaworld", image_size).make(NUMBERS[name])


def goal_in(picture: Image) -> tuple[float, float]:
    """Row and column of the middle of what is bright blue: the goal of pick-place."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    rows, columns = np.nonzero((blue > 120) & (red < 80) & (green < 80))
    assert len(rows), "the goal is in the picture"
    return float(rows.mean()), float(columns.mean())


def test_the_picture_is_upright_and_not_mirrored() -> None:
    environment = make("pick-place", 128)
    environment.reset_to("train", 0)
    model, site = environment.simulation.task.model, environment.simulation.task.model.site("goal").id
    places = {}
    for name, at in {
        "middle": (0, 0.7, 0.1),
        "up": (0, 0.7, 0.2),
        "right": (0.1, 0.7, 0.1),
        "far": (0, 0.8, 0.1),
    }.items():
        environment.simulation.shared.hold(environment.simulation._part)
        model.site_pos[site] = at
        mujoco.mj_forward(model, environment.simulation.data)
        places[name] = goal_in(environment.render_observation()["images"]["image"])
    row, column = places["middle"]
    assert places["up"][0] < row - 5 and abs(places["up"][1] - column) < 3, "up is up"
    assert places["right"][1] > column + 5 and places["right"][0] > row, "the robot's right: right, and nearer"
    assert places["far"][1] > column + 5 and places["far"][0] < row, "away from the robot: right too, and farther"


def test_the_first_picture_shows_where_things_were_put() -> None:
    environment, drawn = make("drawer-open"), []
    for number in (0, 1):
        environment.reset_to("train", number)
        drawn.append(environment.render_observation()["images"]["image"])
        data = environment.simulation.data
        mujoco.mj_forward(environment.simulation.task.model, data)
        np.testing.assert_array_equal(environment.render_observation()["images"]["image"], drawn[-1])
    assert (drawn[0] != drawn[1]).any()


def test_what_is_hidden_is_never_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def episode() -> list[Image]:
        suite = MetaWorldSuite("metaworld", 128)
        environment, expert = suite.make(NUMBERS["door-open"]), suite.make_expert(NUMBERS["door-open"], 0)
        environment.reset_to("train", 0)
        pictures = [environment.render_observation()["images"]["image"]]
        for step in range(20):
            environment.advance(expert.act(environment))
            if step % 5 == 0:
                pictures.append(environment.render_observation()["images"]["image"])
        return pictures

    without = episode()
    monkeypatch.setattr(rendering, "HIDDEN_MESHES", ())
    everything = episode()
    monkeypatch.setattr(rendering, "HIDDEN_MESHES", ("l5",))
    assert all(np.array_equal(one, other) for one, other in zip(without, everything, strict=True))
    assert not np.array_equal(episode()[0], without[0]), "a part that is in view is missed"


def test_environments_of_a_task_draw_in_one_context_which_goes_with_them() -> None:
    suite = MetaWorldSuite("metaworld", 32)
    one, other = suite.make(NUMBERS["reach"]), suite.make(NUMBERS["reach"])
    for environment in (one, other):
        environment.reset_to("train", 0)
        environment.render_observation()
    shared = one.simulation.shared
    assert list(shared._renderers) == [Camera("image", 32, 32)]
    one.close()
    assert len(shared._renderers) == 1, "the other still draws in it"
    other.render_observation()
    other.close()
    gc.collect()
    assert not shared._renderers
    one.render_observation()
    del one, other, environment, shared
    gc.collect()
    assert not suite._models, "the model goes with its last environment"
