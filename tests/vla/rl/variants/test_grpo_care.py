"""Bonuses for likely successes, by hand."""

from __future__ import annotations

import numpy as np

from vla.rl.variants.grpo_care import likely_success_bonus


def test_likely_successes_of_a_group_get_the_bonus():
    # Group 0: successes of probability 0.2 and 0.6 (mean 0.4), a failure of 0.9. Group 1: one success.
    log_probs = np.log([0.2, 0.6, 0.9, 0.01])
    bonus = likely_success_bonus([1, 1, 0, 1], [0, 0, 0, 1], log_probs, coefficient=0.5, margin=0.0)
    assert bonus.tolist() == [0.0, 0.5, 0.0, 0.5]
    lenient = likely_success_bonus([1, 1, 0, 1], [0, 0, 0, 1], log_probs, coefficient=0.5, margin=0.25)
    assert lenient.tolist() == [0.5, 0.5, 0.0, 0.5]


def test_an_unknown_likelihood_gets_nothing_and_counts_for_nothing():
    bonus = likely_success_bonus([1, 1], [0, 0], [np.nan, np.log(0.3)], coefficient=1.0, margin=0.0)
    assert bonus.tolist() == [0.0, 1.0]
