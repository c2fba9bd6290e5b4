"""The line of an iteration."""

from __future__ import annotations

import pytest

from vla.rl.console import iteration_line


@pytest.mark.parametrize(
    ("success", "words"),
    [
        (0.0, "every rollout failed (fine-tune on more demonstrations, or lower algo.sampling.temperature)"),
        (1.0, "every rollout succeeded"),
        (0.5, "nothing to learn from[/yellow]"),
    ],
)
def test_an_iteration_without_an_update_says_why(success: float, words: str) -> None:
    metrics = {
        "train/success_rate": success,
        "train/reward": success,
        "groups/kept": 0.0,
        "groups/dropped": 4.0,
        "update/samples": 0.0,
        "time/iteration_seconds": 1.0,
    }
    assert words in iteration_line(1, 2, metrics, 3.0)
