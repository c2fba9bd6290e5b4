"""Bins and quantile normalisation, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vla.policies.helpers import small_policy
from vla.errors import ReflexError
from vla.policies.normalisation import Normalisation, normalise, unnormalise
from vla.policies.tokens.tokenizer import ActionTokenizer


def test_four_uniform_bins_by_hand() -> None:
    tokenizer = ActionTokenizer(num_bins=4)
    np.testing.assert_allclose(tokenizer.centres, [-0.75, -0.25, 0.25, 0.75])
    values = np.array([-1.0, -0.51, -0.49, -0.01, 0.0, 0.49, 0.5, 1.0])
    assert tokenizer.encode(values).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_values_outside_fall_in_the_end_bins() -> None:
    assert ActionTokenizer(256).encode(np.array([-7.0, 7.0])).tolist() == [0, 255]


def test_openvla_layout_has_one_interval_less_than_tokens() -> None:
    tokenizer = ActionTokenizer(num_bins=5, layout="openvla")  # edges -1, -.5, 0, .5, 1
    np.testing.assert_allclose(tokenizer.centres, [-0.75, -0.25, 0.25, 0.75, 0.75])
    assert tokenizer.encode(np.array([-1.0, -0.6, -0.5, 0.1, 0.9, 1.0])).tolist() == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("layout", ["uniform", "openvla"])
def test_published_bin_centres_survive_a_round_trip(layout: str) -> None:
    tokenizer = ActionTokenizer(256, layout)  # type: ignore[arg-type] # parametrised
    tokens = np.arange(255)
    assert (tokenizer.encode(tokenizer.decode(tokens)) == tokens).all()


@given(st.floats(-1, 1), st.integers(2, 300))
def test_a_round_trip_moves_a_value_by_at_most_half_a_bin(value: float, bins: int) -> None:
    tokenizer = ActionTokenizer(bins)
    decoded = tokenizer.centres[tokenizer.encode(np.array([value]))][0]
    assert abs(decoded - value) <= 1.0 / bins + 1e-9


def test_normalisation_by_hand() -> None:
    low, high = np.array([0.0, -2.0]), np.array([4.0, 2.0])
    np.testing.assert_allclose(normalise(np.array([1.0, 3.0]), low, high), [-0.5, 1.5], atol=1e-7)
    np.testing.assert_allclose(unnormalise(np.array([-0.5, 1.5]), low, high), [1.0, 3.0], atol=1e-7)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ReflexError, match="NaN"):
        ActionTokenizer().encode(np.array([np.nan]))
    with pytest.raises(ReflexError, match=r"0 \.\. 255"):
        ActionTokenizer().decode(np.array([256]))
    with pytest.raises(ReflexError, match=r"below action_q01 in dimensions \[1\]"):
        Normalisation.create([0, 1], [1, 0], [0], [1])
    with pytest.raises(ReflexError, match="NaN"):
        Normalisation.create([np.nan], [1], [0], [1])


def test_policy_normalises_every_dimension_but_the_gripper() -> None:
    policy = small_policy()
    low = np.full(7, -0.2)
    policy.set_normalisation(low, -low, np.zeros(8), np.ones(8))
    actions = np.zeros((1, 4, 7), np.float32)
    actions[0, 0] = [0.2, -0.2, 0.1, 0.0, 0.5, -0.5, 1.0]
    actions[0, 1, 6] = -1.0
    tokens = policy.tokenize_actions(actions).reshape(4, 7)
    assert tokens[0].tolist() == [255, 0, 192, 128, 255, 0, 255]
    assert tokens[1].tolist() == [128] * 6 + [0]
    decoded = policy.detokenize(tokens.reshape(1, 28))
    np.testing.assert_allclose(decoded[0, 0], [0.2, -0.2, 0.1, 0.0, 0.2, -0.2, 1.0], atol=0.2 / 256 + 0.004)
    np.testing.assert_allclose(decoded[0, 0, :4], [0.2, -0.2, 0.1, 0.0], atol=0.2 / 256 + 1e-6)


def test_policy_refuses_misshapen_actions_and_quantiles() -> None:
    policy = small_policy()
    with pytest.raises(ReflexError, match=r"expected \[B, 4, 7\]"):
        policy.tokenize_actions(np.zeros((2, 8, 7)))
    with pytest.raises(ReflexError, match="6 action and 8 state"):
        policy.set_normalisation(np.zeros(6), np.ones(6), np.zeros(8), np.ones(8))
