"""How far rollouts were, by hand."""

from __future__ import annotations

import numpy as np

from vla.rewards.success_progress import task_progress


def test_progress_is_that_of_the_most_similar_moment_of_another_success():
    success = np.array([[0.0], [1.0], [2.0], [3.0]])  # 0, 1/4, 1/2, 3/4 of the way
    failure = np.array([[0.1], [1.9], [0.9]])
    other_task = np.array([[3.0]])
    progress = task_progress([success, failure, other_task], [True, False, False], [0, 0, 1])
    assert progress[0].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0], "alone it is as far as it was"
    assert progress[1].tolist() == [0.0, 0.5, 0.25, 0.25], "it went back"
    assert progress[2].tolist() == [0.0, 0.0]


def test_a_success_is_measured_by_the_others():
    first, second = np.array([[0.0], [2.0]]), np.array([[0.0], [1.0], [2.0], [3.0]])
    progress = task_progress([first, second], [True, True], [0, 0])
    assert progress[0].tolist() == [0.0, 0.5, 1.0]
    assert progress[1].tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
