"""Where a camera shows a point, by hand and against MuJoCo's own pictures."""

import numpy as np

from scripts.pretraining.picture_coordinates import picture_coordinates, seen_by_camera
from sim.tabletop.environment import TabletopEnvironment


def test_points_in_front_beside_and_behind() -> None:
    # A camera 2 m above the origin that looks straight down with a 90 degree view: at depth 2 it sees 2 m to each side.
    points = np.array(
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [3.0, 0.0, 0.0], [0, 0, 3.0]]
    )
    shown = seen_by_camera(points, np.array([0.0, 0.0, 2.0]), np.eye(3), 90.0)
    np.testing.assert_allclose(shown[:4], [[0, 0], [0.5, 0], [0, -0.5], [0, 0]], atol=1e-12)
    assert np.isnan(shown[4:]).all(), "outside the picture, and behind the camera"


def test_pictures_show_things_where_they_are_said_to_be() -> None:
    environment = TabletopEnvironment(task_id=5)  # an orange cube and a cyan cylinder
    hits: list[list[bool]] = [[], []]
    for index in range(5):
        environment.reset_to("train", index)
        observation = environment.render_observation()
        world = environment.world_state()
        shown = picture_coordinates(
            environment, np.stack([world.objects["orange cube"], world.objects["cyan cylinder"]])
        )
        assert np.isfinite(shown[0]).all(), "the fixed camera sees the whole table"
        for camera, image in enumerate(observation["images"].values()):
            for place, orange in zip(shown[camera], (True, False), strict=True):
                if np.isfinite(place).all():
                    x, y = ((place + 1) / 2 * 64).astype(int)
                    red, _, blue = image[y, x].astype(int)
                    hits[camera].append(red > blue + 60 if orange else blue > red + 60)
    assert np.mean(hits[0]) == 1.0 and len(hits[0]) == 10
    assert np.mean(hits[1]) >= 0.7 and len(hits[1]) >= 3, "the gripper hides some from the wrist camera"
